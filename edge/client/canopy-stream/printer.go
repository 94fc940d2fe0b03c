package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"canopy/edge/client"
)

// colours of a terminal
const (
	plain  = "\x1b[0m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
)

// printer writes events, each with one Write.
type printer struct {
	out     io.Writer
	pretty  bool
	colours bool
	buffer  bytes.Buffer
}

func newPrinter(out io.Writer, pretty, colours bool) *printer {
	return &printer{out: out, pretty: pretty, colours: colours}
}

// terminal says whether people read what is written to w.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// style says whether events are pretty.
func (c *commandLine) style(out io.Writer) bool { return c.Pretty || !c.Raw && terminal(out) }

// colours says whether pretty events have them: only on a terminal that knows them and
// whose user has not declined (no-color.org).
func (c *commandLine) colours(out io.Writer) bool {
	return terminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// print writes an event.
func (p *printer) print(e client.Event) error {
	p.buffer.Reset()
	switch {
	case !p.pretty && e.JSON == nil:
		return nil // what only the client tells of goes to standard error
	case !p.pretty:
		p.buffer.Write(e.JSON)
		p.buffer.WriteByte('\n')
	case e.Gap != nil:
		p.gap(e)
	default:
		p.event(e)
	}
	_, err := p.out.Write(p.buffer.Bytes())
	return err
}

// event is a line of what matters and the data below it.
func (p *printer) event(e client.Event) {
	if !e.Time.IsZero() {
		p.add(dim, e.Time.Local().Format(time.DateTime+".000")+" ")
	}
	p.add(bold, clean(e.Device))
	if e.Sender != "" && e.Sender != e.Device {
		p.add(dim, " by "+clean(e.Sender))
	}
	p.add(cyan, " "+clean(e.Subject))
	p.add(dim, " "+clean(strings.TrimPrefix(e.Type, "io.drogue."))+" "+clean(e.ContentType))
	p.buffer.WriteByte('\n')
	p.data(e)
	p.add(dim, "  "+clean(e.Cursor))
	p.buffer.WriteByte('\n')
}

// data is indented; what is no text is only counted.
func (p *printer) data(e client.Event) {
	switch {
	case len(e.Data) == 0:
	case e.Binary && (!utf8.Valid(e.Data) || bytes.ContainsRune(e.Data, 0)):
		fmt.Fprintf(&p.buffer, "  (%d bytes)\n", len(e.Data))
	case !e.Binary && e.Data[0] != '"':
		var indented bytes.Buffer
		if json.Indent(&indented, e.Data, "  ", "  ") != nil {
			indented.Write(e.Data) // cannot be: it was read as JSON
		}
		p.buffer.WriteString("  " + cleanJSON(indented.String()) + "\n")
	default:
		for line := range strings.Lines(e.Text()) {
			p.buffer.WriteString("  " + clean(strings.TrimRight(line, "\r\n")) + "\n")
		}
	}
}

func (p *printer) gap(e client.Event) {
	p.add(yellow, "events may be missing: "+clean(e.Gap.Message))
	p.buffer.WriteByte('\n')
	p.add(dim, "  behind "+clean(e.Gap.After)+", before "+clean(e.Gap.Before))
	p.buffer.WriteByte('\n')
}

// add writes text in a colour.
func (p *printer) add(colour, text string) {
	if p.colours && text != "" {
		text = colour + text + plain
	}
	p.buffer.WriteString(text)
}

// clean keeps what devices send from steering the terminal.
func clean(text string) string {
	for _, r := range text {
		if !strconv.IsPrint(r) && r != '\t' {
			quoted := strconv.Quote(text)
			return quoted[1 : len(quoted)-1]
		}
	}
	return text
}

// cleanJSON is clean for JSON, which may hold such characters as they are, in its strings
// only, and stays the same JSON.
func cleanJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\n', strconv.IsPrint(r) && r != utf8.RuneError:
			b.WriteRune(r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
