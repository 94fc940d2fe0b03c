package openid

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnswersOfAnIssuerThatDoNotCount(t *testing.T) {
	long := strings.NewReader(`{"issuer":"` + strings.Repeat("x", answerBytes) + `"}`)
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"another issuer": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"issuer":"https://other.example","jwks_uri":"https://other.example"}`)
		}, "names the issuer"},
		"no JSON":    {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "decode"},
		"over 1 MiB": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, long) }, "longer than"},
		"redirect to another host": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		}, "redirect to another host"},
		"redirect in a circle": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, "too many redirects"},
	} {
		server := httptest.NewServer(c.answer)
		i, err := NewIssuer(server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.Discover(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something about %q", name, err, c.want)
		}
		i.Close()
		server.Close()
	}
	i, err := NewIssuer("https://secure.example", transport(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(
			`{"issuer":"https://secure.example","jwks_uri":"http://secure.example/keys"}`))}, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Discover(t.Context()); err == nil || !strings.Contains(err.Error(), "not https") {
		t.Errorf("keys without TLS: %v", err)
	}
}

// transport answers requests without a network.
type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }
