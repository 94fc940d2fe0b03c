package ws

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
)

// deflate is a message's compressed form, as a client makes it.
func deflate(t testing.TB, message string) string {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, 9)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(message)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out.String(), "\x00\x00\xff\xff")
}

// unpackAll gives the pieces to a fresh reader that takes compressed messages.
func unpackAll(max int, pieces ...[]byte) (h recorder) {
	r := reader{inflates: true}
	for _, piece := range pieces {
		data := bytes.Clone(piece)
		for len(data) > 0 {
			rest, open := r.step(data, max, &h)
			if !open {
				return h
			}
			data = rest
		}
	}
	return h
}

const packedText, packedBinary = fin | compressed | 0x1, fin | compressed | 0x2

func TestCompressedMessagesAreInflatedAndBoundedAndBrokenOnesRefused(t *testing.T) {
	hello := deflate(t, "Hello")
	for _, c := range []struct {
		name  string
		bytes []byte
		want  []string
	}{
		{"text", frame(packedText, hello), []string{"text 48656c6c6f"}},
		{"binary", frame(packedBinary, deflate(t, "\x00\xff")), []string{"binary 00ff"}},
		{"empty", frame(packedText, "\x00"), []string{"text "}},
		{"not even an empty one", frame(packedText, ""), []string{"violation 1007"}},
		// RFC 7692, section 7.2.3: one block of each kind, and two.
		{"fixed", frame(packedText, "\xf2\x48\xcd\xc9\xc9\x07\x00"), []string{"text 48656c6c6f"}},
		{"stored", frame(packedText, "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), []string{"text 48656c6c6f"}},
		{"final", frame(packedText, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), []string{"text 48656c6c6f"}},
		{"final without a zero", frame(packedText, "\xf3\x48\xcd\xc9\xc9\x07\x00"), []string{"text 48656c6c6f"}},
		{"two blocks", frame(packedText, "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), []string{"text 48656c6c6f"}},
		{"fragments", join(frame(compressed|0x1, hello[:2]), frame(0, hello[2:3]), frame(fin, hello[3:])), []string{"text 48656c6c6f"}},
		{"ping inside", join(frame(compressed|0x1, hello[:2]), frame(fin|0x9, "p"), frame(fin, hello[2:])), []string{"ping 70", "text 48656c6c6f"}},
		{"plain behind it", join(frame(packedText, hello), frame(fin|0x1, "a")), []string{"text 48656c6c6f", "text 61"}},
		{"plain fragments behind it", join(frame(compressed|0x1, hello), frame(fin, ""), frame(0x1, "a"), frame(fin, "b")),
			[]string{"text 48656c6c6f", "text 6162"}},
		{"longest", frame(packedText, deflate(t, strings.Repeat("z", 1000))), []string{"text " + strings.Repeat("7a", 1000)}},

		{"too long", frame(packedText, deflate(t, strings.Repeat("z", 1001))), []string{"violation 1009"}},
		{"bomb", frame(packedText, deflate(t, strings.Repeat("z", 1<<20))), []string{"violation 1009"}},
		{"compressed form too long", frame(packedText, strings.Repeat("\x00", maxDeflated(1000)+1)), []string{"violation 1009"}},
		{"fragments too long", join(frame(compressed|0x1, strings.Repeat("\x00", maxDeflated(1000))), frame(fin, "\x00")), []string{"violation 1009"}},
		{"no UTF-8", frame(packedText, deflate(t, "\xff")), []string{"violation 1007"}},
		{"fragments without UTF-8", join(frame(compressed|0x1, deflate(t, "\xff")), frame(fin, "")), []string{"violation 1007"}},
		{"reserved kind of block", frame(packedText, "\x06"), []string{"violation 1007"}},
		{"stored lengths that differ", frame(packedText, "\x00\x05\x00\x00\x00Hello\x00"), []string{"violation 1007"}},
		{"cut off", frame(packedText, hello[:3]), []string{"violation 1007"}},
		{"before the beginning", frame(packedText, "\x02\x02\x00"), []string{"violation 1007"}},
		{"something behind the final block", frame(packedText, "\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x00"), []string{"violation 1007"}},

		{"RSV1 on a continuation", join(frame(compressed|0x1, hello[:2]), frame(fin|compressed, hello[2:])), []string{"violation 1002"}},
		{"RSV1 on a ping", frame(fin|compressed|0x9, ""), []string{"violation 1002"}},
		{"RSV1 and RSV2", frame(packedText|0x20, hello), []string{"violation 1002"}},
		{"RSV3", frame(fin|0x10|0x1, "x"), []string{"violation 1002"}},
	} {
		h := unpackAll(1000, c.bytes)
		if !slices.Equal(h.heard, c.want) {
			t.Errorf("%s: heard %q (%s), want %q", c.name, h.heard, h.why, c.want)
		}
	}
}

func TestWhatCannotBeCompressedMayBeAsLongAsAnyMessage(t *testing.T) {
	random := make([]byte, 1000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	packed := deflate(t, string(random))
	if len(packed) <= len(random) {
		t.Fatalf("%d bytes became %d", len(random), len(packed))
	}
	if h := unpackAll(1000, frame(packedBinary, packed)); len(h.heard) != 1 || h.heard[0] != fmt.Sprintf("binary %x", random) {
		t.Errorf("heard %.80q", h.heard)
	}
}

func TestCompressedMessagesCountByTheirSize(t *testing.T) {
	r, h := reader{inflates: true}, recorder{}
	read := func(b []byte) int {
		if _, open := r.step(b, DefaultMaxMessage, &h); !open {
			t.Fatalf("heard %.80q", h.heard)
		}
		return r.takeWeight()
	}
	if n := read(frame(packedText, deflate(t, "Hello"))); n != 0 {
		t.Errorf("a small one counts %d more", n)
	}
	slow := frame(packedText, strings.Repeat("\x00\x00\x00\xff\xff", 8<<10)+"\x00")
	if n := read(slow); n != 40 {
		t.Errorf("one of 40 KiB counts %d more", n)
	}
	if n := r.takeWeight(); n != 0 {
		t.Errorf("it counts twice: %d", n)
	}
	// One alone is never too much, and many are.
	for i, too := range []bool{false, false, true} {
		if r.over(1, 41, 10) != too {
			t.Errorf("of ten frames a second: number %d of any size is too much: %v", i+1, !too)
		}
	}
	if r.over(2, 41, 10) {
		t.Error("the next second does not begin anew")
	}
}

func TestInflatedMemoryIsUsedAgainAndNotKeptWhenItIsMuch(t *testing.T) {
	i := &inflater{}
	i.flate = flate.NewReader(&i.input)
	if _, v := i.inflate([]byte(deflate(t, strings.Repeat("z", 1<<20))), 2<<20); v != nil {
		t.Fatal(v.reason)
	}
	i.release()
	if i.out != nil {
		t.Errorf("%d bytes are kept", cap(i.out))
	}
}

// FuzzInflate gives a compressed message of any bytes, whole and in pieces, and compares
// with flate itself.
func FuzzInflate(f *testing.F) {
	for _, message := range []string{"", "Hello", strings.Repeat("ab", 400), strings.Repeat("z", 5000)} {
		f.Add([]byte(deflate(f, message)), uint64(1))
	}
	f.Add([]byte("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), uint64(2))
	f.Fuzz(func(t *testing.T, payload []byte, seed uint64) {
		const max = 1000
		wire := frame(packedBinary, string(payload))
		h := unpackAll(max, wire)
		if in := unpackAll(max, pieces(wire, rand.New(rand.NewPCG(seed, 0)))...); !slices.Equal(h.heard, in.heard) {
			t.Fatalf("whole %q, in pieces %q", h.heard, in.heard)
		}
		if len(h.heard) != 1 {
			t.Fatalf("heard %q", h.heard)
		}
		var want bytes.Buffer
		n, err := want.ReadFrom(flate.NewReader(strings.NewReader(string(payload) + messageEnd)))
		switch heard := h.heard[0]; {
		case len(payload) > maxDeflated(max) || n > max:
			if heard != "violation 1009" && !(err != nil && heard == "violation 1007") {
				t.Fatalf("%d bytes, %v: %q", n, err, heard)
			}
		case err != nil:
			if heard != "violation 1007" {
				t.Fatalf("%v: %q", err, heard)
			}
		case heard != fmt.Sprintf("binary %x", want.Bytes()) && heard != "violation 1007": // ours wants the end to fit
			t.Fatalf("%q, want %x", heard, want.Bytes())
		}
	})
}

// BenchmarkInflateSlowly is the most that one message of 64 KiB can cost: tables without
// data.
func BenchmarkInflateSlowly(b *testing.B) {
	wire := frame(packedText, slowest(DefaultMaxMessage))
	data := make([]byte, len(wire))
	r, h := reader{inflates: true}, silent{}
	b.ReportAllocs()
	for b.Loop() {
		copy(data, wire)
		if _, open := r.step(data, DefaultMaxMessage, &h); !open {
			b.Fatal("violation")
		}
	}
}

// slowest is a compressed form of nothing, of about size bytes: blocks with tables of their
// own, each only for the code that ends it (RFC 1951, section 3.2.7).
func slowest(size int) string {
	var b []byte
	held, count := uint64(0), 0
	put := func(bits uint64, n int) {
		held |= bits << count
		for count += n; count >= 8; count -= 8 {
			b = append(b, byte(held))
			held >>= 8
		}
	}
	for len(b) < size {
		put(0b100, 3) // tables, not the last block
		put(0, 5+5)   // 257 lengths of literals, 1 of distances
		put(14, 4)    // 18 lengths of lengths
		for _, symbol := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1} {
			n := uint64(0)
			if symbol == 18 || symbol == 1 {
				n = 1
			}
			put(n, 3)
		}
		put(1, 1) // 18: zeros, 11 and
		put(138-11, 7)
		put(1, 1)
		put(118-11, 7)
		put(0, 3) // 1: of the code that ends the block, and of the one distance; and that code
	}
	put(0, 3+7) // the header of the last block, and what fills its byte
	return string(b)
}
