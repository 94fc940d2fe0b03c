package obs

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/config"
)

// raw sends a request as it is, and gives the answer's status line.
func raw(t *testing.T, url, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprint(conn, request); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func TestNamesThatArePointedHereAreRefused(t *testing.T) {
	_, url := startAs(t, config.Health{BindAddr: "127.0.0.1:0", Hosts: []string{"Canopy-Edge", "*.canopy.svc", "a_b"}}, zap.NewNop())
	for host, want := range map[string]int{
		"127.0.0.1": 200, "127.0.0.1:80": 200, "10.1.2.3:9090": 200, "127.0.0.1.": 200,
		"[::1]": 200, "[::1]:9090": 200, "[FD00::1]:9090": 200, "[::ffff:10.1.2.3]:9090": 200,
		"localhost": 200, "LocalHost:9090": 200, "localhost.:9090": 200,
		"canopy-edge": 200, "CANOPY-EDGE.:9090": 200, "edge-0.canopy.svc:9090": 200, "x.y.canopy.svc": 200, "a_b:9090": 200,
		"canopy.svc": 421, ".canopy.svc": 421, "evilcanopy.svc": 421, "x.canopy.svc.evil.example": 421,
		"evil.example": 421, "evil.example:9090": 421, "localhost.evil.example": 421, "evil-localhost": 421,
		"127.0.0.1.evil.example": 421, "127.0.0.1:9090.evil.example": 421, "canopy-edge.evil.example": 421, "canopy": 421,
	} {
		for _, path := range []string{"/metrics", "/liveness", "/debug/pprof/cmdline", "/none"} {
			want := want
			if path == "/none" && want == 200 {
				want = 404
			}
			if status, body := get(t, url+path, "Host: "+host); status != want {
				t.Errorf("%s of %q: %d %.80s, want %d", path, host, status, body, want)
			} else if want == 421 && !strings.Contains(body, `"error":"MisdirectedRequest"`) {
				t.Errorf("%s of %q: %s", path, host, body)
			}
		}
	}
}

func TestAProbeMayLeaveOutTheHostAndAProxysFormOfARequestHidesNone(t *testing.T) {
	_, url := start(t)
	for request, want := range map[string]string{
		"GET /liveness HTTP/1.0\r\n\r\n":                                             "HTTP/1.0 200 OK",
		"GET /liveness HTTP/1.1\r\nHost:\r\n\r\n":                                    "HTTP/1.1 200 OK",
		"GET /liveness HTTP/1.1\r\n\r\n":                                             "HTTP/1.1 400 Bad Request",
		"GET http://evil.example/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n":        "HTTP/1.1 421 Misdirected Request",
		"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n":     "HTTP/1.1 400 Bad Request",
		"GET //metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n":                       "HTTP/1.1 421 Misdirected Request",
		"OPTIONS * HTTP/1.1\r\nHost: evil.example\r\n\r\n":                           "HTTP/1.1 421 Misdirected Request",
		"CONNECT /debug/pprof/ HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: null\r\n\r\n":  "HTTP/1.1 403 Forbidden",
		"GET /liveness HTTP/1.1\r\nHost: " + strings.Repeat("x", 4<<10) + "\r\n\r\n": "HTTP/1.1 421 Misdirected Request",
	} {
		if got := raw(t, url, request); !strings.HasPrefix(got, want) {
			t.Errorf("%.60q: %s, want %s", request, got, want)
		}
	}
}

func TestPagesOfOtherSitesGetNothingButProbes(t *testing.T) {
	h, url := start(t)
	h.HandleDebug("POST /debug/disconnect", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	own := strings.TrimPrefix(url, "http://")
	for header, want := range map[string]int{
		"": 200, "Sec-Fetch-Site: none": 200, "Sec-Fetch-Site: same-origin": 200,
		"Origin: http://" + own: 200, "Referer: " + url + "/debug/pprof/": 200,
		"Sec-Fetch-Site: cross-site": 403, "Sec-Fetch-Site: same-site": 403, "Sec-Fetch-Site: what-comes-next": 403,
		"Origin: null": 403, "Origin: https://evil.example": 403, "Origin: http://127.0.0.1:1": 403,
		"Referer: https://evil.example/": 403, "Referer: http://127.0.0.1:1/": 403, "Referer: %": 403,
	} {
		var headers []string
		if header != "" {
			headers = append(headers, header)
		}
		for _, path := range []string{"/metrics", "/debug/pprof/cmdline", "/debug/pprof/"} {
			if status, body := get(t, url+path, headers...); status != want {
				t.Errorf("%s, %s: %d %.80s, want %d", path, header, status, body, want)
			}
		}
		if status, _ := send(t, "POST", url+"/debug/disconnect", nil, headers...); status != want {
			t.Errorf("disconnect, %s: %d, want %d", header, status, want)
		}
		if status, _ := get(t, url+"/liveness", headers...); status != 200 {
			t.Errorf("liveness, %s: %d", header, status)
		}
	}
	if status, _ := get(t, url+"/metrics", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"); status != 403 {
		t.Errorf("two answers to where it comes from: %d", status)
	}
}

var debugPaths = []string{
	"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/symbol",
	"/debug/pprof/profile?seconds=1", "/debug/pprof/trace?seconds=0.01", "/debug/pprof/goroutine?debug=2",
}

func TestDebugIsClosedWithoutATokenWhereOthersReachTheAddress(t *testing.T) {
	_, url := startAs(t, config.Health{BindAddr: "0.0.0.0:0"}, zap.NewNop())
	for _, path := range debugPaths {
		status, body := get(t, url+path, "Authorization: Bearer ")
		if status != 403 || !strings.Contains(body, "RUNTIME__HEALTH__DEBUG_TOKEN") {
			t.Errorf("%s: %d %.80s", path, status, body)
		}
	}
	for _, path := range []string{"/metrics", "/liveness"} {
		if status, _ := get(t, url+path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func TestDebugOfLoopbackIsForProgramsOfThisMachine(t *testing.T) {
	g := newGuard(config.Health{}, NewRegistry(), zap.NewNop())
	g.local = true
	for peer, want := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "10.0.0.1:1": false, "[fe80::1%eth0]:1": false, "": false,
	} {
		if ok, _, _ := g.opensDebug(&http.Request{RemoteAddr: peer}); ok != want {
			t.Errorf("%q: %v", peer, ok)
		}
	}
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Real-IP"} {
		r := &http.Request{RemoteAddr: "127.0.0.1:1", Header: make(http.Header)}
		r.Header.Set(name, "10.0.0.1")
		if ok, _, _ := g.opensDebug(r); ok {
			t.Errorf("open to who comes through a proxy that sends %s", name)
		}
	}
}

func TestDebugNeedsTheTokenEverywhereOnceThereIsOne(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		h, url := startAs(t, config.Health{BindAddr: addr, DebugToken: token}, zap.NewNop())
		h.HandleDebug("POST /debug/disconnect", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		for header, want := range map[string]int{
			"Authorization: Bearer " + token: 200, "Authorization: bearer " + token: 200,
			"Authorization: Bearer ": 401, "Authorization: Bearer " + token[1:]: 401, "Authorization: Bearer " + token + "x": 401,
			"Authorization: Basic " + token: 401, "Authorization: " + token: 401, "X-Token: " + token: 401,
		} {
			for _, path := range debugPaths {
				if status, body := get(t, url+path, header); status != want {
					t.Errorf("%s %s, %s: %d %.80s, want %d", addr, path, header, status, body, want)
				}
			}
			if status, _ := send(t, "POST", url+"/debug/disconnect", nil, header); status != want {
				t.Errorf("%s disconnect, %s: %d, want %d", addr, header, status, want)
			}
		}
		if status, _ := get(t, url+"/debug/pprof/cmdline", "Authorization: Bearer "+token, "Authorization: Bearer x"); status != 401 {
			t.Errorf("%s: two tokens: %d", addr, status)
		}
		if status, _ := get(t, url+"/metrics"); status != 200 {
			t.Errorf("%s: metrics without a token: %d", addr, status)
		}
	}
}

func TestRefusalsAreCountedAndWarnedOfNowAndThen(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	_, url := startAs(t, config.Health{BindAddr: "127.0.0.1:0", DebugToken: token}, zap.New(core))
	const wrong = "a-token-that-somebody-has-guessed"
	for range 50 {
		get(t, url+"/debug/pprof/cmdline", "Authorization: Bearer "+wrong)
		get(t, url+"/metrics", "Host: evil.example")
		get(t, url+"/metrics", "Origin: null")
	}
	_, metrics := get(t, url+"/metrics")
	for _, reason := range []string{"token", "host", "page"} {
		if want := fmt.Sprintf("canopy_health_refused_total{reason=%q} 50\n", reason); !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if logs.Len() != 3 {
		t.Errorf("%d warnings, want one for each reason", logs.Len())
	}
	for _, entry := range logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, wrong) {
			t.Errorf("the log tells a token: %s", text)
		}
	}
}
