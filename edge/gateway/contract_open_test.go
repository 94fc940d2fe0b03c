package gateway

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

// What clients see while a socket is open: events, what they may send, close frames.

// publishOf puts an event of a device into the log of open-app.
func (s *stack) publishOf(device string, n int) {
	s.t.Helper()
	m := natstest.Message(shards, "open-app", "", fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","data":{"n":%d}}`, n, n))
	if device != "" {
		m.Header.Set(event.HeaderDevice, event.EscapeHeader(device))
	}
	s.publishMsg(m.Subject, func(ctx context.Context) error { _, err := s.js.PublishMsg(ctx, m); return err })
}

// publishLarge puts an event with so many bytes of text into the log of open-app.
func (s *stack) publishLarge(n, size int) {
	s.t.Helper()
	m := natstest.Message(shards, "open-app", "", fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","data":%q}`, n, strings.Repeat("x", size)))
	s.publishMsg(m.Subject, func(ctx context.Context) error {
		_, err := s.js.PublishMsg(ctx, m, jetstream.WithMsgID("large "+strconv.Itoa(n)))
		return err
	})
}

func (s *stack) publishMsg(subject string, publish func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := publish(ctx); err != nil {
		s.t.Fatalf("publish to %s: %v", subject, err)
	}
}

// masked is a client's frame, or the beginning of one: its first byte, then its payload
// under a mask of zeros.
func masked(first byte, payload string) string {
	n := len(payload)
	head := []byte{first, 0x80 | byte(min(n, 126))}
	switch {
	case n > 0xFFFF:
		head[1] = 0x80 | 127
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	case n > 125:
		head = binary.BigEndian.AppendUint16(head, uint16(n))
	}
	return string(head) + "\x00\x00\x00\x00" + payload
}

// readFrame reads one frame of the edge's, which is never fragmented or masked.
func readFrame(t *testing.T, in *bufio.Reader) (opcode byte, payload []byte) {
	t.Helper()
	head := make([]byte, 2)
	if _, err := io.ReadFull(in, head); err != nil {
		t.Fatalf("read a frame: %v", err)
	}
	length := int(head[1])
	if extra := map[int]int{126: 2, 127: 8}[length]; extra > 0 {
		long := make([]byte, 8)
		if _, err := io.ReadFull(in, long[8-extra:]); err != nil {
			t.Fatal(err)
		}
		length = int(binary.BigEndian.Uint64(long))
	}
	if head[0]&0xF0 != 0x80 || head[1]&0x80 != 0 {
		t.Fatalf("frame begins with %x: fragmented, masked or with reserved bits", head)
	}
	payload = make([]byte, length)
	if _, err := io.ReadFull(in, payload); err != nil {
		t.Fatal(err)
	}
	return head[0] & 0xF, payload
}

// expectClose reads up to a close frame, writes the answer, and expects the end of the
// connection behind it. code 0 means a close frame without one.
func expectClose(t *testing.T, c net.Conn, in *bufio.Reader, code int, reason, answer string) {
	t.Helper()
	for {
		opcode, payload := readFrame(t, in)
		if opcode != 0x8 {
			continue
		}
		want := ""
		if code != 0 {
			want = string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
		}
		if string(payload) != want {
			t.Errorf("closed with %q, want %q", payload, want)
		}
		break
	}
	if _, err := io.WriteString(c, answer); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v follows the close frame; want the end", rest, err)
	}
}

// sent is what clients may send, and how their socket is closed.
var sent = []struct {
	name, bytes string
	code        int
	reason      string
}{
	{"a message that is not known", masked(0x81, "hello"), 1002, "unknown message: expected RefreshAccessToken"},
	{"the same in binary", masked(0x82, "hello"), 1002, "unknown message: expected RefreshAccessToken"},
	{"nothing", masked(0x81, ""), 1002, "unknown message: expected RefreshAccessToken"},
	{"a token that is no text", masked(0x81, `{"RefreshAccessToken":1}`), 1002, "unknown message: expected RefreshAccessToken"},
	{"a member too many", masked(0x81, `{"RefreshAccessToken":"x","x":1}`), 1002, "unknown message: expected RefreshAccessToken"},
	{"a token on a session without one", masked(0x81, `{"RefreshAccessToken":"x"}`), 1008, "Failed to refresh token"},
	{"the same in binary and in pieces", masked(0x02, `{"RefreshAcc`) + masked(0x80, `essToken":"x"}`), 1008, "Failed to refresh token"},
	{"text that is not UTF-8", masked(0x81, "\xff"), 1007, "text is not UTF-8"},
	{"a message of 64 KiB is read", masked(0x81, strings.Repeat("x", 64<<10)), 1002, "unknown message: expected RefreshAccessToken"},
	{"a larger one is not", masked(0x81, strings.Repeat("x", 64<<10+1)), 1009, "message is too big"},
	{"an announced one neither", masked(0x81, strings.Repeat("x", 1<<20))[:20], 1009, "message is too big"},
	{"no mask", "\x81\x02hi", 1002, "frame is not masked"},
	{"a reserved bit", masked(0xC1, "hi"), 1002, "reserved bits are set"},
	{"a reserved opcode", masked(0x83, "hi"), 1002, "reserved opcode"},
	{"a continuation of nothing", masked(0x80, "hi"), 1002, "continuation without a message"},
	{"a message inside another one", masked(0x01, "h") + masked(0x81, "i"), 1002, "new message inside a fragmented one"},
	{"a Ping in pieces", masked(0x09, ""), 1002, "control frame is fragmented"},
	{"a Ping of 126 bytes", masked(0x89, strings.Repeat("x", 126)), 1002, "control frame is longer than 125 bytes"},
	{"a length beyond 63 bits", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 1002, "frame length has its top bit set"},
	{"a close frame of one byte", masked(0x88, "x"), 1002, "close frame of one byte"},
	{"a close code that must not be sent", masked(0x88, "\x03\xed"), 1002, "invalid close code"},
	{"a close reason that is not UTF-8", masked(0x88, "\x03\xe8\xff"), 1007, "close reason is not UTF-8"},
	{"a close frame is answered", masked(0x88, "\x03\xe8bye"), 1000, ""},
	{"so is a private one", masked(0x88, "\x0f\xa0bye"), 4000, ""},
	{"and one without a code", masked(0x88, ""), 0, ""},
	{"a Pong before nothing is no answer", masked(0x8A, "x") + masked(0x88, "\x03\xe8"), 1000, ""},
	{"too many frames in a second", strings.Repeat(masked(0x89, ""), 201), 1008, "too many messages"},
}

func TestWhatClientsSend(t *testing.T) {
	s := startEdge(t, nil)
	for _, c := range sent {
		t.Run(c.name, func(t *testing.T) {
			conn, in := s.rawDial("/open-app", c.bytes)
			answer := masked(0x88, "")
			if strings.Contains(c.bytes, "\x88") {
				answer = "" // the client has closed first
			}
			expectClose(t, conn, in, c.code, c.reason, answer)
		})
	}
	for limit, want := range map[string]float64{"messages_per_second": 1, "message_bytes": 2} {
		if n := s.metric(`canopy_edge_over_limit_total{limit="` + limit + `"}`); n != want {
			t.Errorf("%v sockets are counted as over %s, want %v", n, limit, want)
		}
	}
	if n := s.metric(`canopy_edge_closed_total{code="private"}`); n != 1 {
		t.Errorf("%v sockets are counted as closed with a private code, want 1", n)
	}
}

func TestAnEventIsOneUnfragmentedTextFrameWithoutBlanks(t *testing.T) {
	s := startEdge(t, nil)
	_, in := s.rawDial("/open-app", "")
	s.publishLarge(1, 100_000)
	opcode, payload := readFrame(t, in)
	var e struct{ Specversion, ID, Data, Cursor string }
	if err := json.Unmarshal(payload, &e); opcode != 0x1 || err != nil || e.Specversion != "1.0" || e.ID != "1" || len(e.Data) != 100_000 || e.Cursor == "" {
		t.Errorf("frame %d of %d bytes, %v; want the event", opcode, len(payload), err)
	}
	if text := string(payload); strings.ContainsAny(text, " \n") || !strings.HasSuffix(text, `"cursor":"`+e.Cursor+`"}`) {
		t.Errorf("not compact, or the cursor is not last: %.100s", text)
	}
}

func TestASlowConsumerIsToldWhereItStopped(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Buffers.FeedBytes = 1 << 20 })
	_, in := s.rawDial("/open-app", "")
	// Not longer: from then on there are 5 s to read what was written.
	sent := 0
	s.await("the slow consumer", func() bool {
		s.publishLarge(sent, 64<<10)
		sent++
		return s.metric("canopy_edge_slow_consumers_total") == 1
	})
	cursor := ""
	for {
		opcode, payload := readFrame(t, in)
		if opcode == 0x8 {
			if want := "slow consumer since=" + cursor; binary.BigEndian.Uint16(payload) != 1013 || string(payload[2:]) != want {
				t.Errorf("closed with %q, want 1013 %s", payload, want)
			}
			return
		}
		var e struct{ Cursor string }
		if err := json.Unmarshal(payload, &e); err != nil {
			t.Fatal(err)
		}
		cursor = e.Cursor
	}
}
