package ws

import (
	"bytes"
	"fmt"
	"testing"
)

// unmaskPlainly is the algorithm as section 5.3 has it.
func unmaskPlainly(b []byte, key [4]byte) {
	for i := range b {
		b[i] ^= key[i%4]
	}
}

func TestUnmaskingInPiecesIsUnmaskingTheWhole(t *testing.T) {
	key := [4]byte{0x11, 0x82, 0xF3, 0x04}
	mask := uint32(0x04F38211)
	for size := 0; size <= 100; size++ {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i * 7)
		}
		masked := bytes.Clone(want)
		unmaskPlainly(masked, key)
		for split := 0; split <= size; split++ {
			got := bytes.Clone(masked)
			rest := unmask(got[:split], mask)
			unmask(got[split:], rest)
			if !bytes.Equal(got, want) {
				t.Fatalf("size %d, split at %d: got % x", size, split, got)
			}
		}
	}
}

func BenchmarkUnmask(b *testing.B) {
	for _, size := range []int{16, 512, 65536} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			payload := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				unmask(payload, 0x04F38211)
			}
		})
	}
}
