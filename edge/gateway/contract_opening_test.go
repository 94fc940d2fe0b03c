package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"canopy/shared/config"
)

// What clients see before a socket is open: paths, parameters, refusals and their order.

func basicAuth(user, key string) http.Header {
	r, _ := http.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(user, key)
	return r.Header
}

// with adds headers to others.
func with(headers ...http.Header) http.Header {
	all := http.Header{}
	for _, h := range headers {
		for k, v := range h {
			all[k] = v
		}
	}
	return all
}

// answers are the cases of an opening: what is asked, and what is answered. body is a part
// of the answer's; in it ' stands for ".
var answers = []struct {
	name, target string
	header       http.Header
	status       int
	body         string
}{
	// Paths
	{"an application", "/open-app", nil, 101, ""},
	{"a slash at its end is nothing", "/open-app/", nil, 101, ""},
	{"a channel", "/open-app/temperature", nil, 101, ""},
	{"both are percent-decoded", "/%6fpen-app/a%2Fb", nil, 101, ""},
	{"dots are a channel's name, not a way up", "/open-app/..", nil, 101, ""},
	{"three segments", "/open-app/a/b", nil, 404, `'error':'NotFound'`},
	{"our own paths", "/-/open", nil, 404, `'error':'NotFound'`},
	{"no application", "/", nil, 404, `'error':'NotFound'`},
	{"an empty one", "//open-app", nil, 404, `'error':'NotFound'`},
	{"CR LF and NUL in a name", "/a%0d%0ab%00", nil, 404, `'message':'Resource not found: Application / a\r\nb\u0000'`},
	{"NATS's wildcards in a name", "/*%2E%3E", nil, 404, `'error':'NotFound'`},
	{"a bad percent-encoding", "/%zz", nil, 400, `'error':'BadRequest'`},

	// Parameters
	{"an unknown parameter is ignored", "/open-app?x=1&x=2", nil, 101, ""},
	{"also if it cannot be decoded", "/open-app?x=%zz&%zz=1", nil, 101, ""},
	{"also with a semicolon", "/open-app?x=a;b", nil, 101, ""},
	{"a device", "/open-app?device=d", nil, 101, ""},
	{"token twice", "/open-app?token=a&token=b", nil, 400, `Parameter given twice: token`},
	{"username twice", "/open-app?username=a&username=b", nil, 400, `Parameter given twice: username`},
	{"api_key twice", "/open-app?api_key=a&api_key=b", nil, 400, `Parameter given twice: api_key`},
	{"device twice", "/open-app?device=a&device=b", nil, 400, `Parameter given twice: device`},
	{"group_id twice", "/open-app?group_id=a&group_id=b", nil, 400, `Parameter given twice: group_id`},
	{"since twice", "/open-app?since=a&since=b", nil, 400, `Parameter given twice: since`},
	{"a known parameter that cannot be decoded", "/open-app?device=%zz", nil, 400, `Bad percent-encoding in parameter: device`},
	{"everything that is left", "/open-app?since=earliest", nil, 101, ""},
	{"an empty since", "/open-app?since=", nil, 400, `'Bad parameter since: expected a cursor, an RFC 3339 time or earliest: \'\''`},
	{"a since that is none", "/open-app?since=yesterday", nil, 400, `Bad parameter since: `},
	{"a since without a time of day", "/open-app?since=2026-01-01", nil, 400, `Bad parameter since: `},
	{"a since and a group", "/open-app?since=earliest&group_id=g", nil, 400, `'Parameters exclude each other: group_id and since'`},
	{"a device and a group", "/open-app?device=d&group_id=g", nil, 400, `'Parameters exclude each other: group_id and device'`},
	{"a group", "/open-app?group_id=g", nil, 101, ""},
	{"an empty group_id", "/open-app?group_id=", nil, 400, `Bad group_id: expected 1 to 128 bytes`},
	{"a group_id of 129 bytes", "/open-app?group_id=" + strings.Repeat("g", 129), nil, 400, `Bad group_id: expected 1 to 128 bytes`},

	{"a channel of 1 KiB", "/open-app/" + strings.Repeat("%41", 1024), nil, 101, ""},
	{"a longer channel", "/open-app/" + strings.Repeat("%41", 1025), nil, 400, `Bad channel: expected at most 1024 bytes`},
	{"a longer channel of a group", "/open-app/" + strings.Repeat("x", 1025) + "?group_id=g", nil, 400, `Bad channel: expected at most 1024 bytes`},
	{"a device of 1 KiB", "/open-app?device=" + strings.Repeat("x", 1024), nil, 101, ""},
	{"a longer device", "/open-app?device=" + strings.Repeat("%C3%A4", 513), nil, 400, `Bad parameter device: expected at most 1024 bytes`},

	// Upgrade headers
	{"no upgrade", "/open-app", http.Header{"Connection": {"close"}, "Upgrade": {"nothing"}}, 400, `{'error':'BadRequest','message':'header Connection must contain Upgrade'}`},
	{"another upgrade", "/open-app", http.Header{"Upgrade": {"h2c"}}, 400, `header Upgrade must contain websocket`},
	{"another version", "/open-app", http.Header{"Sec-WebSocket-Version": {"8"}}, 400, `header Sec-WebSocket-Version must be 13`},
	{"a bad key", "/open-app", http.Header{"Sec-WebSocket-Key": {"x"}}, 400, `header Sec-WebSocket-Key must be given once`},

	// Who it is
	{"a key in the header", "/secret-app", basicAuth("alice", "secret"), 101, ""},
	{"a key in the query", "/secret-app?username=alice&api_key=secret", nil, 101, ""},
	{"an unknown key", "/secret-app", basicAuth("alice", "wrong"), 403, `{'error':'Forbidden','message':'Forbidden'}`},
	{"an unknown key on a public application", "/open-app", basicAuth("alice", "wrong"), 403, `{'error':'Forbidden','message':'Forbidden'}`},
	{"somebody else's key", "/secret-app", basicAuth("bob", "secret"), 403, `{'error':'Forbidden','message':'Forbidden'}`},
	{"a token without an issuer", "/secret-app?token=x", nil, 403, `{'error':'Forbidden','message':'Forbidden'}`},
	{"two kinds at once", "/secret-app?token=x", basicAuth("alice", "secret"), 403, `{'error':'Forbidden','message':'Invalid request: `},
	{"Basic without a password", "/open-app", http.Header{"Authorization": {"Basic YWxpY2U="}}, 403, `'message':'Invalid request: `},
	{"Basic that is no base64", "/open-app", http.Header{"Authorization": {"Basic !"}}, 403, `'message':'Invalid request: `},

	// What he may read
	{"an unknown application", "/nobody", nil, 404, `{'error':'NotFound','message':'Resource not found: Application / nobody'}`},
	{"a private one, anonymously", "/secret-app", nil, 404, `{'error':'NotFound','message':'Resource not found: Application / secret-app'}`},
	{"a name of 10 KB is cut", "/" + strings.Repeat("x", 10_240), nil, 404, strings.Repeat("x", 256) + `'}`},

	// Sizes
	{"headers over 32 KiB", "/open-app", http.Header{"X": {strings.Repeat("x", 33<<10)}}, 431, `{'error':'RequestHeaderFieldsTooLarge'`},
	{"headers of nearly 32 KiB", "/open-app", http.Header{"X": {strings.Repeat("x", 31<<10)}}, 101, ""},

	{"100 header lines", "/open-app", http.Header{"X": make([]string, 93)}, 101, ""},
	{"101 header lines", "/open-app", http.Header{"X": make([]string, 94)}, 431, `{'error':'RequestHeaderFieldsTooLarge','message':'Too many header lines'}`},

	// The order: the first that fails answers
	{"headers before the upgrade", "/open-app", http.Header{"X": {strings.Repeat("x", 33<<10)}, "Upgrade": {"h2c"}}, 431, ""},
	{"the upgrade before the parameters", "/open-app?token=a&token=b", http.Header{"Upgrade": {"h2c"}}, 400, `header Upgrade`},
	{"parameters before who it is", "/open-app?device=a&device=b", basicAuth("alice", "wrong"), 400, `given twice`},
	{"who it is before what he may read", "/nobody", basicAuth("alice", "wrong"), 403, `'Forbidden'`},
}

func TestOpening(t *testing.T) {
	s := startEdge(t, nil)
	for _, c := range answers {
		t.Run(c.name, func(t *testing.T) {
			answer, body := s.ask(http.MethodGet, c.target, c.header)
			if answer.StatusCode != c.status || !strings.Contains(body, strings.ReplaceAll(c.body, "'", `"`)) {
				t.Errorf("got %s %.300s, want %d %s", answer.Status, body, c.status, c.body)
			}
			if answer.StatusCode != 101 && (answer.Header.Get("Content-Type") != "application/json" || answer.Header.Get("WWW-Authenticate") != "") {
				t.Errorf("headers %v, want JSON and nothing that asks for a password", answer.Header)
			}
		})
	}
}

func TestWhatNetHTTPCannotReadIsRefusedInJSON(t *testing.T) {
	s := startEdge(t, nil)
	for _, c := range []struct{ name, request, want string }{
		{"no request", "hello\r\n\r\n", `400 Bad Request`},
		{"no host", "GET / HTTP/1.1\r\n\r\n", `{"error":"BadRequest","message":"Bad Request: missing required Host header"}`},
		{"an unknown coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: x\r\n\r\n", `501 Not Implemented`},
		{"an unknown expectation", "GET /open-app HTTP/1.1\r\nHost: h\r\nExpect: x\r\n\r\n", `{"error":"ExpectationFailed","message":"Expectation Failed: unknown expectation"}`},
		{"one in HTTP/1.0", "GET /open-app HTTP/1.0\r\nHost: h\r\nExpect: x\r\n\r\n", `417 Expectation Failed`},
	} {
		answer, err := io.ReadAll(s.connect(c.request))
		text := string(answer)
		if err != nil || !strings.Contains(text, c.want) || !strings.Contains(text, "Content-Type: application/json") || !strings.HasSuffix(text, `"}`) {
			t.Errorf("%s: got %q, %v; want %s in JSON", c.name, text, err, c.want)
		}
	}
	for _, status := range []string{"400", "417"} {
		if n := s.metric(`canopy_edge_requests_total{status="` + status + `"}`); n != 2 {
			t.Errorf("%v requests are counted as %s, want 2", n, status)
		}
	}
}

func TestASubprotocolIsAcceptedIfItIsOffered(t *testing.T) {
	s := startEdge(t, nil)
	for _, c := range []struct {
		name    string
		offered []string
		chosen  string
	}{
		{"none is needed", nil, ""},
		{"ours", []string{"cloudevents.json"}, "cloudevents.json"},
		{"ours among others", []string{"cloudevents.avro, cloudevents.json"}, "cloudevents.json"},
		{"ours in a line of its own", []string{"cloudevents.avro", "cloudevents.json"}, "cloudevents.json"},
		{"others only", []string{"cloudevents.avro"}, ""},
		{"ours in another case", []string{"CloudEvents.JSON"}, ""},
	} {
		header := http.Header{}
		if c.offered != nil {
			header["Sec-Websocket-Protocol"] = c.offered
		}
		answer, _ := s.ask(http.MethodGet, "/open-app", header)
		if got := answer.Header.Get("Sec-WebSocket-Protocol"); answer.StatusCode != 101 || got != c.chosen {
			t.Errorf("%s: %s with %q, want 101 with %q", c.name, answer.Status, got, c.chosen)
		}
	}
}

func TestADeviceBringsItsEventsAndNoOthers(t *testing.T) {
	s := startEdge(t, nil)
	c := s.dial("/open-app?device=d%2F1", nil)
	for n := range 9 {
		s.publishOf([]string{"d/1", "d/2", ""}[n%3], n)
	}
	for _, n := range []int{0, 3, 6} {
		if r := read(t, c); r.Data.N != n {
			t.Fatalf("got event %d, want %d", r.Data.N, n)
		}
	}
}

func TestAnOriginFromElsewhereMayNotUseBasicCredentials(t *testing.T) {
	key := basicAuth("alice", "secret")
	from := func(origin string, more ...http.Header) http.Header {
		return with(append(more, http.Header{"Host": {"edge.example"}, "Origin": {origin}})...)
	}
	proxied := func(scheme string) http.Header { return http.Header{"X-Forwarded-Proto": {scheme}} }
	own := startEdge(t, nil)
	behind := startEdge(t, func(cfg *config.Config) { cfg.HTTP.TrustedProxies = []string{"127.0.0.0/8"} })
	listed := startEdge(t, func(cfg *config.Config) { cfg.Edge.AllowedOrigins = []string{"https://console.example"} })
	for _, c := range []struct {
		name   string
		edge   *stack
		header http.Header
		status int
	}{
		{"no browser", own, key, 101},
		{"its own host", own, from("https://edge.example", key), 101},
		{"its own host in other letters and with the port", own, from("https://EDGE.example:443", key, http.Header{}), 101},
		{"elsewhere", own, from("https://evil.example", key), 403},
		{"a host that begins the same", own, from("https://edge.example.evil", key), 403},
		{"another port", own, from("https://edge.example:8443", key), 403},
		{"a page without an origin", own, from("null", key), 403},
		{"two origins", own, with(key, http.Header{"Host": {"edge.example"}, "Origin": {"https://edge.example", "https://evil.example"}}), 403},
		{"what a forwarded host says is not believed", own, with(from("https://evil.example", key), http.Header{"X-Forwarded-Host": {"evil.example"}}), 403},
		{"the scheme that a trusted proxy saw", behind, from("https://edge.example", key, proxied("https")), 101},
		{"another scheme than a trusted proxy saw", behind, from("http://edge.example", key, proxied("https")), 403},
		{"the proxy's word is the last", behind, from("http://edge.example", key, proxied("http, https")), 403},
		{"one of the list", listed, from("https://console.example", key), 101},
		{"none of the list, though its own host", listed, from("https://edge.example", key), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, body := c.edge.ask(http.MethodGet, "/secret-app", c.header)
			if answer.StatusCode != c.status || c.status == 403 && body != `{"error":"Forbidden","message":"Origin not allowed"}` {
				t.Errorf("got %s %s, want %d", answer.Status, body, c.status)
			}
		})
	}
	for name, target := range map[string]string{"anonymously": "/open-app", "with a key in the query": "/secret-app?username=alice&api_key=secret"} {
		if answer, body := own.ask(http.MethodGet, target, from("https://evil.example")); answer.StatusCode != 101 {
			t.Errorf("from elsewhere %s: %s %s, want 101", name, answer.Status, body)
		}
	}
}
