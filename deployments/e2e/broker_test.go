//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"canopy/shared/natstest"
)

// brokerFaults is what a broker can be told by HTTP: /cut ends all connections, and /deny has
// it answer that it is not the leader as often as the query says. Both answer with a number:
// of connections, and of requests that /deny has failed until now.
type brokerFaults struct {
	cluster *kfake.Cluster

	mu     sync.Mutex
	conns  map[*cuttableConn]struct{}
	denied []*kfake.FaultHandle
}

func (b *brokerFaults) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	switch r.URL.Path {
	case "/cut":
		n = len(b.conns)
		for c := range b.conns {
			_ = c.Conn.Close()
		}
	case "/deny":
		if count, _ := strconv.Atoi(r.URL.Query().Get("n")); count > 0 {
			b.denied = append(b.denied, b.cluster.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Fetch, kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: count,
			}))
		}
		for _, h := range b.denied {
			n += int(h.Hits())
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
	_, _ = fmt.Fprint(w, n)
}

// cuttable is a listener whose connections brokerFaults can end.
type cuttable struct {
	net.Listener
	by *brokerFaults
}

func (l cuttable) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	one := &cuttableConn{c, l.by}
	l.by.mu.Lock()
	l.by.conns[one] = struct{}{}
	l.by.mu.Unlock()
	return one, nil
}

type cuttableConn struct {
	net.Conn
	by *brokerFaults
}

// Close ends the connection. What ends it by /cut closes only what is below, and the broker
// comes here when it notices.
func (c *cuttableConn) Close() error {
	err := c.Conn.Close()
	c.by.mu.Lock()
	delete(c.by.conns, c)
	c.by.mu.Unlock()
	return err
}

// broker is an embedded Kafka in a process of its own that keeps what it has when it is killed.
type broker struct {
	*process
	t       *testing.T
	environ []string
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	b := &broker{t: t, environ: []string{
		brokerAddr + "=127.0.0.1:" + strconv.Itoa(natstest.FreePort(t)), brokerDir + "=" + t.TempDir(),
	}}
	b.up()
	return b
}

// up starts it, or starts it again where it was with what it had.
func (b *broker) up() {
	b.t.Helper()
	b.process = startProcess(b.t, brokerChild, b.environ)
}

// tell gives the number that the broker answers.
func (b *broker) tell(what string) int {
	b.t.Helper()
	response, err := http.Get("http://" + b.http + what)
	if err != nil {
		b.t.Fatalf("tell the broker %s: %v", what, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatalf("tell the broker %s: %v", what, err)
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		b.t.Fatalf("tell the broker %s: %v", what, err)
	}
	return n
}
