package gateway

import (
	"bufio"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// A socket keeps what its request asks for, and with it nothing else of the request, which
// may be large and holds the token.
func TestWhatARequestAsksForKeepsNothingElseOfTheRequest(t *testing.T) {
	const requests, length, most = 1000, 20 << 10, 4 << 20
	padding := strings.Repeat("x", length)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, path := range []string{"/app?x=", "/app/channel?x=", "/app?device=d&x=", "/app?group_id=g&x="} {
		kept := make([]target, requests)
		before := heap()
		for n := range kept {
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + path + padding + " HTTP/1.1\r\nHost: a\r\n\r\n")))
			if err != nil {
				t.Fatal(err)
			}
			to, refused := parseTarget(r)
			if refused != nil || to.application != "app" {
				t.Fatalf("%s: %+v, %+v", path, to, refused)
			}
			kept[n] = to
		}
		if held := heap() - before; held > most {
			t.Errorf("%s: %d targets hold %d bytes, want %d at most", path, requests, held, most)
		}
		runtime.KeepAlive(kept)
	}
}
