package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"canopy/shared/config"
)

// slack is for a machine that is busy with other tests.
const slack = 3 * time.Second

// sockets is the size of a crowd: 200, or what CANOPY_TEST_SOCKETS says.
func sockets(t *testing.T) int { return setting(t, "CANOPY_TEST_SOCKETS", 200) }

// want checks that all n sockets of a crowd ended in one way, none before since, and the
// last one within the promised time after it.
func (c *crowd) want(n int, end string, since time.Time, promised time.Duration) {
	c.t.Helper()
	saw := c.ended()
	c.t.Logf("%d sockets ended %v, the first %v and the last %v after what ended them", n, saw.Ends,
		saw.First.Sub(since).Round(time.Millisecond), saw.Last.Sub(since).Round(time.Millisecond))
	if saw.Ends[end] != n {
		c.t.Errorf("sockets ended %v, want %d times %s", saw.Ends, n, end)
	}
	if first := saw.First.Sub(since); first < -500*time.Millisecond {
		c.t.Errorf("a socket ended %v too early", -first)
	}
	if last := saw.Last.Sub(since); last > promised+slack {
		c.t.Errorf("the last socket ended after %v, promised were %v", last, promised)
	}
}

func TestExpiredTokensCloseTheirSocketsWithinASecond(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, trust(o))
	n := sockets(t)
	exp := time.Now().Add(5*time.Second + time.Duration(n/200)*time.Second).Truncate(time.Second)
	claims := o.claims("alice")
	claims["exp"] = exp.Unix()
	s.gather("/secret-app", "Bearer "+o.sign(claims), n).want(n, "1008 JWT token expired", exp, time.Second)
}

// edit replaces a part of the applications file, which must be in it.
func (s *stack) edit(old, new string) {
	s.t.Helper()
	if !strings.Contains(applications, old) {
		s.t.Fatalf("the applications file does not hold %q", old)
	}
	if err := os.WriteFile(s.file, []byte(strings.Replace(applications, old, new, 1)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func TestWhatLeavesTheApplicationsFileClosesItsSocketsWithinFiveSeconds(t *testing.T) {
	key := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))
	for name, c := range map[string]struct {
		path, authorization, old, new string
	}{
		"application": {"/other-app", "", "other-app", "another-app"},
		"member":      {"/secret-app", key, "secret-app:\n    members:\n      alice", "secret-app:\n    members:\n      bob"},
		"key":         {"/open-app", key, "2bb80d", "2bb80e"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startEdge(t, nil)
			n := sockets(t)
			crowd := s.gather(c.path, c.authorization, n)
			stays := s.dial("/open-app", nil)
			since := time.Now()
			s.edit(c.old, c.new)
			crowd.want(n, "1008 Access withdrawn", since, 5*time.Second)
			s.publish("open-app", "", 1)
			if r := read(t, stays); r.Data.N != 1 {
				t.Errorf("a socket that nothing was taken from got %+v", r)
			}
		})
	}
}

// cloud plays Drogue's service of users and the issuer of its clients.
type cloud struct {
	server *httptest.Server

	mu      sync.Mutex
	allowed bool
	down    bool
	slow    string // a question that holds this is answered only once the test is over
	held    int    // how many such questions have come
	asked   map[string]int
}

const drogueKey = "drg_012345_01234567890123456789012345678920BetF"

func startCloud(t *testing.T) *cloud {
	t.Helper()
	d := &cloud{allowed: true, asked: make(map[string]int)}
	over := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /realm/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"issuer":"%[1]s/realm","token_endpoint":"%[1]s/realm/token"}`, d.server.URL)
	})
	mux.HandleFunc("POST /realm/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"the-edge-s-token","token_type":"Bearer","expires_in":300}`)
	})
	mux.HandleFunc("POST /api/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d.mu.Lock()
		hangs := d.slow != "" && strings.Contains(string(body), d.slow)
		if hangs {
			d.held++
		}
		d.mu.Unlock()
		if hangs {
			<-over
		}
		var question struct {
			User string `json:"user_id"`
		}
		_ = json.Unmarshal(body, &question) // what is no question is answered like one of nobody
		d.mu.Lock()
		defer d.mu.Unlock()
		d.asked[string(body)]++
		switch known := strings.Contains(string(body), drogueKey); {
		case d.down:
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "/authn") && known:
			_, _ = fmt.Fprintf(w, `{"outcome":{"Known":{"user_id":"%s-id","roles":[]}}}`, question.User)
		case strings.HasSuffix(r.URL.Path, "/authn"):
			_, _ = io.WriteString(w, `{"outcome":"Unknown"}`)
		case strings.Contains(string(body), `"application":"open-app"`):
			_, _ = io.WriteString(w, `{"outcome":"allow"}`)
		case d.allowed && strings.Contains(string(body), `"application":"secret-app","permission":"Read","user_id":"`) && strings.HasSuffix(question.User, "-id"):
			_, _ = io.WriteString(w, `{"outcome":"allow"}`)
		default:
			_, _ = io.WriteString(w, `{"outcome":"deny"}`)
		}
	})
	d.server = httptest.NewServer(mux)
	t.Cleanup(d.server.Close)
	t.Cleanup(func() { close(over) })
	return d
}

func (d *cloud) set(change func(*cloud)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// use has an edge take its access from Drogue.
func (d *cloud) use(cache, stale time.Duration) func(*config.Config) {
	return func(c *config.Config) {
		c.Edge.ApplicationsFile, c.Edge.AccessCache, c.Edge.AccessStale = "", cache, stale
		c.UserAuth = config.Service{URL: d.server.URL, ClientID: "edge", ClientSecret: "hush", IssuerURL: d.server.URL + "/realm"}
	}
}

var drogueBasic = "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+drogueKey))

func TestAccessThatDrogueWithdrawsEndsWithTheCacheAndCostsOneQuestion(t *testing.T) {
	d := startCloud(t)
	const cache = 4 * time.Second
	s := startEdge(t, d.use(cache, time.Minute))
	n := sockets(t)
	begin := time.Now()
	crowd := s.gather("/secret-app", drogueBasic, n)
	d.set(func(d *cloud) { d.allowed = false })
	since := time.Now()
	crowd.want(n, "1008 Access withdrawn", since, cache)
	d.mu.Lock()
	defer d.mu.Unlock()
	// Each answer is asked for again after 0.65 of its lifetime at the earliest.
	most := 2 + int(time.Since(begin)/(cache*65/100))
	for question, times := range d.asked {
		if strings.Contains(question, "alice") && times > most {
			t.Errorf("%d sockets of one user cost %d times the question %.60s, want %d at most", n, times, question, most)
		}
	}
}

func TestAnOutageOfDrogueClosesSocketsOnlyAfterTheStaleTime(t *testing.T) {
	d := startCloud(t)
	const cache, stale = 2 * time.Second, 3 * time.Second
	s := startEdge(t, d.use(cache, stale))
	crowd := s.gather("/secret-app", drogueBasic, 10)
	d.set(func(d *cloud) { d.down = true })
	since := time.Now()
	// The answers are not older than the crowd, and not younger than the outage.
	crowd.want(10, "1011 Access cannot be checked", since.Add(stale), cache+cache/10)
	if status, body := s.open("/secret-app", "Authorization: "+drogueBasic); status != 500 || strings.Contains(body, "503") {
		t.Errorf("a new socket after that: %d %s", status, body)
	}
	d.set(func(d *cloud) { d.down = false })
	for deadline := time.Now().Add(patience); ; {
		status, body := s.open("/secret-app", "Authorization: "+drogueBasic)
		if status == 101 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a new socket after the outage: %d %s", status, body)
		}
	}
	if status, _ := s.open("/other-app", "Authorization: "+drogueBasic); status != 404 {
		t.Errorf("an application that Drogue denies: %d", status)
	}
	if status, _ := s.open("/secret-app"); status != 404 {
		t.Errorf("an anonymous socket: %d", status)
	}
	if status, body := s.open("/secret-app?username=alice&api_key=drg_malformed"); status != 403 || body != justForbidden {
		t.Errorf("a malformed key: %d %s", status, body)
	}
}

func TestReadinessNamesDroguesServiceAmongWhatTheEdgeNeeds(t *testing.T) {
	d := startCloud(t)
	s := startEdge(t, d.use(time.Second, time.Minute))
	if status, body := s.askHealth("GET", "/readiness", nil); status != 200 || !strings.Contains(body, `"user_auth":{"success":true}`) {
		t.Errorf("readiness: %d %s", status, body)
	}
}
