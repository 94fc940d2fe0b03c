package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// dialLimit is how long a handshake may take.
	dialLimit = 30 * time.Second
	// silence is how long an edge may say nothing, not even a Ping, before it is asked, and
	// answerLimit how long it has to answer.
	silence     = 45 * time.Second
	answerLimit = 20 * time.Second
	// leaveLimit is how long a member of a group that leaves waits until what it has taken
	// is acknowledged.
	leaveLimit = time.Second
	// refusalLimit bounds what is read of a refusal.
	refusalLimit = 4 << 10
)

// connection is one socket. Its goroutines are the loop's, which reads, and one beside it,
// which refreshes the token and notices that the edge has vanished.
type connection struct {
	*websocket.Conn
	stream *stream
	token  string

	reading atomic.Bool  // the loop waits for a message, so that Pongs are seen
	life    atomic.Int64 // counts what came from the edge
}

// connect opens a socket and hands on events until it ends. Its error says why it did.
func (s *stream) connect(ctx context.Context) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	s.opened, s.forbidden = true, 0
	if s.cfg.OnOpen != nil {
		s.cfg.OnOpen()
	}
	beside, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.attend(beside) })
	end := context.AfterFunc(ctx, func() {
		if c.reading.Load() { // else the loop sees it before it reads on
			_ = c.Close(websocket.StatusNormalClosure, "")
		}
	})
	err = c.receive(ctx)
	stop()
	wg.Wait()
	end()
	_ = c.Close(websocket.StatusNormalClosure, "") // does nothing if it was closed before
	s.away = time.Now()
	if time.Since(began) >= steady {
		s.failures = 0
	}
	return err
}

// dial makes the handshake. The error of a refusal is a *RefusedError.
func (s *stream) dial(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	c := &connection{stream: s}
	if s.cfg.Token != nil {
		var err error
		if c.token, err = s.cfg.Token(ctx); err != nil {
			return nil, fmt.Errorf("get a token: %w", err)
		}
	}
	now := time.Now()
	conn, response, err := websocket.Dial(ctx, s.cfg.url(s.since), &websocket.DialOptions{
		HTTPClient: s.http,
		HTTPHeader: s.cfg.header(c.token),
		OnPingReceived: func(context.Context, []byte) bool {
			c.life.Add(1)
			return true
		},
	})
	if err != nil {
		if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
			return nil, s.refusal(response)
		}
		return nil, fmt.Errorf("connect to %s: %w", s.cfg.Edge, err)
	}
	conn.SetReadLimit(-1) // read has one
	if s.since == "" && s.cfg.Group == "" {
		s.since = beginning(response, now)
	}
	c.Conn = conn
	return c, nil
}

// beginning is where a client that has not had any event begins again: at the time of its
// first connection by the edge's clock, or by its own at asked if the edge does not say. A
// second more than needed makes up for clocks that differ a little.
func beginning(response *http.Response, asked time.Time) string {
	if at, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		asked = at
	}
	return asked.Add(-time.Second).UTC().Format(time.RFC3339Nano)
}

// refusal reads the edge's answer.
func (s *stream) refusal(response *http.Response) error {
	refused := &RefusedError{Status: response.StatusCode}
	if response.StatusCode == http.StatusForbidden {
		s.forbidden++
	} else {
		s.forbidden = 0
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		refused.RetryAfter = min(time.Duration(seconds)*time.Second, time.Hour)
	}
	var answer struct{ Error, Message string }
	body, err := io.ReadAll(io.LimitReader(response.Body, refusalLimit))
	if err == nil && json.Unmarshal(body, &answer) == nil {
		refused.Kind, refused.Message = answer.Error, answer.Message
	}
	return refused
}

// receive hands on events until the socket, the loop or ctx ends.
func (c *connection) receive(ctx context.Context) error {
	for {
		c.reading.Store(true)
		if ctx.Err() != nil {
			c.acknowledge()
			return ctx.Err()
		}
		// Not with ctx: its end would cut the socket instead of closing it.
		kind, message, size, err := c.read(context.Background())
		c.reading.Store(false)
		if err != nil {
			return c.why(err)
		}
		c.life.Add(1)
		if ctx.Err() != nil {
			return ctx.Err() // this one is not acknowledged
		}
		if kind != websocket.MessageText {
			return fmt.Errorf("%w: a binary message", errNoEvent)
		}
		e := tooBig(c.stream.cfg.Application, message, size)
		if e.Gap == nil {
			if e, err = parse(message); err != nil {
				return fmt.Errorf("%w: %w", errNoEvent, err)
			}
		}
		if !c.stream.take(e) {
			c.acknowledge()
			return nil
		}
	}
}

// read takes the next message. Of one that is too big it gives the end, which is shorter than
// its size; in a group it closes the socket then, so that another member may take it.
func (c *connection) read(ctx context.Context) (kind websocket.MessageType, message []byte, size int64, err error) {
	limit := c.stream.cfg.MaxMessage
	if limit == 0 {
		limit = DefaultMaxMessage
	}
	kind, r, err := c.Reader(ctx)
	if err != nil {
		return kind, nil, 0, err
	}
	message, err = io.ReadAll(io.LimitReader(r, limit+1))
	if size = int64(len(message)); err != nil || size <= limit {
		return kind, message, size, err
	}
	if c.stream.cfg.Group != "" {
		_ = c.Close(websocket.StatusMessageTooBig, "")
		return kind, nil, size, ErrTooBig
	}
	end := tail(message)
	rest, err := io.Copy(&end, r)
	return kind, end, size + rest, err
}

// tail keeps the end of what is written to it, in which an event has its cursor.
type tail []byte

const tailBytes = 256

// Write never fails.
func (t *tail) Write(b []byte) (int, error) {
	all := append((*t)[max(0, len(*t)-tailBytes):], b[max(0, len(b)-tailBytes):]...)
	*t = append(tail(nil), all[max(0, len(all)-tailBytes):]...)
	return len(b), nil
}

var errNoEvent = errors.New("the edge sent what is no event")

// why makes an error of this package from the library's, and takes the place to resume at
// from the reason of a close: it is behind all that was read.
func (c *connection) why(err error) error {
	if errors.Is(err, ErrTooBig) {
		return err
	}
	var frame websocket.CloseError
	if !errors.As(err, &frame) {
		return fmt.Errorf("connection broke: %w", err)
	}
	reason, since := splitReason(frame.Reason)
	if since != "" && c.stream.cfg.Group == "" {
		c.stream.since = since
	}
	return &ClosedError{Code: int(frame.Code), Reason: reason}
}

// acknowledge closes the socket of a member of a group that leaves after the edge's Ping
// behind the last event is answered: the edge has sent it before it answers a Ping of ours.
// If another event comes first, that one is not acknowledged.
func (c *connection) acknowledge() {
	if c.stream.cfg.Group == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _, _ = c.Reader(context.Background()) // reads control frames, up to the next event
		cancel()
	})
	_ = c.Ping(ctx) // its failure costs a repetition
	_ = c.Close(websocket.StatusNormalClosure, "")
	wg.Wait()
}

// attend refreshes the token and looks for signs of life, until ctx ends.
func (c *connection) attend(ctx context.Context) {
	look := time.NewTicker(silence)
	defer look.Stop()
	refresh := time.NewTimer(0)
	defer refresh.Stop()
	due := func() {
		refresh.Stop()
		if wait, ok := refreshIn(c.token, time.Now()); ok {
			refresh.Reset(wait)
		}
	}
	due()
	heard := c.life.Load()
	for {
		select {
		case <-ctx.Done():
			return
		case <-refresh.C:
			c.refresh(ctx)
			due()
		case <-look.C:
			if c.life.Load() == heard && c.vanished(ctx, heard) {
				_ = c.CloseNow() // the loop's Read ends
				return
			}
			heard = c.life.Load()
		}
	}
}

// refresh sends a fresh token. If there is none yet, or the edge does not take it, the
// socket ends with the old one, and the next connection asks for another.
func (c *connection) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	token, err := c.stream.cfg.Token(ctx)
	if err != nil || token == c.token {
		return
	}
	message, err := json.Marshal(struct{ RefreshAccessToken string }{token})
	if err != nil || c.Write(ctx, websocket.MessageText, message) != nil {
		return // a broken connection ends the loop's Read
	}
	c.token = token
}

// vanished asks an edge that has been silent for a sign of life.
func (c *connection) vanished(ctx context.Context, heard int64) bool {
	if !c.reading.Load() {
		return false // the loop is busy: nobody would see the answer
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	err := c.Ping(ctx)
	return errors.Is(err, context.DeadlineExceeded) && c.life.Load() == heard
}
