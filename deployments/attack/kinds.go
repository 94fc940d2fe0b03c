//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"canopy/shared/rawtls"
)

const (
	pingsPerSecond = 90 // what MESSAGES_PER_SECOND allows, nearly
	updates        = 400_000
	headerBytes    = 30 << 10
	replayFor      = 500 * time.Millisecond
)

// kinds are the attacks. Each makes one connection and says what became of it.
var kinds = map[string]func(context.Context, *attacker) (string, error){
	"keyupdates": keyUpdates,
	"pings":      pings,
	"requests":   halfRequest,
	"tokens":     wrongToken,
	"groups":     newGroup,
	"replays":    replay,
	"slow":       slowReader,
}

func kindNames() []string { return slices.Sorted(maps.Keys(kinds)) }

// receives sets how much a socket's kernel takes of what is not read; 0 leaves it as it is.
func receives(buffer int) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) (err error) {
		if buffer == 0 {
			return nil
		}
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) }); e != nil {
			return e
		}
		return err
	}
}

// keyUpdates asks TLS for ever new keys and reads no answer. An attacker of the edge without
// TLS has to content himself with Pings.
func keyUpdates(ctx context.Context, a *attacker) (string, error) {
	if !a.secure {
		return pings(ctx, a)
	}
	conn, err := rawtls.Dial(a.campaign.orders.Edges["tls"], nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // it is of no more use
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	status, err := conn.Upgrade("/"+archive, nil)
	if err != nil || status != http.StatusSwitchingProtocols {
		return strconv.Itoa(status), err
	}
	a.campaign.note(a.kind, opened)
	if err := conn.KeyUpdates(updates); err != nil {
		return "", err
	}
	for { // one more now and then finds out whether it is still connected
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
		if err := conn.KeyUpdates(1); err != nil {
			return "", err
		}
	}
}

// pings pings as often as it may, with the longest payload, and reads nothing.
func pings(ctx context.Context, a *attacker) (string, error) {
	conn, refused, err := a.open(ctx, archive, "", receiveBuffer)
	if conn == nil {
		return refused, err
	}
	defer func() { _ = conn.Close() }() // it is of no more use
	frame := append([]byte{0x89, 0x80 | 125, 0, 0, 0, 0}, strings.Repeat("p", 125)...)
	tick := time.NewTicker(time.Second / pingsPerSecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
		if err := conn.SetDeadline(time.Now().Add(hostilePatience)); err != nil {
			return "", err
		}
		if _, err := conn.Write(frame); err != nil {
			return "", err
		}
	}
}

// halfRequest begins a request of very many header lines and waits.
func halfRequest(ctx context.Context, a *attacker) (string, error) {
	conn, err := a.dial(ctx, 0)
	if conn != nil {
		defer func() { _ = conn.Close() }() // it is of no more use
	}
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("GET /" + honestTarget + " HTTP/1.1\r\nHost: edge\r\n")
	for i := 0; b.Len() < headerBytes; i++ {
		b.WriteString(strconv.FormatInt(int64(i), 36) + ":\r\n")
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return "", err
	}
	return answered(conn)
}

// answered reads the status of an answer, if one comes.
func answered(conn io.Reader) (string, error) {
	head := make([]byte, len("HTTP/1.1 431"))
	if _, err := io.ReadFull(conn, head); err != nil {
		return "", err
	}
	return string(head[len("HTTP/1.1 "):]), nil
}

// wrongToken tries to sign in with a token that is wrong.
func wrongToken(ctx context.Context, a *attacker) (string, error) {
	forged := a.campaign.orders.Forged
	conn, refused, err := a.open(ctx, honestTarget, forged[a.turn%len(forged)], 0)
	if conn != nil {
		_ = conn.Close()
		return "let in", nil
	}
	return refused, err
}

// newGroup makes a group of a public application, as a stranger who has signed in.
func newGroup(ctx context.Context, a *attacker) (string, error) {
	conn, refused, err := a.open(ctx, honestTarget+"?group_id="+rand.Text(), a.campaign.orders.Token, 0)
	if conn != nil {
		_ = conn.Close()
		return "made one", nil
	}
	return refused, err
}

// replay has the whole log read for nothing.
func replay(ctx context.Context, a *attacker) (string, error) {
	conn, refused, err := a.open(ctx, archive+"?since=earliest&device=none", a.campaign.orders.Token, 0)
	if conn == nil {
		return refused, err
	}
	defer func() { _ = conn.Close() }() // that is the attack
	select {
	case <-ctx.Done():
	case <-time.After(replayFor):
	}
	return "replayed", nil
}

// slowReader gets every event and reads none.
func slowReader(ctx context.Context, a *attacker) (string, error) {
	conn, refused, err := a.open(ctx, honestTarget, "", receiveBuffer)
	if conn == nil {
		return refused, err
	}
	defer func() { _ = conn.Close() }() // it is of no more use
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Second):
		}
		if err := conn.SetDeadline(time.Now().Add(hostilePatience)); err != nil {
			return "", err
		}
		// A Ping now and then finds out whether it is still connected.
		if _, err := conn.Write([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil {
			return "", err
		}
	}
}
