package config

import (
	"slices"
	"strings"
	"testing"
)

func TestAnEdgeIsWarnedOfWhatItMayStartWith(t *testing.T) {
	const service = "EDGE__APPLICATIONS_FILE= USER_AUTH__URL=http://u USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s "
	for environ, want := range map[string]string{
		"": "",
		"HTTP__PROXY_PROTOCOL=true HTTP__TRUSTED_PROXIES=10.0.0.0/8":                                                                                     "",
		"HTTP__PROXY_PROTOCOL=true":                                                                                                                      "HTTP__PROXY_PROTOCOL without",
		"OAUTH__ISSUER_URL=https://sso.example/realm OAUTH__CLIENTS__0__CLIENT_ID=c":                                                                     "",
		"OAUTH__ISSUER_URL=http://127.0.0.1:8081 OAUTH__CLIENTS__0__CLIENT_ID=c":                                                                         "",
		"OAUTH__ISSUER_URL=http://[::1]:8081 OAUTH__CLIENTS__0__CLIENT_ID=c":                                                                             "",
		"OAUTH__ISSUER_URL=http://localhost OAUTH__CLIENTS__0__CLIENT_ID=c":                                                                              "",
		"OAUTH__ISSUER_URL=http://sso.example OAUTH__CLIENTS__0__CLIENT_ID=c":                                                                            "OAUTH__ISSUER_URL is not encrypted",
		"OAUTH__CLIENTS__3__CLIENT_ID=c OAUTH__CLIENTS__3__ISSUER_URL=https://a?b=c":                                                                     "OAUTH__CLIENTS__3__ISSUER_URL has a query",
		service + "USER_AUTH__ISSUER_URL=http://sso.example":                                                                                             "USER_AUTH__ISSUER_URL is not",
		service + "USER_AUTH__ISSUER_URL=https://a REGISTRY__URL=http://r REGISTRY__CLIENT_ID=c REGISTRY__CLIENT_SECRET=s REGISTRY__ISSUER_URL=http://b": "REGISTRY__ISSUER_URL is not",
	} {
		cfg := edgeConfig(t, strings.Fields(environ)...)
		if err := cfg.ValidateEdge(); err != nil {
			t.Errorf("%s: %v", environ, err)
		}
		warnings := cfg.WarnEdge()
		if want == "" && len(warnings) == 0 {
			continue
		}
		if len(warnings) != 1 || want == "" || !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("%s: warned of %q, want %q", environ, warnings, want)
		}
	}
}
