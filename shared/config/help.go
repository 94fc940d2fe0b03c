package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
)

const helpWidth = 90

const helpIntro = `
Settings are environment variables. In the file they are nested and lower case:
HTTP__BIND_ADDR is bind_addr under http. <N> is a number from 0 on. Durations are
written as 30s, 2m or 24h; bytes may end in KiB, MiB or GiB.
`

// writeHelp writes every setting with its type, default and help, in groups.
func writeHelp(out io.Writer) error {
	var b bytes.Buffer
	b.WriteString(helpIntro)
	t := reflect.TypeFor[Config]()
	for i, prefix := range prefixes() {
		fmt.Fprintf(&b, "\n%s\n", t.Field(i).Tag.Get("help"))
		for _, s := range settings {
			if strings.HasPrefix(s.name, prefix) {
				fmt.Fprintf(&b, "\n  %s  (%s)\n", s.name, s.describe())
				wrap(&b, "      ", s.help)
			}
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}

func (s setting) describe() string {
	parts := []string{s.kind()}
	if s.secret {
		parts = append(parts, "secret")
	}
	if s.def != "" {
		parts = append(parts, "default "+s.def)
	}
	return strings.Join(parts, ", ")
}

func (s setting) kind() string {
	switch {
	case s.typ == durationType:
		return "duration"
	case s.bytes:
		return "bytes"
	}
	switch s.typ.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "number"
	case reflect.Slice:
		return "list"
	default:
		return "text"
	}
}

// wrap writes text in lines of at most helpWidth, each after indent.
func wrap(b *bytes.Buffer, indent, text string) {
	line := indent
	for _, word := range strings.Fields(text) {
		if line != indent && len(line)+1+len(word) > helpWidth {
			fmt.Fprintln(b, line)
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	fmt.Fprintln(b, line)
}
