package ws

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestHeadersTakeTheShortestForm(t *testing.T) {
	for _, c := range []struct {
		n    int
		want []byte
	}{
		{0, []byte{0x81, 0}},
		{125, []byte{0x81, 125}},
		{126, []byte{0x81, 126, 0, 126}},
		{65535, []byte{0x81, 126, 0xFF, 0xFF}},
		{65536, []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	} {
		got := AppendHeader(nil, OpText, c.n)
		if !bytes.Equal(got, c.want) || HeaderLen(c.n) != len(got) {
			t.Errorf("header of %d bytes is % x, HeaderLen says %d; want % x", c.n, got, HeaderLen(c.n), c.want)
		}
	}
}

func TestFramesAreAppended(t *testing.T) {
	got := AppendFrame([]byte("before"), OpPong, []byte("tag"))
	if want := "before\x8a\x03tag"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCloseFramesKeepTheirLimits(t *testing.T) {
	long := strings.Repeat("x", 122) + "é" // 124 bytes: the last character does not fit
	for _, c := range []struct {
		name   string
		code   uint16
		reason string
		want   string
	}{
		{"plain", CloseGoingAway, "drain", "\x03\xe9drain"},
		{"no reason", CloseNormal, "", "\x03\xe8"},
		{"full", ClosePolicy, strings.Repeat("y", 123), "\x03\xf0" + strings.Repeat("y", 123)},
		{"cut between bytes", ClosePolicy, strings.Repeat("y", 200), "\x03\xf0" + strings.Repeat("y", 123)},
		{"cut before a character", ClosePolicy, long, "\x03\xf0" + strings.Repeat("x", 122)},
		{"not UTF-8", ClosePolicy, "a\xffb", "\x03\xf0a\uFFFDb"},
		{"no status", CloseNoStatus, "never sent", ""},
		{"abnormal", CloseAbnormal, "never sent", ""},
		{"TLS", closeTLS, "never sent", ""},
	} {
		got := AppendClose(nil, c.code, c.reason)
		if string(got[2:]) != c.want || got[0] != 0x88 || int(got[1]) != len(c.want) {
			t.Errorf("%s: got % x, want payload %q", c.name, got, c.want)
		}
	}
}

func FuzzCloseFramesAreAlwaysWellFormed(f *testing.F) {
	f.Add(uint16(1000), "bye")
	f.Add(uint16(1013), strings.Repeat("日本", 40))
	f.Add(uint16(1005), "\xff\xfe")
	f.Fuzz(func(t *testing.T, code uint16, reason string) {
		b := AppendClose(nil, code, reason)
		if len(b) > 2+maxControl || int(b[1]) != len(b)-2 {
			t.Fatalf("frame of %d bytes announces %d", len(b), b[1])
		}
		if len(b) == 2 {
			return
		}
		if binary.BigEndian.Uint16(b[2:]) != code || !utf8.Valid(b[4:]) {
			t.Fatalf("frame % x for code %d", b, code)
		}
	})
}

func TestOnlyCodesThatMayStandOnTheWireAreReceived(t *testing.T) {
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		if !mayReceive(code) {
			t.Errorf("%d is refused", code)
		}
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		if mayReceive(code) {
			t.Errorf("%d is taken", code)
		}
	}
}
