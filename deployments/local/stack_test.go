package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"canopy/shared/event"
)

const (
	limit     = 20 * time.Second
	stopLimit = 2 * time.Second
)

// anywhere lets every part take a free port.
var anywhere = []string{
	"HTTP__BIND_ADDR=127.0.0.1:0", "RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:0",
	"LOCAL__KAFKA_ADDR=127.0.0.1:0", "LOCAL__NATS_ADDR=127.0.0.1:0", "LOCAL__ISSUER_ADDR=127.0.0.1:0",
}

// world is a stack that runs.
type world struct {
	Addrs
	t      *testing.T
	out    *bytes.Buffer
	cancel context.CancelFunc
	done   chan error
}

// start runs a stack and returns when it is up; its end is awaited when the test ends.
func start(t *testing.T, environ ...string) *world {
	t.Helper()
	cfg := load(t, append(append([]string(nil), anywhere...), environ...)...)
	ctx, cancel := context.WithCancel(t.Context())
	w := &world{t: t, out: new(bytes.Buffer), cancel: cancel, done: make(chan error, 1)}
	up := make(chan Addrs, 1)
	log := zaptest.NewLogger(t)
	go func() { w.done <- Run(ctx, cfg, log, w.out, func(at Addrs) { up <- at }) }()
	select {
	case w.Addrs = <-up:
	case err := <-w.done:
		cancel()
		t.Fatalf("the stack ended while it started: %v", err)
	case <-time.After(limit):
		cancel()
		t.Fatal("the stack did not start")
	}
	t.Cleanup(w.stop)
	return w
}

// stop ends the stack as Ctrl-C does. A second call does nothing.
func (w *world) stop() {
	w.t.Helper()
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	if err := <-w.done; err != nil {
		w.t.Errorf("stop: %v", err)
	}
}

// dial opens a socket; status is that of a refusal, or 101.
func (w *world) dial(path string, header http.Header) (conn *websocket.Conn, status int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, "ws://"+w.HTTP+path, &websocket.DialOptions{HTTPHeader: header})
	if response == nil {
		w.t.Fatalf("dial %s: %v", path, err)
	}
	if conn != nil {
		w.t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, response.StatusCode
}

// next is the next event of a socket.
func (w *world) next(conn *websocket.Conn) map[string]any {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	_, text, err := conn.Read(ctx)
	if err != nil {
		w.t.Fatalf("read an event: %v", err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		w.t.Fatalf("decode %s: %v", text, err)
	}
	return members
}

// firstCursor is that of the next event of the public application.
func (w *world) firstCursor() event.Cursor {
	w.t.Helper()
	conn, status := w.dial("/"+publicApplication, nil)
	if conn == nil {
		w.t.Fatalf("status %d", status)
	}
	text, _ := w.next(conn)["cursor"].(string)
	// A client that neither reads nor goes would be waited for when the stack stops.
	_ = conn.CloseNow()
	cursor, err := event.ParseCursor(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return cursor
}

func (w *world) token(user string) string {
	w.t.Helper()
	response, err := http.PostForm("http://"+w.IssuerAddr+"/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {user}, "client_secret": {user}, "ttl": {"60s"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		w.t.Fatal(err)
	}
	return answer.Token
}

func TestSensorsReachASocketOfThePublicApplication(t *testing.T) {
	w := start(t)
	conn, status := w.dial("/"+publicApplication+"/temperature", nil)
	if conn == nil {
		t.Fatalf("status %d", status)
	}
	got := w.next(conn)
	for name, want := range map[string]any{
		"specversion": "1.0", "type": "io.drogue.event.v1", "subject": "temperature",
		"datacontenttype": "application/json", "application": publicApplication,
		"source": "drogue://" + got["partitionkey"].(string),
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	data, _ := got["data"].(map[string]any)
	if _, ok := data["temp"].(float64); !ok {
		t.Errorf("data = %v, want a temperature", got["data"])
	}
	if _, status := w.dial("/-/nothing", nil); status != http.StatusNotFound {
		t.Errorf("status %d of a path of Canopy's own, want 404", status)
	}
}

func TestPrivateApplicationOpensByKeyAndByTokenOnly(t *testing.T) {
	w := start(t, "LOCAL__RUN=nats,kafka,issuer,ingest,edge")
	basic := http.Request{Header: http.Header{}}
	basic.SetBasicAuth("alice", w.APIKey)
	bearer := func(user string) http.Header { return http.Header{"Authorization": {"Bearer " + w.token(user)}} }
	query := url.Values{"username": {"alice"}, "api_key": {w.APIKey}}.Encode()
	for name, c := range map[string]struct {
		query  string
		header http.Header
		want   int
	}{
		"key in the header":   {"", basic.Header, 101},
		"key in the URL":      {"?" + query, nil, 101},
		"token in the header": {"", bearer("alice"), 101},
		"token in the URL":    {"?token=" + w.token("alice"), nil, 101},
		"no credentials":      {"", nil, 404},
		"another user":        {"", bearer("bob"), 404},
		"wrong key":           {"?username=alice&api_key=wrong", nil, 403},
	} {
		conn, status := w.dial("/"+privateApplication+c.query, c.header)
		if status != c.want {
			t.Errorf("%s: status %d, want %d", name, status, c.want)
		}
		if conn != nil {
			w.produce(reading(privateApplication, 1, "id of "+name, time.Now()))
			if got := w.next(conn); got["id"] != "id of "+name {
				t.Errorf("%s: got event %v", name, got["id"])
			}
		}
	}
}

func (w *world) produce(record *kgo.Record) {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.Kafka))
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(w.t.Context(), record).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func TestStopIsQuickAndLeavesNothingBehind(t *testing.T) {
	w := start(t)
	conn, status := w.dial("/"+publicApplication, nil)
	if conn == nil {
		t.Fatalf("status %d", status)
	}
	w.next(conn)
	closed := make(chan error, 1)
	go func() {
		for {
			if _, _, err := conn.Read(context.WithoutCancel(t.Context())); err != nil {
				closed <- err
				return
			}
		}
	}()
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > stopLimit {
		t.Errorf("stopping took %v, want at most %v", took, stopLimit)
	}
	if err := <-closed; websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the socket ended with %v, want close code 1001", err)
	}
	for _, addr := range []string{w.HTTP, w.Health, w.IngestHealth, w.Kafka, w.NATS, w.IssuerAddr} {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			t.Errorf("something still listens at %s", addr)
		}
	}
	if _, err := os.Stat(w.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

func TestPrintedTextNamesWhereEverythingIs(t *testing.T) {
	w := start(t)
	w.stop()
	text := w.out.String()
	for _, want := range []string{
		"ws://" + w.HTTP + "/" + publicApplication, w.Health, w.IngestHealth, w.Kafka, "nats://" + w.NATS,
		w.Issuer + "/token", "alice:" + w.APIKey, "api_key=" + w.APIKey, "bin/canopy-edge", "bin/canopy-ingest",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the printed text:\n%s", want, text)
		}
	}
}

func TestPartsMayRunInProcessesOfTheirOwn(t *testing.T) {
	servers := start(t, "LOCAL__RUN=kafka,nats,issuer")
	if servers.HTTP != "" || servers.IngestHealth != "" {
		t.Errorf("tiers run that were left out: %+v", servers.Addrs)
	}
	there := []string{
		"LOCAL__KAFKA_ADDR=" + servers.Kafka, "LOCAL__NATS_ADDR=" + servers.NATS, "LOCAL__ISSUER_ADDR=" + servers.IssuerAddr,
	}
	start(t, append(there, "LOCAL__RUN=ingest")...)
	start(t, append(there, "LOCAL__RUN=sensors")...)
	edge := start(t, append(there, "LOCAL__RUN=edge")...)
	edge.firstCursor()
	edge.IssuerAddr = servers.IssuerAddr
	if _, status := edge.dial("/"+privateApplication+"?token="+edge.token("alice"), nil); status != http.StatusSwitchingProtocols {
		t.Errorf("status %d with a token of the other process, want 101", status)
	}
}

func TestDataFolderSurvivesARestart(t *testing.T) {
	dir := "LOCAL__DATA_DIR=" + t.TempDir()
	before := start(t, dir)
	token := before.token("alice")
	first := before.firstCursor()
	before.stop()

	// The issuer must have the same name for its tokens to go on.
	after := start(t, dir, "LOCAL__ISSUER_ADDR="+before.IssuerAddr)
	second := after.firstCursor()
	if second.Log != first.Log || second.Sequence <= first.Sequence {
		t.Errorf("the log went from %v to %v", first, second)
	}
	if after.APIKey != before.APIKey {
		t.Error("the API key changed")
	}
	if _, status := after.dial("/"+privateApplication+"?token="+token, nil); status != http.StatusSwitchingProtocols {
		t.Errorf("status %d with a token from before the restart, want 101", status)
	}
}

func TestApplicationsFileReplacesTheOnesOfTheStack(t *testing.T) {
	path := t.TempDir() + "/mine.yaml"
	if err := os.WriteFile(path, []byte("applications:\n  mine:\n    public: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := start(t, "EDGE__APPLICATIONS_FILE="+path)
	if _, status := w.dial("/mine", nil); status != http.StatusSwitchingProtocols {
		t.Errorf("status %d of the file's application, want 101", status)
	}
	if _, status := w.dial("/"+publicApplication, nil); status != http.StatusNotFound {
		t.Errorf("status %d of the stack's application, want 404", status)
	}
	if w.APIKey != "" {
		t.Error("a key is shown that the file does not know")
	}
}

func TestTakenPortIsNamedWithItsPartAndSettingAndNothingStarts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	addr := taken.Addr().String()
	for setting, part := range map[string]string{
		"LOCAL__NATS_ADDR": NATS, "LOCAL__KAFKA_ADDR": Kafka, "LOCAL__ISSUER_ADDR": Issuer, "LOCAL__INGEST_HEALTH_ADDR": Ingest,
		"HTTP__BIND_ADDR": Edge, "RUNTIME__HEALTH__BIND_ADDR": Edge,
	} {
		dir := t.TempDir() + "/data"
		cfg := load(t, append(append([]string(nil), anywhere...), setting+"="+addr, "LOCAL__DATA_DIR="+dir)...)
		err := Run(t.Context(), cfg, zaptest.NewLogger(t), io.Discard, func(Addrs) { t.Error("it started") })
		if err == nil {
			t.Fatalf("%s=%s, which is taken, was accepted", setting, addr)
		}
		for _, want := range []string{part, addr, setting} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not name %s", err, want)
			}
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: something was stored before the refusal", setting)
		}
	}
}

func TestTwoPartsAtOneAddressAreRefused(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := load(t, append(append([]string(nil), anywhere...), "HTTP__BIND_ADDR="+addr, "LOCAL__KAFKA_ADDR="+addr)...)
	if err := Run(t.Context(), cfg, zaptest.NewLogger(t), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "HTTP__BIND_ADDR") {
		t.Errorf("got %v", err)
	}
}
