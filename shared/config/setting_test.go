package config

import (
	"strings"
	"testing"
)

func TestEverySettingIsDescribedAndItsDefaultParses(t *testing.T) {
	if len(settings) < 50 {
		t.Fatalf("only %d settings were found", len(settings))
	}
	seen := make(map[string]bool)
	for _, s := range settings {
		if seen[s.name] || strings.HasPrefix(s.name, separator) || strings.HasSuffix(s.name, separator) {
			t.Errorf("%q is named twice, or has no key", s.name)
		}
		seen[s.name] = true
		if s.help == "" {
			t.Errorf("%s has no help", s.name)
		}
		if s.def == "" {
			continue
		}
		if _, err := s.parse(s.def); err != nil {
			t.Errorf("%s: default %q: %v", s.name, s.def, err)
		}
	}
}

func TestEveryPasswordAndSecretIsTaggedSecret(t *testing.T) {
	for _, s := range settings {
		sounds := strings.Contains(s.name, "PASSWORD") || strings.Contains(s.name, "SECRET") || strings.HasSuffix(s.name, "TOKEN")
		if sounds != s.secret {
			t.Errorf("%s: secret is %v", s.name, s.secret)
		}
	}
}

func TestLookupTakesOneSpellingOfEachNumber(t *testing.T) {
	for name, want := range map[string]bool{
		"HTTP__BIND_ADDR":                  true,
		"OAUTH__CLIENTS__0__CLIENT_ID":     true,
		"OAUTH__CLIENTS__999__ISSUER_URL":  true,
		"OAUTH__CLIENTS__1000__ISSUER_URL": false,
		"OAUTH__CLIENTS__00__CLIENT_ID":    false,
		"OAUTH__CLIENTS__-1__CLIENT_ID":    false,
		"OAUTH__CLIENTS__+1__CLIENT_ID":    false,
		"OAUTH__CLIENTS____CLIENT_ID":      false,
		"OAUTH__CLIENTS__<N>__CLIENT_ID":   false,
		"OAUTH__CLIENTS__0":                false,
		"HTTP":                             false,
		"http__bind_addr":                  false,
	} {
		if _, ok := lookup(name); ok != want {
			t.Errorf("lookup(%q) = %v, want %v", name, ok, want)
		}
	}
}

func TestNearestFindsWhatWasMeant(t *testing.T) {
	for name, want := range map[string]string{
		"HTTP__BIND_ADDRESS":           "HTTP__BIND_ADDR",
		"EDGE__PING_INTERVAL":          "EDGE__PING__INTERVAL",
		"INGEST__TOPIC":                "INGEST__TOPICS",
		"NATS__TLS__CAFILE":            "NATS__TLS__CA_FILE",
		"OAUTH__CLIENTS__X__CLIENT_ID": "OAUTH__CLIENTS__<N>__CLIENT_ID",
		"HTTP__SOMETHING_ELSE":         "",
		"":                             "",
	} {
		if got := nearest(name); got != want {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}
