//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"canopy/bench/child"
	"canopy/bench/load"
)

// hostileCommand is the argument that makes this program be the attackers.
const hostileCommand = "hostile"

const (
	addresses = 8 // of attackers, 127.0.66.1 and up

	hostilePatience = 20 * time.Second
	receiveBuffer   = 4 << 10 // of those who do not read: so that their kernel takes little

	pause = 20 * time.Millisecond // between two attempts of one attacker
)

// orders are what the attackers are told.
type orders struct {
	Do      string            `json:"do"` // start, stop
	Edges   map[string]string `json:"edges,omitempty"`
	Attacks []string          `json:"attacks,omitempty"`
	Number  int               `json:"number,omitempty"`
	Token   string            `json:"token,omitempty"`  // of the stranger
	Forged  []string          `json:"forged,omitempty"` // tokens that are wrong
}

// attackers are the process of hostile clients.
type attackers struct{ process *child.Process }

// startHostile lets them loose.
func startHostile(w *world, o options) (*attackers, error) {
	token, err := w.issuer.Token(stranger, tokenTTL)
	if err != nil {
		return nil, err
	}
	process, err := child.Start(hostileCommand)
	if err != nil {
		return nil, err
	}
	a := &attackers{process}
	if err := process.Ask(orders{
		Do: "start", Attacks: o.attacks, Number: o.hostile, Token: token, Forged: forge(token),
		Edges: map[string]string{"plain": hostOf(w.plain.URL()), "tls": hostOf(w.over.URL())},
	}, nil); err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return a, nil
}

// stop ends them and says what came of it.
func (a *attackers) stop() (outcomes map[string]map[string]int, err error) {
	err = a.process.Ask(orders{Do: "stop"}, &outcomes)
	return outcomes, errors.Join(err, a.process.Stop())
}

func hostOf(url string) string {
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "ws://"), "/")
	return host
}

// forge makes wrong tokens of a right one: another signature, an unknown key, garbage.
func forge(token string) []string {
	parts := strings.Split(token, ".")
	signature := strings.Repeat("A", len(parts[2]))
	unknown := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"` + rand.Text() + `"}`))
	return []string{
		parts[0] + "." + parts[1] + "." + signature,
		unknown + "." + parts[1] + "." + parts[2],
		"garbage",
	}
}

// serveHostile is the attackers' process.
func serveHostile(in io.Reader, out io.Writer) error {
	if err := yieldToAll(); err != nil {
		return fmt.Errorf("take the lowest priority: %w", err)
	}
	var c *campaign
	return child.Serve(in, out, func(o orders) (any, error) {
		switch {
		case o.Do == "start" && c == nil:
			c = begin(o)
			return nil, nil
		case o.Do == "stop" && c != nil:
			return c.end(), nil
		}
		return nil, fmt.Errorf("%s: not now", o.Do)
	})
}

// yieldToAll has this process run only when no other one wants to. To Linux that is a thread's,
// and threads get it from the one that makes them.
func yieldToAll() error {
	for done := map[string]bool{}; ; {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		before := len(done)
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil || done[task.Name()] {
				continue
			}
			if err := unix.SchedSetAttr(id, &unix.SchedAttr{Policy: unix.SCHED_IDLE}, 0); err != nil {
				return err
			}
			done[task.Name()] = true
		}
		if len(done) == before {
			return nil
		}
	}
}

// campaign is all attackers at work.
type campaign struct {
	orders orders
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	outcomes map[string]map[string]int
}

func begin(o orders) *campaign {
	ctx, cancel := context.WithCancel(context.Background())
	c := &campaign{orders: o, cancel: cancel, outcomes: map[string]map[string]int{}}
	for _, name := range o.Attacks {
		c.outcomes[name] = map[string]int{}
	}
	for i := range o.Number {
		name := o.Attacks[i%len(o.Attacks)]
		// One after the other of a kind takes the other edge, and each address has all kinds.
		turn := i / len(o.Attacks)
		a := &attacker{campaign: c, kind: name, secure: turn%2 == 1, address: net.IPv4(127, 0, 66, byte(1+turn/2%addresses)), turn: turn}
		c.work.Go(func() { a.work(ctx) })
	}
	return c
}

// end stops all and gives what came of it.
func (c *campaign) end() map[string]map[string]int {
	c.cancel()
	c.work.Wait()
	return c.outcomes
}

func (c *campaign) note(kind, outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcomes[kind][outcome]++
}

// attacker is one connection at a time.
type attacker struct {
	campaign *campaign
	kind     string
	secure   bool // it attacks the edge with TLS
	address  net.IP
	turn     int
}

// work attacks again and again until ctx ends.
func (a *attacker) work(ctx context.Context) {
	attack := kinds[a.kind]
	for ctx.Err() == nil {
		outcome, err := attack(ctx, a)
		if ctx.Err() != nil && err != nil {
			outcome, err = cutShort, nil
		}
		if err != nil {
			outcome = reason(err)
		}
		a.campaign.note(a.kind, outcome)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// reason is a short name for what became of a connection.
func reason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut off"
	case errors.As(err, &timeout) && timeout.Timeout():
		return timedOut
	}
	return failed
}

const opened = "opened" // noted besides what becomes of the socket

// What became of connections that do not show that an attack took place.
const (
	cutShort = "cut short by the end"
	timedOut = "timed out"
	failed   = "failed"
)

// tookPlace says whether some connection of an attack came as far as the edge's answer.
func tookPlace(outcomes map[string]int) bool {
	for outcome, n := range outcomes {
		if n > 0 && outcome != cutShort && outcome != timedOut && outcome != failed {
			return true
		}
	}
	return false
}

// tied is a connection that ends with a context at the latest.
type tied struct {
	net.Conn
	untie func() bool
}

// Close closes it.
func (t *tied) Close() error {
	t.untie()
	return t.Conn.Close()
}

// dial connects, with TLS below if the edge has it. It ends with ctx.
func (a *attacker) dial(ctx context.Context, buffer int) (net.Conn, error) {
	name := "plain"
	if a.secure {
		name = "tls"
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: a.address}, Timeout: hostilePatience, Control: receives(buffer)}
	conn, err := dialer.DialContext(ctx, "tcp", a.campaign.orders.Edges[name])
	if err != nil {
		return nil, err
	}
	below := conn
	conn = &tied{below, context.AfterFunc(ctx, func() { _ = below.Close() })} // whatever it waits for
	if err := conn.SetDeadline(time.Now().Add(hostilePatience)); err != nil || !a.secure {
		return conn, err
	}
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // it attacks: whom it meets is no matter
	return secure, secure.HandshakeContext(ctx)
}

// ask sends a request for a socket and gives the answer's status.
func (a *attacker) ask(conn net.Conn, target, token string) (int, error) {
	request := "GET /" + target + " HTTP/1.1\r\nHost: " + conn.RemoteAddr().String() + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	if token != "" {
		request += "Authorization: Bearer " + token + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return 0, err
	}
	answer, err := http.ReadResponse(bufio.NewReaderSize(conn, 1<<10), nil)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, nil
}

// open opens a socket, or gives the refusal as outcome.
func (a *attacker) open(ctx context.Context, target, token string, buffer int) (conn net.Conn, refused string, err error) {
	if conn, err = a.dial(ctx, buffer); err != nil {
		if conn != nil {
			_ = conn.Close()
		}
		return nil, "", err
	}
	status, err := a.ask(conn, target, token)
	if err == nil && status == http.StatusSwitchingProtocols {
		a.campaign.note(a.kind, opened)
		return conn, "", nil
	}
	_ = conn.Close()
	return nil, strconv.Itoa(status), err
}

// honestTarget is the application that the honest listen to.
const honestTarget = load.Application
