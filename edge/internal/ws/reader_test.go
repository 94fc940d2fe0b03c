package ws

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// recorder is a Handler that writes down what it hears.
type recorder struct {
	heard []string
	why   string // reason of the last violation
}

func (r *recorder) add(format string, v ...any) { r.heard = append(r.heard, fmt.Sprintf(format, v...)) }

func (r *recorder) OnMessage(text bool, payload []byte) {
	kind := "binary"
	if text {
		kind = "text"
	}
	r.add("%s %x", kind, payload)
}
func (r *recorder) OnPing(payload []byte)              { r.add("ping %x", payload) }
func (r *recorder) OnPong(payload []byte)              { r.add("pong %x", payload) }
func (r *recorder) OnClose(code uint16, reason string) { r.add("close %d %s", code, reason) }
func (r *recorder) OnViolation(code uint16, reason string) {
	r.add("violation %d", code)
	r.why = reason
}
func (r *recorder) OnWritten(int)   {}
func (r *recorder) OnUnread(Unread) {}
func (r *recorder) OnGone(error)    { r.add("gone") }

// readAll gives the pieces to a fresh reader and returns what it reported and what it
// still holds.
func readAll(max int, pieces ...[]byte) ([]string, *partial) {
	var h recorder
	held := h.read(max, pieces...)
	return h.heard, held
}

// read lets h hear what a fresh reader makes of the pieces, and returns what it holds.
func (h *recorder) read(max int, pieces ...[]byte) *partial {
	var r reader
	for _, piece := range pieces {
		data := bytes.Clone(piece)
		for len(data) > 0 {
			rest, open := r.step(data, max, h)
			if !open {
				return r.part
			}
			data = rest
		}
	}
	return r.part
}

const fin, masked = 0x80, 0x80

// frame builds a client's frame: first is FIN, RSV and opcode.
func frame(first byte, payload string) []byte {
	key := [4]byte{0x37, 0xFA, 0x21, 0x3D}
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, masked|byte(n))
	case n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	b = append(b, key[:]...)
	at := len(b)
	b = append(b, payload...)
	unmaskPlainly(b[at:], key)
	return b
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// rules is every rule of reading, as bytes and what the owner hears.
var rules = []struct {
	name  string
	bytes []byte
	want  []string
}{
	{"text", frame(fin|0x1, "hi"), []string{"text 6869"}},
	{"binary", frame(fin|0x2, "\x00\xff"), []string{"binary 00ff"}},
	{"empty text", frame(fin|0x1, ""), []string{"text "}},
	{"empty binary", frame(fin|0x2, ""), []string{"binary "}},
	{"empty fragments", join(frame(0x1, ""), frame(0x0, ""), frame(fin, "")), []string{"text "}},
	{"fragments", join(frame(0x1, "ab"), frame(0x0, "c"), frame(fin, "d")), []string{"text 61626364"}},
	{"ping inside fragments", join(frame(0x2, "ab"), frame(fin|0x9, "p"), frame(fin, "c")), []string{"ping 70", "binary 616263"}},
	{"two messages", join(frame(fin|0x1, "a"), frame(fin|0x2, "b")), []string{"text 61", "binary 62"}},
	{"16 bit length", frame(fin|0x2, strings.Repeat("z", 300)), []string{"binary " + strings.Repeat("7a", 300)}},
	{"longest ping", frame(fin|0x9, strings.Repeat("z", 125)), []string{"ping " + strings.Repeat("7a", 125)}},
	{"pong", frame(fin|0xA, "x"), []string{"pong 78"}},
	{"length not minimal", []byte{fin | 0x2, masked | 127, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'q'}, []string{"binary 71"}},

	{"close", frame(fin|0x8, "\x03\xe8bye"), []string{"close 1000 bye"}},
	{"close without code", frame(fin|0x8, ""), []string{"close 1005 "}},
	{"nothing after close", join(frame(fin|0x8, "\x03\xe8"), frame(fin|0x1, "late")), []string{"close 1000 "}},
	{"close of one byte", frame(fin|0x8, "\x03"), []string{"violation 1002"}},
	{"close with 999", frame(fin|0x8, "\x03\xe7"), []string{"violation 1002"}},
	{"close with 1005", frame(fin|0x8, "\x03\xed"), []string{"violation 1002"}},
	{"close with bad reason", frame(fin|0x8, "\x03\xe8\xff"), []string{"violation 1007"}},

	{"RSV1", frame(fin|0x40|0x1, "x"), []string{"violation 1002"}},
	{"RSV2", frame(fin|0x20|0x1, "x"), []string{"violation 1002"}},
	{"RSV3", frame(fin|0x10|0x9, "x"), []string{"violation 1002"}},
	{"opcode 3", frame(fin|0x3, ""), []string{"violation 1002"}},
	{"opcode 11", frame(fin|0xB, ""), []string{"violation 1002"}},
	{"not masked", []byte{fin | 0x1, 1, 'x', 0, 0, 0, 0}, []string{"violation 1002"}},
	{"fragmented ping", frame(0x9, "x"), []string{"violation 1002"}},
	{"fragmented close", frame(0x8, ""), []string{"violation 1002"}},
	{"long ping", frame(fin|0x9, strings.Repeat("x", 126)), []string{"violation 1002"}},
	{"lone continuation", frame(fin, "x"), []string{"violation 1002"}},
	{"lone first continuation", frame(0x0, "x"), []string{"violation 1002"}},
	{"continuation after a message", join(frame(fin|0x1, "x"), frame(fin, "y")), []string{"text 78", "violation 1002"}},
	{"message in a message", join(frame(0x1, "x"), frame(fin|0x1, "y")), []string{"violation 1002"}},
	{"top bit of the length", []byte{fin | 0x2, masked | 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, []string{"violation 1002"}},

	{"largest message", frame(fin|0x2, strings.Repeat("z", 1000)), []string{"binary " + strings.Repeat("7a", 1000)}},
	{"too big, only announced", []byte{fin | 0x2, masked | 126, 0x03, 0xE9, 0, 0, 0, 0}, []string{"violation 1009"}},
	{"enormous, only announced", []byte{fin | 0x2, masked | 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}, []string{"violation 1009"}},
	{"too big in fragments", join(frame(0x2, strings.Repeat("z", 600)), frame(fin, strings.Repeat("z", 401))), []string{"violation 1009"}},
	{"enormous behind a fragment", join(frame(0x2, "z"), []byte{fin, masked | 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}), []string{"violation 1009"}},

	{"text", frame(fin|0x1, "κόσμε"), []string{"text cebacf8ccf83cebcceb5"}},
	{"text is not UTF-8", frame(fin|0x1, "a\xff"), []string{"violation 1007"}},
	{"surrogate", frame(fin|0x1, "\xed\xa0\x80"), []string{"violation 1007"}},
	{"cut character", frame(fin|0x1, "a\xce"), []string{"violation 1007"}},
	{"character over two fragments", join(frame(0x1, "\xce"), frame(fin, "\xba")), []string{"text ceba"}},
	{"emoji over four fragments", join(frame(0x1, "\xf0"), frame(0x0, "\x9f"), frame(0x0, "\x98"), frame(fin, "\x80")), []string{"text f09f9880"}},
	{"cut character in fragments", join(frame(0x1, "\xce"), frame(fin, "")), []string{"violation 1007"}},
	{"bad text in the first fragment", frame(0x1, "a\xf5b"), []string{"violation 1007"}},
	{"over the last character", frame(0x1, "\xf4\x90"), []string{"violation 1007"}},
	{"bad text before its frame ends", frame(fin|0x1, "\xff"+strings.Repeat("x", 500))[:20], []string{"violation 1007"}},
	{"binary is not checked", frame(fin|0x2, "\xff"), []string{"binary ff"}},
}

func TestReaderKeepsEveryRule(t *testing.T) {
	for _, c := range rules {
		if got, _ := readAll(1000, c.bytes); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestReaderHearsTheSameHoweverTheBytesCome(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range rules {
		var single [][]byte
		for i := range c.bytes {
			single = append(single, c.bytes[i:i+1])
			if got, _ := readAll(1000, c.bytes[:i], c.bytes[i:]); !slices.Equal(got, c.want) {
				t.Fatalf("%s, split at %d: got %q, want %q", c.name, i, got, c.want)
			}
		}
		if got, _ := readAll(1000, single...); !slices.Equal(got, c.want) {
			t.Errorf("%s, byte by byte: got %q, want %q", c.name, got, c.want)
		}
		for range 50 {
			pieces := pieces(c.bytes, random)
			if got, _ := readAll(1000, pieces...); !slices.Equal(got, c.want) {
				t.Errorf("%s, in pieces %x: got %q, want %q", c.name, pieces, got, c.want)
			}
		}
	}
}

// pieces cuts b at random places.
func pieces(b []byte, random *rand.Rand) (cut [][]byte) {
	for len(b) > 0 {
		n := 1 + random.IntN(min(len(b), 9))
		cut = append(cut, b[:n])
		b = b[n:]
	}
	return cut
}

func TestReaderHoldsNothingBetweenMessages(t *testing.T) {
	whole := join(frame(0x1, "ab"), frame(fin|0x9, "p"), frame(fin, "c"), frame(fin|0x2, "d"))
	for i := range whole {
		if _, held := readAll(1000, whole[:i], whole[i:]); held != nil {
			t.Fatalf("split at %d: holds %+v", i, *held)
		}
	}
	for _, c := range rules {
		if strings.HasPrefix(c.want[len(c.want)-1], "violation") {
			if _, held := readAll(1000, c.bytes); held != nil {
				t.Errorf("%s: holds %+v after a violation", c.name, *held)
			}
		}
	}
}

func TestAnnouncedLengthCostsNothing(t *testing.T) {
	announced := []byte{fin | 0x2, masked | 127, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 'x'}
	_, held := readAll(64<<10, announced)
	if held == nil || len(held.data) != 1 || cap(held.data) > 64 {
		t.Errorf("one byte of 65,536 announced ones is held as %+v", held)
	}
}
