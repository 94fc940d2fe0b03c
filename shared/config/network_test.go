package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestPrefixes(t *testing.T) {
	got, err := Prefixes([]string{"10.1.2.3/8", "192.0.2.1", "fd00::1/8", "::1"})
	if want := "[10.0.0.0/8 192.0.2.1/32 fd00::/8 ::1/128]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	for _, bad := range []string{"10.0.0.0/33", "proxy.example", "", "::ffff:10.0.0.0/104", "fe80::1%eth0"} {
		if _, err := Prefixes([]string{bad}); err == nil || !strings.Contains(err.Error(), "expected CIDRs") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOriginsThatAreTheSameAreSpeltTheSame(t *testing.T) {
	for text, want := range map[string]string{
		"https://Console.Example":     "https://console.example:443",
		"https://console.example:443": "https://console.example:443",
		"http://console.example":      "http://console.example:80",
		"http://127.0.0.1:8080":       "http://127.0.0.1:8080",
		"http://[::1]:8080":           "http://[::1]:8080",
	} {
		if got, err := Origin(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "null", "*", "console.example", "https://", "https://a/b", "https://a/", "ftp://a", "https://u@a", "https://a?b"} {
		if got, err := Origin(bad); err == nil {
			t.Errorf("%q is taken: %s", bad, got)
		}
	}
}
