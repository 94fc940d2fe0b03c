// Package report writes what a bench has measured so that somebody who does not know the
// code can read it.
package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Report is one run of the bench.
type Report struct {
	Command string   // that repeats the run
	Facts   []Fact   // machine, date, commit
	Notes   []string // what holds for all rows, one paragraph each
	Rows    []Row

	// Prefix is what the names of the pictures' files begin with; empty means that the
	// report shows none.
	Prefix string
}

// Fact is one line about where and when.
type Fact struct{ Name, Value string }

// Row is one measured claim.
type Row struct {
	Title   string
	What    string // what was done, and how it was counted
	Results []Result
	Shows   []string // in words, for who does not know the figures' names
	Head    []string // of the table of raw counts
	Raw     [][]string

	Pictures []Picture
}

// Number is the one that the row's title begins with; a row without one is behind all
// that have one.
func (row Row) Number() int {
	digits, _, _ := strings.Cut(row.Title, ".")
	if n, err := strconv.Atoi(digits); err == nil {
		return n
	}
	return math.MaxInt
}

// Result is one figure of a row, measured once per round.
type Result struct {
	Name   string
	Values []float64
	Unit   string // behind each value; empty for a ratio
	Digits int    // behind the point
	Goal   *Goal  // nil: shown without one
}

// Goal bounds a result's median.
type Goal struct {
	AtLeast bool // else at most
	Value   float64
}

// Median is the middle of the values, or the mean of the two in the middle. It is 0
// without values.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// String is the median with its spread, the smallest and the largest value.
func (r Result) String() string {
	if len(r.Values) == 0 {
		return "not measured"
	}
	if len(r.Values) == 1 {
		return r.value(r.Values[0])
	}
	return fmt.Sprintf("%s (%.*f to %.*f)", r.value(Median(r.Values)),
		r.Digits, slices.Min(r.Values), r.Digits, slices.Max(r.Values))
}

func (r Result) value(v float64) string {
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", r.Digits, v, r.Unit))
}

// Verdict says what the goal is and whether the median meets it; "" without a goal.
func (r Result) Verdict() string {
	if r.Goal == nil {
		return ""
	}
	sign, met := "≤", Median(r.Values) <= r.Goal.Value
	if r.Goal.AtLeast {
		sign, met = "≥", Median(r.Values) >= r.Goal.Value
	}
	verdict := "**missed**"
	if met {
		verdict = "met"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %g %s", sign, r.Goal.Value, r.Unit)) + ": " + verdict
}

// Write writes the report as Markdown.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Canopy's bench: results\n\nMade by `" + r.Command + "`; do not edit.\n\n")
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "- %s: %s\n", f.Name, f.Value)
	}
	for _, note := range r.Notes {
		b.WriteString("\n" + note + "\n")
	}
	if o := r.overview(); r.Prefix != "" && len(o.Bars) > 1 {
		image(&b, o.Title, r.Prefix+".svg")
	}
	for _, row := range r.Rows {
		row.write(&b, r.Prefix)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// image shows a picture that lies beside the report.
func image(b *strings.Builder, title, file string) { fmt.Fprintf(b, "\n![%s](%s)\n", title, file) }

func (row Row) write(b *strings.Builder, prefix string) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n", row.Title, row.What)
	if len(row.Results) > 0 {
		b.WriteByte('\n')
		line(b, []string{"figure", "median (smallest to largest)", "goal"})
		line(b, []string{"---", "---", "---"})
	}
	for _, r := range row.Results {
		line(b, []string{r.Name, r.String(), r.Verdict()})
	}
	if len(row.Shows) > 0 {
		b.WriteString("\nWhat this run shows:\n\n- " + strings.Join(row.Shows, "\n- ") + "\n")
	}
	for i, p := range row.Pictures {
		if prefix != "" {
			image(b, p.Title, row.file(prefix, i))
		}
	}
	if len(row.Raw) == 0 {
		return
	}
	b.WriteString("\nRaw counts:\n\n")
	line(b, row.Head)
	line(b, slices.Repeat([]string{"---"}, len(row.Head)))
	for _, cells := range row.Raw {
		line(b, cells)
	}
}

func line(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// Count writes n with commas between thousands.
func Count(n uint64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
