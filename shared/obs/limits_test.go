package obs

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
)

const patience = 30 * time.Second

func TestNobodyChoosesAProfileThatTakesVeryLong(t *testing.T) {
	_, url := start(t)
	form := "multipart/form-data; boundary=x"
	body := "--x\r\nContent-Disposition: form-data; name=\"seconds\"\r\n\r\n100000\r\n--x--\r\n"
	for _, path := range []string{
		"profile?seconds=61", "profile?seconds=9999999999", "trace?seconds=60.5", "trace?seconds=Inf", "trace?seconds=NaN",
		"heap?seconds=86400", "allocs?seconds=61&seconds=1",
	} {
		if status, answer := get(t, url+"/debug/pprof/"+path); status != 400 || !strings.Contains(answer, "at most 60") {
			t.Errorf("%s: %d %.80q", path, status, answer)
		}
	}
	if status, _ := send(t, "GET", url+"/debug/pprof/profile", strings.NewReader(body), "Content-Type: "+form); status != 400 {
		t.Errorf("in a form: %d", status)
	}
	if status, _ := get(t, url+"/debug/pprof/heap?seconds=1"); status != 200 {
		t.Errorf("a short one: %d", status)
	}
}

func TestABodyWithoutEndIsNotRead(t *testing.T) {
	_, url := start(t)
	status, answer := send(t, "POST", url+"/debug/pprof/symbol", io.LimitReader(endless{}, 1<<30))
	if status != 200 || !strings.Contains(answer, "request body too large") {
		t.Errorf("%d %.200q", status, answer)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '+'
	}
	return len(b), nil
}

func TestFewDebugRequestsAreUnderWayAtATime(t *testing.T) {
	h, url := start(t)
	entered, release := make(chan struct{}), make(chan struct{})
	h.HandleDebug("GET /debug/slow", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))
	var all sync.WaitGroup
	for range maxDebug {
		all.Go(func() { get(t, url+"/debug/slow") })
		<-entered
	}
	if status, body := get(t, url+"/debug/pprof/heap"); status != 503 {
		t.Errorf("one more: %d %.80s", status, body)
	}
	if status, _ := get(t, url+"/metrics"); status != 200 {
		t.Errorf("metrics: %d", status)
	}
	close(release)
	all.Wait()
	if status, _ := get(t, url+"/debug/pprof/heap"); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}

// slow is a collector that counts its runs, the first of which waits for release.
type slow struct {
	runs             atomic.Int32
	entered, release chan struct{}
}

func (*slow) Describe(out chan<- *prometheus.Desc) {
	out <- prometheus.NewDesc("slow", "Runs.", nil, nil)
}

func (s *slow) Collect(chan<- prometheus.Metric) {
	if s.runs.Add(1) == 1 {
		close(s.entered)
		<-s.release
	}
}

func TestAFloodOfScrapesRunsOneAtATime(t *testing.T) {
	reg, s := NewRegistry(), &slow{entered: make(chan struct{}), release: make(chan struct{})}
	reg.MustRegister(s)
	h := NewHealth(config.Health{}, reg, zap.NewNop())
	var first sync.WaitGroup
	first.Go(func() {
		if status := scrape(t.Context(), t, h); status != 200 {
			t.Errorf("the first scrape: %d", status)
		}
	})
	<-s.entered
	gone, leave := context.WithCancel(t.Context())
	leave()
	scrape(gone, t, h)
	if n := s.runs.Load(); n != 1 {
		t.Errorf("%d scrapes run at a time", n)
	}
	close(s.release)
	first.Wait()
	if status := scrape(t.Context(), t, h); status != 200 || s.runs.Load() != 2 {
		t.Errorf("afterwards: %d, %d runs", status, s.runs.Load())
	}
}

// scrape asks h for metrics, without a connection.
func scrape(ctx context.Context, t *testing.T, h *Health) int {
	r, err := http.NewRequestWithContext(ctx, "GET", "http://localhost/metrics", nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	r.Body = http.NoBody
	a := &answer{header: make(http.Header)}
	h.ServeHTTP(a, r)
	return a.status
}

func TestAScrapeThatNobodyReadsKeepsNobodyWaiting(t *testing.T) {
	h := NewHealth(config.Health{}, NewRegistry(), zap.NewNop())
	reading, stop := io.Pipe() // whose reader never reads
	t.Cleanup(func() { _ = reading.Close() })
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		r, _ := http.NewRequest("GET", "http://localhost/metrics", http.NoBody)
		h.ServeHTTP(piped{answer{header: make(http.Header)}, stop}, r)
	}()
	asked := make(chan int)
	go func() { asked <- scrape(t.Context(), t, h); asked <- scrape(t.Context(), t, h) }()
	for range 2 {
		select {
		case status := <-asked:
			if status != 200 {
				t.Errorf("a scrape: %d", status)
			}
		case <-time.After(patience):
			t.Fatal("the scrapes wait")
		}
	}
	_ = reading.Close()
	<-stuck
}

// piped writes bodies into a pipe.
type piped struct {
	answer
	to *io.PipeWriter
}

func (p piped) Header() http.Header         { return p.header }
func (p piped) WriteHeader(int)             {}
func (p piped) Write(b []byte) (int, error) { return p.to.Write(b) }

func TestConnectionsThatDoNothingKeepNoProbeFromItsAnswer(t *testing.T) {
	h, url := start(t)
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			_ = c.Close()
		}
	}()
	closed := make(chan struct{}, 4*maxConnections)
	for range 4 * maxConnections {
		c, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
		go func() {
			_, _ = c.Read(make([]byte, 1))
			closed <- struct{}{}
		}()
		if len(silent)%maxConnections == 0 {
			if status, _ := get(t, url+"/liveness"); status != 200 {
				t.Errorf("the probe got %d", status)
			}
		}
	}
	// Long before their time is over, all but the last ones are closed.
	deadline := time.After(readTimeout / 2)
	for n := range 3 * maxConnections {
		select {
		case <-closed:
		case <-deadline:
			t.Fatalf("%d of %d connections are open", 4*maxConnections-n, 4*maxConnections)
		}
	}
	if status, _ := get(t, url+"/liveness"); status != 200 {
		t.Errorf("the probe got %d", status)
	}
}

func TestTheConnectionGoesInWhichNothingHasHappenedForLongest(t *testing.T) {
	c := newConnections(2)
	conns := make([]net.Conn, 4)
	for i := range conns {
		conns[i] = &net.TCPConn{}
	}
	for i, step := range []struct {
		conn  int
		state http.ConnState
		gone  int // -1 for none
	}{
		{0, http.StateNew, -1}, {1, http.StateNew, -1}, {0, http.StateActive, -1},
		{2, http.StateNew, 1}, {1, http.StateClosed, -1}, {0, http.StateIdle, -1},
		{3, http.StateNew, 2}, {2, http.StateActive, -1}, {0, http.StateClosed, -1}, {3, http.StateClosed, -1},
	} {
		var want net.Conn
		if step.gone >= 0 {
			want = conns[step.gone]
		}
		if got := c.note(conns[step.conn], step.state); got != want {
			t.Errorf("step %d: another connection had to go", i)
		}
	}
	if c.waiting.Len() != 0 || c.served.Len() != 0 || len(c.at) != 0 {
		t.Errorf("%d, %d and %d connections are left", c.waiting.Len(), c.served.Len(), len(c.at))
	}
}

func TestARequestUnderWayIsNotEndedForConnectionsThatComeAfterIt(t *testing.T) {
	h, url := start(t)
	entered, release := make(chan struct{}), make(chan struct{})
	h.HandleDebug("GET /debug/slow", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	}))
	status := make(chan int)
	go func() {
		got, _ := get(t, url+"/debug/slow")
		status <- got
	}()
	<-entered
	var first net.Conn
	for range 2 * maxConnections {
		c, err := net.Dial("tcp", h.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if first == nil {
			first = c
		}
		if _, err := io.WriteString(c, "GET /liveness HTTP/1.1\r\n"); err != nil { // and no more
			t.Fatal(err)
		}
	}
	_ = first.SetDeadline(time.Now().Add(patience))
	if _, err := first.Read(make([]byte, 1)); err == nil { // it had to go
		t.Error("half a request has an answer")
	}
	close(release)
	if got := <-status; got != 200 {
		t.Errorf("the request under way got %d", got)
	}
}

func TestRequestsUnderWayTakeHalfOfTheConnections(t *testing.T) {
	c := newConnections(4)
	conns := make([]net.Conn, 6)
	for i := range conns {
		conns[i] = &net.TCPConn{}
	}
	come := func(n int) net.Conn { return c.note(conns[n], http.StateNew) }
	for n := range 4 {
		if come(n) != nil {
			t.Fatal("one had to go before there were too many")
		}
	}
	c.serve(conns[0])
	c.serve(conns[1])
	if gone := come(4); gone != conns[2] {
		t.Error("it was not the one that is quiet for longest")
	}
	c.serve(conns[2]) // has gone
	c.serve(conns[3])
	if gone := come(5); gone != conns[0] {
		t.Error("of three of four that are served it was not the first")
	}
}
