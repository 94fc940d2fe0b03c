package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// units of a size in bytes; the longest suffix that fits comes first.
var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

// parse turns text from the environment into the setting's type. Its error says what was
// expected, and not what was there.
func (s setting) parse(text string) (any, error) {
	switch {
	case s.typ == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, errors.New("expected a duration such as 30s, 2m or 24h")
		}
		return d, nil
	case s.bytes:
		return parseBytes(text)
	}
	switch s.typ.Kind() {
	case reflect.String:
		return text, nil
	case reflect.Bool:
		return parseBool(text)
	case reflect.Int, reflect.Int64:
		return s.parseInt(text)
	case reflect.Slice:
		return splitList(text), nil
	default:
		return nil, fmt.Errorf("expected nothing: type %s cannot be set", s.typ)
	}
}

func parseBool(text string) (any, error) {
	switch text {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return nil, errors.New("expected true or false")
}

func (s setting) parseInt(text string) (any, error) {
	n, err := strconv.ParseInt(text, 10, s.typ.Bits())
	if err != nil {
		return nil, errors.New("expected a whole number")
	}
	return reflect.ValueOf(n).Convert(s.typ).Interface(), nil
}

func parseBytes(text string) (any, error) {
	wrong := errors.New("expected a number of bytes, which may end in KiB, MiB or GiB")
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n > math.MaxInt64/u.bytes || n < math.MinInt64/u.bytes {
			return nil, wrong
		}
		return n * u.bytes, nil
	}
	return nil, wrong
}

// splitList splits at commas outside brackets, so that a pattern may hold {2,3}, [a,b] and
// (a,b). A backslash takes a bracket its meaning. Blanks around elements are dropped, and
// empty elements with them.
func splitList(text string) []string {
	list := []string{}
	add := func(s string) {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	depth, start := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth = max(depth-1, 0)
		case ',':
			if depth == 0 {
				add(text[start:i])
				start = i + 1
			}
		}
	}
	add(text[start:])
	return list
}

// convert turns a value of the YAML file into the setting's type. Lists, numbers and true
// and false may be native; everything else is text as in the environment.
func (s setting) convert(value any) (any, error) {
	switch v := value.(type) {
	case string:
		return s.parse(v)
	case bool:
		if s.typ.Kind() == reflect.Bool {
			return v, nil
		}
	case int, int64, uint64:
		if k := s.typ.Kind(); (k == reflect.Int || k == reflect.Int64) && s.typ != durationType {
			return s.parse(fmt.Sprint(v))
		}
	case []any:
		if s.typ.Kind() == reflect.Slice {
			return texts(v)
		}
	}
	return nil, s.mismatch()
}

// mismatch says what a YAML value should have been instead of one of another type.
func (s setting) mismatch() error {
	switch s.typ.Kind() {
	case reflect.Slice:
		return errors.New("expected a list of texts")
	case reflect.String:
		return errors.New("expected text: put it into quotes")
	default:
		_, err := s.parse("")
		return err
	}
}

func texts(values []any) (any, error) {
	list := make([]string, len(values))
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			return nil, errors.New("expected a list of texts: put each into quotes")
		}
		list[i] = text
	}
	return list, nil
}

const maxShown = 100

// show is a value as a problem may print it: quoted, cut, without secrets.
func (s setting) show(value any) string {
	if s.secret {
		return "(hidden)"
	}
	text := fmt.Sprint(value)
	// A URL may carry a password, or a key.
	if base, _, ok := strings.Cut(text, "?"); ok && strings.HasSuffix(s.name, "URL") {
		text = base + "?xxxxx"
	}
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		text = "xxxxx" + text[i:]
	}
	if len(text) > maxShown {
		return fmt.Sprintf("%q…", text[:maxShown])
	}
	return strconv.Quote(text)
}
