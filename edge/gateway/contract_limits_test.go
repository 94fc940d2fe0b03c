package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/config"
)

// Who gets how many sockets, and what those are told who get none.

// await waits until a condition holds.
func (s *stack) await(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not come", what)
		}
	}
}

func TestLimits(t *testing.T) {
	key := basicAuth("alice", "secret")
	for _, c := range []struct {
		name        string
		limits      config.Limits
		first       string // is open
		second      string // is asked for then
		header      http.Header
		status      int
		retry, body string
		metric      string
	}{
		{"on this edge", config.Limits{Connections: 1}, "/open-app", "/open-app", nil,
			503, "5", `{"error":"Unavailable","message":"Too many connections on this edge"}`, "connections"},
		{"in this second", config.Limits{ConnectionsPerSecond: 1}, "/open-app", "/open-app", nil,
			503, "1", `{"error":"Unavailable","message":"Too many new connections on this edge"}`, "connections_per_second"},
		{"of an address", config.Limits{ConnectionsPerAddress: 1}, "/open-app", "/other-app", nil,
			429, "10", `{"error":"TooManyRequests","message":"Too many connections from this address"}`, "connections_per_address"},
		{"of a user", config.Limits{ConnectionsPerUser: 1}, "/secret-app", "/open-app", key,
			429, "10", `{"error":"TooManyRequests","message":"Too many connections of this user"}`, "connections_per_user"},
		{"of an application", config.Limits{ConnectionsPerApplication: 1}, "/open-app", "/open-app/channel", key,
			429, "10", `{"error":"TooManyRequests","message":"Too many connections to this application"}`, "connections_per_application"},

		// The order: the first that fails answers
		{"of an address before the upgrade", config.Limits{ConnectionsPerAddress: 1}, "/open-app", "/open-app", http.Header{"Upgrade": {"h2c"}},
			429, "10", `from this address`, "connections_per_address"},
		{"the edge before an address", config.Limits{Connections: 1, ConnectionsPerAddress: 1}, "/open-app", "/open-app", nil,
			503, "5", `on this edge`, "connections"},
		{"headers before the edge", config.Limits{Connections: 1}, "/open-app", "/open-app", http.Header{"X": {strings.Repeat("x", 33<<10)}},
			431, "", `RequestHeaderFieldsTooLarge`, "header_bytes"},
		{"of an application before its groups", config.Limits{ConnectionsPerApplication: 1, NewGroupsPerAddress: 1}, "/open-app?group_id=g", "/open-app?group_id=h", nil,
			429, "10", `to this application`, "connections_per_application"},
		{"of a user before his groups", config.Limits{ConnectionsPerUser: 1, NewGroupsPerUser: 1}, "/open-app?group_id=g", "/open-app?group_id=h", key,
			429, "10", `of this user`, "connections_per_user"},
		{"of an application's groups, which has its members apart", config.Limits{GroupsPerApplication: 1}, "/open-app?group_id=g", "/open-app?group_id=h", key,
			429, "60", `{"error":"TooManyRequests","message":"Too many groups of this application"}`, "groups_per_application"},
		{"of a user after what he may read", config.Limits{ConnectionsPerUser: 1}, "/secret-app", "/nobody", key,
			404, "", `Application / nobody`, ""},
		{"of a user before his application", config.Limits{ConnectionsPerUser: 1, ConnectionsPerApplication: 1}, "/secret-app", "/secret-app", key,
			429, "10", `of this user`, "connections_per_user"},

		// What does not count
		{"another application", config.Limits{ConnectionsPerApplication: 1}, "/open-app", "/other-app", nil, 101, "", "", ""},
		{"a group that is there", config.Limits{NewGroupsPerUser: 1, GroupsPerApplication: 1}, "/open-app?group_id=g", "/open-app?group_id=g", key, 101, "", "", ""},
		{"members beside public readers", config.Limits{NewGroupsPerAddress: 1, GroupsPerApplication: 1}, "/open-app?group_id=g", "/open-app?group_id=h&username=alice&api_key=secret", nil, 101, "", "", ""},
		{"anonymous is no user", config.Limits{ConnectionsPerUser: 1}, "/open-app", "/open-app", nil, 101, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startEdge(t, func(cfg *config.Config) {
				limits := &cfg.Edge.Limits
				limits.Connections, limits.ConnectionsPerSecond = c.limits.Connections, c.limits.ConnectionsPerSecond
				limits.ConnectionsPerAddress, limits.ConnectionsPerUser = c.limits.ConnectionsPerAddress, c.limits.ConnectionsPerUser
				limits.ConnectionsPerApplication = c.limits.ConnectionsPerApplication
				limits.NewGroupsPerAddress, limits.NewGroupsPerUser = c.limits.NewGroupsPerAddress, c.limits.NewGroupsPerUser
				limits.GroupsPerApplication = c.limits.GroupsPerApplication
			})
			s.dial(c.first, with(c.header, http.Header{"Upgrade": {"websocket"}, "X": nil}))
			answer, body := s.ask(http.MethodGet, c.second, c.header)
			for c.metric == "connections_per_second" && answer.StatusCode == 101 { // a second had passed
				answer, body = s.ask(http.MethodGet, c.second, c.header)
			}
			if answer.StatusCode != c.status || answer.Header.Get("Retry-After") != c.retry || !strings.Contains(body, c.body) {
				t.Errorf("got %s, Retry-After %q, %s; want %d, %q, %s", answer.Status, answer.Header.Get("Retry-After"), body, c.status, c.retry, c.body)
			}
			if c.metric == "" {
				return
			}
			if n := s.metric(`canopy_edge_over_limit_total{limit="` + c.metric + `"}`); n != 1 {
				t.Errorf("%v refusals are counted, want 1", n)
			}
		})
	}
}

func TestLimitsOfNewGroups(t *testing.T) {
	for _, c := range []struct {
		name, body, metric string
		limits             config.Limits
		header             http.Header
	}{
		{"of an address", `{"error":"TooManyRequests","message":"Too many new groups from this address"}`, "new_groups_per_address",
			config.Limits{NewGroupsPerAddress: 1}, nil},
		{"of a user", `{"error":"TooManyRequests","message":"Too many new groups of this user"}`, "new_groups_per_user",
			config.Limits{NewGroupsPerUser: 1}, basicAuth("alice", "secret")},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startEdge(t, func(cfg *config.Config) {
				limits := &cfg.Edge.Limits
				limits.NewGroupsPerAddress, limits.NewGroupsPerUser = c.limits.NewGroupsPerAddress, c.limits.NewGroupsPerUser
			})
			for n, want := range []int{101, 429, 429} {
				answer, body := s.ask(http.MethodGet, fmt.Sprint("/open-app?group_id=g", n), c.header)
				if answer.StatusCode != want || want == 429 && body != c.body {
					t.Errorf("group %d: %s, %s; want %d %s", n, answer.Status, body, want, c.body)
				}
				retry, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
				if least := 3600 - int(patience/time.Second); want == 429 && (retry < least || retry > 3600) {
					t.Errorf("group %d: Retry-After %d, want an hour", n, retry)
				}
			}
			if n := s.metric(`canopy_edge_over_limit_total{limit="` + c.metric + `"}`); n != 2 {
				t.Errorf("%v refusals are counted, want 2", n)
			}
		})
	}
}

func TestAUserIsOneUserWithTokensAndWithKeysAndAnotherAtAFurtherIssuer(t *testing.T) {
	first, second := startOIDC(t), startOIDC(t)
	s := startEdge(t, func(cfg *config.Config) {
		trust(first, second)(cfg)
		cfg.Edge.Limits.ConnectionsPerUser = 1
	})
	s.dial("/open-app?token="+first.sign(first.claims("alice")), nil)
	if status, body := s.open("/open-app?username=alice&api_key=secret"); status != 429 || !strings.Contains(body, "of this user") {
		t.Errorf("the key of a user who has a socket by token: %d %s, want 429", status, body)
	}
	if status, body := s.open("/open-app?token=" + second.sign(second.claims("alice"))); status != 101 {
		t.Errorf("a user of that name at the second issuer: %d %s, want 101", status, body)
	}
}

func TestQuestionsAboutAccessInVainAreCountedAsALimit(t *testing.T) {
	d := startCloud(t)
	s := startEdge(t, d.use(time.Minute, time.Minute))
	refused := 0.0
	for n := 0; n < vainBurst+50; n++ {
		if answer, _ := s.ask(http.MethodGet, fmt.Sprintf("/nothing-%d", n), nil); answer.StatusCode == 429 {
			refused++
		}
	}
	if n := s.metric(`canopy_edge_over_limit_total{limit="forbidden_applications"}`); refused == 0 || n != refused {
		t.Errorf("%v refusals are counted, want %v", n, refused)
	}
}

func TestTheAddressThatCountsIsTheClients(t *testing.T) {
	from := func(entries ...string) http.Header { return http.Header{"X-Forwarded-For": entries} }
	s := startEdge(t, func(cfg *config.Config) {
		cfg.HTTP.TrustedProxies = []string{"127.0.0.1", "10.0.0.0/8"}
		cfg.Edge.Limits.ConnectionsPerAddress = 1
	})
	s.dial("/open-app", from("192.0.2.1"))
	s.dial("/open-app", from("2001:db8:1:2::1"))
	for _, c := range []struct {
		name   string
		header http.Header
		status int
	}{
		{"the same address", from("192.0.2.1"), 429},
		{"the same with a port", from("192.0.2.1:4711"), 429},
		{"the same as IPv6 writes it", from("::ffff:192.0.2.1"), 429},
		{"the same behind a further proxy", from("192.0.2.1, 10.1.2.3"), 429},
		{"the same, and what the client made up", from("198.51.100.7, 192.0.2.1"), 429},
		{"the same, in two lines", from("198.51.100.7", "192.0.2.1"), 429},
		{"another address", from("192.0.2.2"), 101},
		{"another one that poses as the same", from("192.0.2.1, 198.51.100.8"), 101},
		{"the same /64", from("2001:db8:1:2:ffff::9"), 429},
		{"another /64", from("[2001:db8:1:3::1]:4711"), 101},
		{"Forwarded is not read", http.Header{"Forwarded": {"for=192.0.2.1"}}, 101},
		{"what is no address", from("192.0.2.1, unknown"), 101}, // counts for the proxy, which has none
	} {
		t.Run(c.name, func(t *testing.T) {
			var answer *http.Response
			s.await("another answer than before", func() bool { // the socket before may still be on its end
				answer, _ = s.ask(http.MethodGet, "/open-app", c.header)
				return answer.StatusCode == c.status || c.status == 429
			})
			if answer.StatusCode != c.status {
				t.Errorf("got %s, want %d", answer.Status, c.status)
			}
		})
	}
}

func TestAForwardedAddressCountsFromTrustedProxiesOnly(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		cfg.HTTP.TrustedProxies = []string{"10.0.0.0/8"}
		cfg.Edge.Limits.ConnectionsPerAddress = 1
	})
	s.dial("/open-app", http.Header{"X-Forwarded-For": {"192.0.2.1"}})
	if answer, _ := s.ask(http.MethodGet, "/open-app", http.Header{"X-Forwarded-For": {"192.0.2.2"}}); answer.StatusCode != 429 {
		t.Errorf("got %s, want 429", answer.Status)
	}
}

func TestAnOperatorHearsOfAProxyThatHeHasNotNamed(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	s := startEdgeLogging(t, zap.New(core), func(cfg *config.Config) { cfg.HTTP.TrustedProxies = []string{"10.0.0.0/8"} })
	warnings := func() []observer.LoggedEntry { return logs.FilterMessageSnippet("HTTP__TRUSTED_PROXIES").All() }
	s.ask(http.MethodGet, "/open-app", nil)
	if got := warnings(); len(got) != 0 {
		t.Errorf("a request without X-Forwarded-For is warned of: %v", got)
	}
	for range 20 {
		s.ask(http.MethodGet, "/open-app", http.Header{"X-Forwarded-For": {"192.0.2.77"}})
	}
	if got := warnings(); len(got) != 1 || got[0].ContextMap()["peer"] != "127.0.0.1" {
		t.Errorf("20 requests are warned of so: %v; want one warning with the peer", got)
	}
	if n := s.metric("canopy_edge_untrusted_forwarded_total"); n != 20 {
		t.Errorf("%v requests are counted, want 20", n)
	}
}

func TestWarningsOfAProxyComeOnceInAWhile(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	now := time.Unix(1, 0)
	strange := newStrangers(prometheus.NewRegistry())
	strange.present = func() time.Time { return now }
	for range 3 {
		strange.note(zap.New(core), netip.MustParseAddr("192.0.2.1"))
		now = now.Add(strangersInterval - 1)
		strange.note(zap.New(core), netip.MustParseAddr("192.0.2.1"))
		now = now.Add(1)
	}
	if n := logs.Len(); n != 3 {
		t.Errorf("%d warnings in three times the interval, want 3", n)
	}
}

func TestTheAddressBehindThePROXYProtocolIsTheClients(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := startEdge(t, func(cfg *config.Config) {
			// The probe of startEdge goes to the health address, which is another one.
			cfg.HTTP.ProxyProtocol = true
			cfg.Edge.Limits.ConnectionsPerAddress = 1
			if secure {
				(&stack{t: t}).secure(cfg)
			}
		})
		open := func(client string) int {
			c := s.behind("PROXY TCP4 " + client + " 192.0.2.9 4711 443\r\n")
			return s.handshakeOn(c)
		}
		for i, want := range []int{101, 429, 101} {
			if got := open([]string{"192.0.2.1", "192.0.2.1", "192.0.2.2"}[i]); got != want {
				t.Errorf("TLS %v: connection %d got %d, want %d", secure, i, got, want)
			}
		}
		refused := s.behind("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err := refused.Read(make([]byte, 1)); err == nil {
			t.Error("a connection without a header was answered")
		}
		s.await("its count", func() bool { return s.metric("canopy_edge_proxy_headers_refused_total") == 1 })
	}
}

func TestPlacesAreGivenBackHoweverASocketEnds(t *testing.T) {
	key := basicAuth("alice", "secret")
	s := startEdge(t, func(cfg *config.Config) {
		cfg.Edge.Limits.ConnectionsPerAddress = 2
		cfg.Edge.Limits.ConnectionsPerUser = 1
		cfg.Edge.Limits.ConnectionsPerApplication = 1
	})
	next := func(after string) *websocket.Conn {
		s.t.Helper()
		s.await("a place after "+after, func() bool { // the edge hears of an end a little later
			answer, _ := s.ask(http.MethodGet, "/secret-app", key)
			return answer.StatusCode == 101
		})
		var c *websocket.Conn
		s.await("a socket after "+after, func() bool {
			var err error
			c, err = s.tryDial("/secret-app", key)
			return err == nil
		})
		return c
	}
	c := next("the start")
	_ = c.Close(websocket.StatusNormalClosure, "")
	c = next("a close by the client")
	_ = c.CloseNow()
	c = next("a cut by the client")
	s.write(c, "hello")
	if closed := closedWith(t, c); closed.Code != 1002 {
		t.Errorf("closed with %v, want 1002", closed)
	}
	next("a close by the edge")
	for range 20 {
		hand := s.connect(strings.Replace(handshake, "open-app", "secret-app", 1))
		_ = tcpOf(hand).SetLinger(0)
		_ = hand.Close()
		s.ask(http.MethodGet, "/nobody", key)
		s.ask(http.MethodGet, "/secret-app", basicAuth("alice", "wrong"))
		s.ask(http.MethodGet, "/secret-app", with(key, http.Header{"Upgrade": {"h2c"}}))
	}
	if answer, _ := s.ask(http.MethodGet, "/secret-app", key); answer.StatusCode != 429 {
		t.Errorf("a second socket of the user: %s, want 429", answer.Status)
	}
	if err := os.WriteFile(s.file, []byte(strings.Replace(applications, "secret-app", "no-app", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.await("the end of the socket", func() bool { return s.metric(`drogue_connections{protocol="ws",type="integration"}`) == 0 })
	if err := os.WriteFile(s.file, []byte(applications), 0o600); err != nil {
		t.Fatal(err)
	}
	next("a withdrawal")
}

func TestLimitsAreExactWhenHandshakesComeAtOnce(t *testing.T) {
	const limit, clients = 5, 40
	for _, limits := range []config.Limits{
		{ConnectionsPerAddress: limit}, {ConnectionsPerUser: limit}, {ConnectionsPerApplication: limit},
	} {
		s := startEdge(t, func(cfg *config.Config) {
			limits.HeaderBytes, limits.MessageBytes = cfg.Edge.Limits.HeaderBytes, cfg.Edge.Limits.MessageBytes
			limits.HeaderLines = cfg.Edge.Limits.HeaderLines
			cfg.Edge.Limits = limits
		})
		var opened atomic.Int64
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				if _, err := s.tryDial("/secret-app", basicAuth("alice", "secret")); err == nil {
					opened.Add(1)
				} else if !strings.Contains(err.Error(), "429") {
					t.Errorf("refused with %v, want 429", err)
				}
			})
		}
		all.Wait()
		if opened.Load() != limit {
			t.Errorf("%s: %d sockets are open, want %d", fmt.Sprintf("%+v", limits), opened.Load(), limit)
		}
	}
}
