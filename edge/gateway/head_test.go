package gateway

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

func TestHeaderLinesAreCountedWhileTheyCome(t *testing.T) {
	const most = 3
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"nothing":                               {"", true},
		"as many as there may be":               {"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n", true},
		"one more":                              {"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n", false},
		"one more that is not finished":         {"GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4", true},
		"one more with bare line feeds":         {"GET / HTTP/1.1\na: 1\nb: 2\nc: 3\nd: 4\n", false},
		"the same name again and again":         {"GET / HTTP/1.1\r\na: 1\r\na: 1\r\na: 1\r\na: 1\r\n", false},
		"continuation lines":                    {"GET / HTTP/1.1\r\na: 1\r\n 2\r\n\t3\r\n 4\r\n", false},
		"a line of spaces ends no head":         {"GET / HTTP/1.1\r\na: 1\r\n \r\nc: 3\r\nd: 4\r\n", false},
		"two carriage returns neither":          {"GET / HTTP/1.1\r\na: 1\r\n\r\r\nc: 3\r\nd: 4\r\n", false},
		"lines of a body":                       {"POST / HTTP/1.1\r\na: 1\r\n\r\n" + strings.Repeat("x\n", 50), true},
		"a body behind a bare line feed":        {"POST / HTTP/1.1\na: 1\n\n" + strings.Repeat("x\n", 50), true},
		"a request behind a request":            {"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n", true},
		"an empty line, which net/http refuses": {"\r\nGET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n", true},
	} {
		for size := 1; size <= len(c.text)+1; size++ { // however it is cut
			var h head
			ok := true
			for rest := c.text; ok && rest != ""; {
				n := min(size, len(rest))
				ok = h.take([]byte(rest[:n]), most)
				rest = rest[n:]
			}
			if ok != c.ok {
				t.Errorf("%s, in pieces of %d bytes: %v, want %v", name, size, ok, c.ok)
			}
		}
	}
}

// FuzzHead looks for heads in which net/http finds more lines than were counted.
func FuzzHead(f *testing.F) {
	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\nb: 1\r\nc: 2\r\nd: 3\r\n\r\n", "GET / HTTP/1.1\nHost: a\nb:\nc:\nd:\ne:\n\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\r\nb:\r\nc:\r\nd:\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n \r\nb:\r\nc:\r\nd:\r\n\r\n",
	} {
		f.Add(text, uint8(3))
	}
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		const most = 3
		var h head
		for rest := text; rest != ""; {
			n := min(int(size)+1, len(rest))
			if !h.take([]byte(rest[:n]), most) {
				return
			}
			rest = rest[n:]
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			return
		}
		lines := 0
		for _, values := range r.Header {
			lines += len(values)
		}
		if lines > most {
			t.Errorf("%q has %d header lines, which were not seen", text, lines)
		}
	})
}
