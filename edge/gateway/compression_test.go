package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/flate"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

// overCompression tells a test that runs inside TestOverCompression, by its name.
func overCompression(t *testing.T) bool { return strings.HasPrefix(t.Name(), "TestOverCompression/") }

// TestOverCompression runs tests again with clients that get every event compressed.
func TestOverCompression(t *testing.T) {
	for _, test := range []func(*testing.T){
		TestEventsArriveInOrderFromTheMomentOfThe101,
		TestAChannelBringsItsEventsAndNoOthers,
		TestADeviceBringsItsEventsAndNoOthers,
		TestDrainClosesEverySocketWith1001AndItsCursor,
		TestSinceAtEveryBoundaryFromTheStream,
		TestSinceAtEveryBoundaryFromTheRing,
		TestSinceBeyondRetentionTellsWhatMayBeMissing,
		TestMessagesLostOnTheWayAreReadFromTheStream,
		TestSocketsOutliveARestartOfNATSAndMissNothing,
		TestAStreamThatIsMadeAnewGivesAGapEventAndGoesOnFromItsFirstEvent,
		TestTwoMembersOfAGroupAlternate,
	} {
		name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
		t.Run(name[strings.LastIndexByte(name, '.')+1:], test)
	}
}

// compressing has an edge compress events of any size.
func compressing(cfg *config.Config) { cfg.Edge.CompressFrom = 1 }

// dialPacked is dial for a client that offers compression, which the edge accepts.
func (s *stack) dialPacked(path string, header http.Header) *websocket.Conn {
	s.t.Helper()
	packs := s.packs
	defer func() { s.packs = packs }()
	s.packs = true
	return s.dial(path, header)
}

// compressed is how many events the edge has compressed.
func (s *stack) compressed() int { return int(s.metric("canopy_edge_compressed_events_total")) }

// asking is a handshake that offers compression.
func asking(offer string) string {
	return strings.TrimSuffix(handshake, "\r\n") + "Sec-WebSocket-Extensions: " + offer + "\r\n\r\n"
}

// deflated is the compressed form of a message.
func deflated(t *testing.T, message string) string {
	t.Helper()
	var out strings.Builder
	w, err := flate.NewWriter(&out, 9)
	if err == nil {
		_, err = io.WriteString(w, message)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out.String(), "\x00\x00\xff\xff")
}

func TestCompressedAndPlainSocketsGetEveryEventOnceAndEachIsCompressedOnce(t *testing.T) {
	const each, events = 100, 300
	s := startEdge(t, compressing)
	s.publish("open-app", "", 0)
	early := s.dial("/open-app", nil)
	s.publishMany("open-app", "", 1, 10)
	expectRun(t, []*websocket.Conn{early}, 1, 10)
	if n := s.compressed(); n != 0 {
		t.Errorf("%d events were compressed for nobody", n)
	}
	sockets := []*websocket.Conn{early}
	for range each {
		sockets = append(sockets, s.dial("/open-app", nil), s.dialPacked("/open-app", nil))
	}
	if n := s.metric("canopy_edge_compressed_sockets"); n != each {
		t.Errorf("%v sockets are counted as compressed, want %d", n, each)
	}
	before := s.metric("canopy_edge_socket_written_bytes_total")
	s.publishMany("open-app", "", 11, events)
	var reading sync.WaitGroup
	for _, c := range sockets {
		reading.Go(func() {
			for n := 11; n < 11+events; n++ {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				_, payload, err := c.Read(ctx)
				cancel()
				if err != nil {
					t.Errorf("read event %d: %v", n, err)
					return
				}
				if r := parse(t, payload); r.Data.N != n || len(r.Cursor) != event.CursorLen {
					t.Errorf("event %d is %q", n, payload)
					return
				}
			}
		})
	}
	reading.Wait()
	if n := s.compressed(); n != events {
		t.Errorf("%d compressions of %d events for %d sockets", n, events, each)
	}
	read, written := s.metric("canopy_edge_compress_read_bytes_total"), s.metric("canopy_edge_compress_written_bytes_total")
	if written >= read || written == 0 {
		t.Errorf("%v bytes became %v", read, written)
	}
	if sent := s.metric("canopy_edge_socket_written_bytes_total") - before; sent >= float64(len(sockets))*read || sent <= float64(len(sockets))*written {
		t.Errorf("%d sockets were written %v bytes, of which all would get %v plain and %v compressed", len(sockets), sent, read, written)
	}
}

func TestSocketsThatResumeTogetherShareWhatIsCompressed(t *testing.T) {
	const events, sockets = 500, 50
	s := startEdge(t, compressing)
	s.publishMany("open-app", "", 1, events)
	list := make([]*websocket.Conn, sockets)
	for i := range list {
		list[i] = s.dialPacked("/open-app?since=earliest", nil)
	}
	expectRun(t, list, 1, events)
	s.publishMany("open-app", "", events+1, 10)
	expectRun(t, list, events+1, events+10)
	// A few blocks may be read again for those who come later.
	if n := s.compressed(); n < events+10 || n > sockets*events/2 {
		t.Errorf("%d compressions of %d events for %d sockets", n, events+10, sockets)
	}
}

func TestMembersOfAGroupGetTheirEventsCompressed(t *testing.T) {
	const events = 100
	s := startEdge(t, compressing)
	c := newCrew(t)
	c.add(0, s.dialPacked("/open-app?group_id=g", nil))
	c.add(1, s.dial("/open-app?group_id=g", nil))
	s.awaitMembers(2)
	s.publishMany("open-app", "", 0, events)
	got := [2]int{}
	seen := map[int]bool{}
	for range events {
		r := c.next()
		got[r.member]++
		if seen[r.Data.N] || len(r.Cursor) != event.CursorLen {
			t.Errorf("member %d got %+v", r.member, r.received)
		}
		seen[r.Data.N] = true
	}
	if got != [2]int{events / 2, events / 2} {
		t.Errorf("members got %v", got)
	}
	if n := s.compressed(); n != events/2 {
		t.Errorf("%d events were compressed, want %d", n, events/2)
	}
}

func TestASlowConsumerOfACompressedFeedIsToldWhereItStopped(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		compressing(cfg)
		cfg.Edge.Buffers.FeedBytes = 1 << 20
	})
	slow, healthy := s.dialPacked("/open-app", nil), s.dialPacked("/open-app", nil)
	slow.SetReadLimit(1 << 20)
	healthy.SetReadLimit(1 << 20)
	n := 0
	for s.metric("canopy_edge_slow_consumers_total") == 0 {
		n++
		s.publishNoise(n, 100_000)
		if r := read(t, healthy); r.Data.N != n {
			t.Fatalf("got event %d, want %d", r.Data.N, n)
		}
		if n > 500 {
			t.Fatal("a client that does not read is never found slow")
		}
	}
	last := ""
	for {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, payload, err := slow.Read(ctx)
		cancel()
		if err != nil {
			if want := "slow consumer since=" + last; websocket.CloseStatus(err) != websocket.StatusTryAgainLater || !strings.Contains(err.Error(), want) {
				t.Errorf("it ended with %v, want %s", err, want)
			}
			return
		}
		last = parse(t, payload).Cursor
	}
}

// publishNoise publishes an event whose data cannot be compressed much.
func (s *stack) publishNoise(n, size int) {
	s.t.Helper()
	noise := make([]byte, size)
	for i, x := 0, uint32(n); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[x>>26]
	}
	body, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": fmt.Sprint("noise-", n), "type": "t", "source": "s",
		"data": map[string]any{"app": "open-app", "n": n, "noise": string(noise)},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	m := natstest.Message(shards, "open-app", "", string(body))
	s.publishMsg(m.Subject, func(ctx context.Context) error { _, err := s.js.PublishMsg(ctx, m); return err })
}

func TestCompressionIsAgreedOnOnlyIfBothSidesWantIt(t *testing.T) {
	on, off := startEdge(t, compressing), startEdge(t, nil)
	hello := masked(0xC1, deflated(t, "Hello"))
	for _, c := range []struct {
		name  string
		stack *stack
		ask   string
		want  string // header
		send  string
		code  int
		why   string
	}{
		{"not offered", on, handshake, "", hello, 1002, "reserved bits are set"},
		{"switched off", off, asking("permessage-deflate"), "", hello, 1002, "reserved bits are set"},
		{"a smaller window", on, asking("permessage-deflate; server_max_window_bits=9"), "", hello, 1002, "reserved bits are set"},
		{"agreed", on, asking("permessage-deflate; client_max_window_bits"), "permessage-deflate", hello, 1002, "unknown message: expected RefreshAccessToken"},
		{"bomb", on, asking("permessage-deflate"), "permessage-deflate", masked(0xC1, deflated(t, strings.Repeat(" ", 10<<20))), 1009, "message is too big"},
		{"broken", on, asking("permessage-deflate"), "permessage-deflate", masked(0xC1, "\x07\x07\x07"), 1007, "message cannot be inflated"},
	} {
		conn := c.stack.connect(c.ask)
		in := bufio.NewReader(conn)
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := strings.Cut(answer.Header.Get("Sec-WebSocket-Extensions"), ";"); got != c.want {
			t.Errorf("%s: accepted %q, want %q", c.name, got, c.want)
		}
		if _, err := io.WriteString(conn, c.send); err != nil {
			t.Fatal(err)
		}
		expectClose(t, conn, in, c.code, c.why, "")
		_ = conn.Close()
	}
}
