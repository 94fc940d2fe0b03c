//go:build linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// strangeNames are applications whose names mean something to NATS, to HTTP, to Kafka or
// to nobody, and names that some way of encoding would take for one of them.
var strangeNames = []string{
	"plain", "a.b", "a.>", "a.*", ">", "*", ".", "..", "a..b", "a b", " ", "a\tb", "a\r\nb", "a\x00b", "a/b", "a%2Fb", "a%b", "a=2Eb", "a=b",
	"a_b", "A.B", "a.b.", "žluť", "温度🌡", "\u202e", "a?b#c", `a"b\c`, "$JS.API.>", "_INBOX.x", "in.0.x", "a'b;c", "+", "a:b@c",
	strings.Repeat("x", 200), strings.Repeat("x", 201), strings.Repeat(".*>", 3400), strings.Repeat(".*>", 3400) + ".",
}

func TestEveryNameReachesItsOwnSocketsOnly(t *testing.T) {
	public := map[string]int32{}
	for _, name := range strangeNames {
		public[name] = 1
	}
	w := start(t, setup{public: public})
	sockets := map[string]*websocket.Conn{}
	for _, name := range strangeNames {
		sockets[name] = w.open(w.path(name, ""), nil)
	}
	const turns = 3
	for n := range uint64(turns) {
		for _, name := range strangeNames {
			w.produce(w.numbered(name, "", n+1, 0))
		}
		// A foreign event of this turn would be read in the place of an own one of the next.
		for name, socket := range sockets {
			var got struct {
				Application string
				Data        struct{ N uint64 }
			}
			if err := json.Unmarshal([]byte(read(t, socket)), &got); err != nil {
				t.Fatal(err)
			}
			if got.Application != w.app(name) || got.Data.N != n+1 {
				t.Errorf("application %.60q got event %d of %.60q, want event %d of its own", name, got.Data.N, got.Application, n+1)
			}
		}
	}
}
