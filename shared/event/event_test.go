package event

import (
	"errors"
	"sort"
	"strings"
	"testing"
	"time"
)

func TestCursorComesBack(t *testing.T) {
	for _, c := range []Cursor{{}, {1, 2}, {LogOf(time.Now()), 18446744073709551615}, {1<<64 - 1, 42}} {
		got, err := ParseCursor(c.String())
		if err != nil || got != c {
			t.Errorf("ParseCursor(%q) = %v, %v; want %v", c, got, err, c)
		}
	}
}

func TestCursorsSortAsText(t *testing.T) {
	list := []string{Cursor{7, 9}.String(), Cursor{7, 10}.String(), Cursor{7, 1 << 40}.String(), Cursor{8, 1}.String()}
	if !sort.StringsAreSorted(list) {
		t.Errorf("not sorted: %v", list)
	}
}

func TestParseCursorRefusesOtherText(t *testing.T) {
	good := Cursor{10, 2}.String()
	for _, s := range []string{"", "earliest", good + "0", good[1:], strings.ToUpper(good), strings.Replace(good, "-", "_", 1),
		"+" + good[1:], strings.Repeat("9", CursorLen), good[:17] + "99999999999999999999", good[:17] + "+" + good[18:]} {
		if c, err := ParseCursor(s); !errors.Is(err, ErrCursor) {
			t.Errorf("ParseCursor(%q) = %v, %v; want ErrCursor", s, c, err)
		}
	}
}

func TestAppendCursorAddsTheLastMember(t *testing.T) {
	c := Cursor{0x18, 1234567890123}
	got := string(AppendCursor([]byte("x"), []byte(`{"id":"1"}`), c))
	if want := `x{"id":"1","cursor":"` + c.String() + `"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(got) != 1+len(`{"id":"1"}`)+CursorSuffixLen {
		t.Errorf("CursorSuffixLen is %d, but the event grew by %d", CursorSuffixLen, len(got)-1-len(`{"id":"1"}`))
	}
	if seq := LastSequence([]byte(got)); seq != c.Sequence {
		t.Errorf("LastSequence = %d, want %d", seq, c.Sequence)
	}
	for _, c := range []Cursor{c, {}, {1<<64 - 1, 1<<64 - 1}, {0x0123456789abcdef, 7}} {
		if back := LastCursor(AppendCursor(nil, []byte(`{"a":0}`), c)); back != c {
			t.Errorf("LastCursor = %v, want %v", back, c)
		}
	}
}

func FuzzEscapeHeaderIsOneHeaderLineAndComesBack(f *testing.F) {
	f.Add("temperature")
	f.Add("50% of\r\nNats-Msg-Id: x")
	f.Fuzz(func(t *testing.T, s string) {
		escaped := EscapeHeader(s)
		if strings.ContainsAny(escaped, " \r\n\t\x00") {
			t.Fatalf("EscapeHeader(%q) = %q", s, escaped)
		}
		if back, err := UnescapeHeader(escaped); err != nil || back != s {
			t.Fatalf("EscapeHeader(%q) = %q, which comes back as %q, %v", s, escaped, back, err)
		}
	})
}

func BenchmarkAppendCursor(b *testing.B) {
	json := []byte(`{"specversion":"1.0","id":"1","data":"` + strings.Repeat("x", 400) + `"}`)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendCursor(buf[:0], json, Cursor{1, 2})
	}
}
