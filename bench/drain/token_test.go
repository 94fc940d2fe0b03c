//go:build linux

package drain

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

func TestEachSocketBringsATokenOfItsOwn(t *testing.T) {
	var mu sync.Mutex
	came := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		came[r.Header.Get("Authorization")]++
		mu.Unlock()
		if c, err := websocket.Accept(w, r, nil); err == nil {
			<-c.CloseRead(r.Context()).Done()
		}
	}))
	t.Cleanup(server.Close)
	tokens := []string{"a", "b", "c", "d", "e"}
	cfg := Config{URL: "ws" + strings.TrimPrefix(server.URL, "http"), Sockets: len(tokens), Tokens: tokens}
	c := startCrew(t, cfg, 2)
	mu.Lock()
	defer mu.Unlock()
	for _, token := range tokens {
		if came["Bearer "+token] != 1 {
			t.Errorf("token %s came %d times", token, came["Bearer "+token])
		}
	}
	if o := c.Opening(); !o.To.After(o.From) {
		t.Errorf("opened from %v to %v", o.From, o.To)
	}
	cfg.Tokens = tokens[1:]
	if crew, err := Start(cfg, 2, patience); err == nil {
		_ = crew.Stop()
		t.Error("fewer tokens than sockets: no error")
	}
}
