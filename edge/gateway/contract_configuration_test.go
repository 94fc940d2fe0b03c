package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"canopy/shared/config"
)

// What operators see: CORS, probes and metrics. Names and bad values of settings are the
// tests' of package config.

func TestCORS(t *testing.T) {
	page := http.Header{"Origin": {"https://console.example"}}
	preflight := with(page, http.Header{"Access-Control-Request-Method": {"GET"}, "Connection": {"close"}, "Upgrade": {"none"}})
	disabled := startEdge(t, nil)
	permissive := startEdge(t, func(cfg *config.Config) { cfg.HTTP.CORS.Mode = "permissive" })
	for _, c := range []struct {
		name, method string
		edge         *stack
		header       http.Header
		status       int
		allow        string
	}{
		{"disabled, a refusal", http.MethodGet, disabled, page, 404, ""},
		{"disabled, a question before", http.MethodOptions, disabled, preflight, 400, ""},
		{"permissive, a refusal", http.MethodGet, permissive, page, 404, "*"},
		{"permissive, a question before", http.MethodOptions, permissive, preflight, 204, "*"},
		{"permissive, no browser", http.MethodGet, permissive, nil, 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, body := c.edge.ask(c.method, "/nobody", c.header)
			if got := answer.Header.Get("Access-Control-Allow-Origin"); answer.StatusCode != c.status || got != c.allow {
				t.Errorf("got %s %s, allowed %q; want %d, %q", answer.Status, body, got, c.status, c.allow)
			}
			if answer.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
		})
	}
}

// health asks the health server.
func (s *stack) health(path string) (status int, body string) {
	s.t.Helper()
	answer, err := http.Get("http://" + s.admin + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	s := startEdge(t, nil)
	if status, body := s.health("/readiness"); status != 200 || !strings.Contains(body, `{"success":true,"checks":{`) {
		t.Errorf("ready: %d %s", status, body)
	}
	s.nats.Down()
	s.await("what is missing", func() bool {
		status, body := s.health("/readiness")
		return status == 503 && strings.Contains(body, `"nats":{"success":false,"error":"`) && strings.Contains(body, `"openid":{"success":true}`)
	})
	if status, body := s.health("/liveness"); status != 200 || body != `{"success":true}`+"\n" {
		t.Errorf("alive: %d %q", status, body)
	}
	s.nats.Up()
	s.waitReady()
}

func TestMetricsHaveTheNamesThatOperatorsKnow(t *testing.T) {
	s := startEdge(t, nil)
	c := s.dial("/secret-app", basicAuth("alice", "secret"))
	s.write(c, `{"RefreshAccessToken":"x"}`)
	if closed := closedWith(t, c); closed.Code != 1008 {
		t.Errorf("closed with %v, want 1008", closed)
	}
	s.ask(http.MethodGet, "/open-app?token=x", nil)
	s.ask(http.MethodGet, "/nobody", nil)
	_, metrics := s.health("/metrics")
	for _, name := range []string{
		`drogue_connections{protocol="ws",type="integration"}`,
		`drogue_ws_integration_incoming_message{type="refresh_access_token"} 1`,
		`drogue_client_user_authentication_access_token{outcome=`,
		`drogue_client_user_authorization{outcome=`,
		`canopy_build_info{`,
		`canopy_edge_event_age_seconds_bucket{`,
		`canopy_edge_requests_total{status="101"} 1`,
		`canopy_edge_closed_total{code="1008"} 1`,
		`canopy_edge_over_limit_total{limit="connections"} 0`,
		`canopy_edge_over_limit_total{limit="connections_per_address"} 0`,
		`canopy_edge_over_limit_total{limit="connections_per_application"} 0`,
		`canopy_edge_over_limit_total{limit="connections_per_second"} 0`,
		`canopy_edge_over_limit_total{limit="connections_per_user"} 0`,
		`canopy_edge_over_limit_total{limit="header_bytes"} 0`,
		`canopy_edge_over_limit_total{limit="message_bytes"} 0`,
		`canopy_edge_over_limit_total{limit="messages_per_second"} 0`,
		`canopy_edge_over_limit_total{limit="questions"} 0`,
	} {
		if !strings.Contains(metrics, "\n"+name) {
			t.Errorf("no metric %s", name)
		}
	}
}
