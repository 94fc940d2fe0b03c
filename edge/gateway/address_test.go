package gateway

import (
	"net/http"
	"testing"
)

func TestOneClientIsAnIPv4AddressOrAnIPv6Network(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1234":              "192.0.2.7",
		"[::ffff:192.0.2.7]:1":        "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1":    "2001:db8:1:2::",
		"[2001:db8:1:2:ffff::]:99":    "2001:db8:1:2::",
		"[fe80::1%eth0]:99":           "fe80::",
		"@":                           "invalid IP",
		"":                            "invalid IP",
		"192.0.2.7":                   "192.0.2.7",
		"host.example:80":             "invalid IP",
		"[2001:db8:1:2:3:4:5:6]:port": "invalid IP",
	} {
		if got := network((&edge{}).clientAddress(&http.Request{RemoteAddr: remote})).Addr().String(); got != want {
			t.Errorf("%q is %s, want %s", remote, got, want)
		}
	}
}
