package natstest

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy stands between clients and a server and loses messages on purpose.
type Proxy struct {
	listener net.Listener
	target   string
	drop     func(subject string) bool
	dropped  atomic.Int64
	delay    atomic.Int64 // of what comes, in nanoseconds
	delayed  atomic.Int64
	end      chan struct{}
	wg       sync.WaitGroup

	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	refuses bool
	refused int
	ended   bool
}

// StartProxy runs a proxy to the server at url until the test ends. drop is asked about every message to
// a client, from several goroutines, and those that it is true for are lost. It may be nil:
// then the proxy understands nothing of what it passes on, and may stand between servers.
func StartProxy(t testing.TB, url string, drop func(subject string) bool) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for the proxy: %v", err)
	}
	p := &Proxy{listener: listener, target: strings.TrimPrefix(url, "nats://"), drop: drop, end: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	p.wg.Add(1)
	go p.accept()
	t.Cleanup(func() {
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		close(p.end)
		_ = listener.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL is where clients connect.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Dropped is the number of messages that were lost.
func (p *Proxy) Dropped() int64 { return p.dropped.Load() }

// Cut ends all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Refuse ends all connections and accepts none, until Admit.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refuses = true
	p.mu.Unlock()
	p.Cut()
}

// Slow makes everything that comes wait for d, in both directions; 0 ends that.
func (p *Proxy) Slow(d time.Duration) { p.delay.Store(int64(d)) }

// Delayed is how often something had to wait.
func (p *Proxy) Delayed() int64 { return p.delayed.Load() }

// Refused is the number of connections that were refused until now.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Admit ends what Refuse began, and gives the number of connections that were refused.
func (p *Proxy) Admit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = false
	return p.refused
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close() // the server is down; the client tries again
			continue
		}
		p.mu.Lock()
		if p.refuses {
			p.refused++
		}
		if p.ended || p.refuses {
			_, _ = client.Close(), server.Close()
		}
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Add(2)
		go p.copy(func() error { _, err := io.Copy(server, slowed{p, client}); return err }, client, server)
		go p.copy(func() error {
			if p.drop == nil {
				_, err := io.Copy(client, slowed{p, server})
				return err
			}
			return p.filter(client, slowed{p, server})
		}, client, server)
	}
}

// slowed is one side of a connection, as the other one gets it.
type slowed struct {
	*Proxy
	from io.Reader
}

func (s slowed) Read(b []byte) (int, error) {
	n, err := s.from.Read(b)
	if d := time.Duration(s.delay.Load()); d > 0 && n > 0 {
		s.delayed.Add(1)
		select {
		case <-time.After(d):
		case <-s.end:
		}
	}
	return n, err
}

// copy runs one direction, and ends both with it.
func (p *Proxy) copy(run func() error, client, server net.Conn) {
	defer p.wg.Done()
	_ = run() // ends when either side does
	_, _ = client.Close(), server.Close()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, server)
	p.mu.Unlock()
}

// filter passes on what the server says, a protocol line at a time, but for messages
// that are to be lost.
func (p *Proxy) filter(client io.Writer, server io.Reader) error {
	in, out := bufio.NewReaderSize(server, 64<<10), bufio.NewWriterSize(client, 64<<10)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		to := io.Writer(out)
		size := 0
		if fields := strings.Fields(line); len(fields) > 3 && (fields[0] == "MSG" || fields[0] == "HMSG") {
			if size, err = strconv.Atoi(fields[len(fields)-1]); err != nil {
				return err
			}
			size += len("\r\n")
			if p.drop(fields[1]) {
				p.dropped.Add(1)
				to = io.Discard
			}
		}
		if _, err := io.WriteString(to, line); err != nil {
			return err
		}
		if _, err := io.CopyN(to, in, int64(size)); err != nil {
			return err
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}
