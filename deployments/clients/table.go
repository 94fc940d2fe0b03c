package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// row is what came of a client.
type row struct {
	client client
	absent error   // why it could not be installed; then nothing was tried
	errs   []error // by case; nil where it passed or cannot
}

// counts are the cases that passed and failed. A client that is absent fails in each that
// it has a way to do.
func (r row) counts() (passed, failed int) {
	for i, c := range cases {
		switch {
		case r.client.cannot[c.name] != "":
		case r.absent != nil || r.errs[i] != nil:
			failed++
		default:
			passed++
		}
	}
	return passed, failed
}

// cell is the result of one case in the table.
func (r row) cell(i int) string {
	switch {
	case r.client.cannot[cases[i].name] != "":
		return "–"
	case r.absent != nil:
		return "absent"
	case r.errs[i] != nil:
		return "FAILED"
	}
	return "ok"
}

// printTable writes the table, what its words mean, and why something failed. It gives the number
// of failures.
func printTable(out io.Writer, rows []row) int {
	// Errors in writing show by themselves.
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(w, "client\tversion")
	for _, c := range cases {
		_, _ = fmt.Fprint(w, "\t"+c.name)
	}
	_, _ = fmt.Fprintln(w)
	passed, failed := 0, 0
	for _, r := range rows {
		p, f := r.counts()
		passed, failed = passed+p, failed+f
		_, _ = fmt.Fprint(w, r.client.name+"\t"+r.client.version)
		for i := range cases {
			_, _ = fmt.Fprint(w, "\t"+r.cell(i))
		}
		_, _ = fmt.Fprintln(w)
	}
	_ = w.Flush()
	var text strings.Builder
	text.WriteByte('\n')
	for _, c := range cases {
		fmt.Fprintf(&text, "  %-8s %s\n", c.name, c.says)
	}
	for _, r := range rows {
		for _, c := range cases {
			if reason := r.client.cannot[c.name]; reason != "" {
				fmt.Fprintf(&text, "  –        %s, %s: %s\n", r.client.name, c.name, reason)
			}
		}
	}
	for _, r := range rows {
		if r.absent != nil {
			fmt.Fprintf(&text, "\n%s is absent: %v\n", r.client.name, r.absent)
		}
		for i, err := range r.errs {
			if err != nil {
				fmt.Fprintf(&text, "\n%s, %s: %v\n", r.client.name, cases[i].name, err)
			}
		}
	}
	fmt.Fprintf(&text, "\n%d passed, %d failed\n", passed, failed)
	_, _ = io.WriteString(out, text.String())
	return failed
}
