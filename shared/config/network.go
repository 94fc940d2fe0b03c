package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Prefixes reads CIDRs, such as those of HTTP__TRUSTED_PROXIES. An address alone stands
// for itself.
func Prefixes(list []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(list))
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if addr, isAddr := netip.ParseAddr(text); isAddr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || prefix.Addr().Is4In6() {
			return nil, fmt.Errorf("expected CIDRs such as 10.0.0.0/8 or fd00::/8, not %q", text)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// Origin reads what a browser sends as Origin, such as https://console.example, and gives
// it in the one spelling by which two of them compare: lower case, with the port.
func Origin(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("expected Origins such as https://console.example, not %q", text)
	}
	ports := map[string]string{"http": "80", "https": "443"}
	port := u.Port()
	if port == "" {
		port = ports[u.Scheme]
	}
	if ports[u.Scheme] == "" {
		return "", fmt.Errorf("expected an Origin of http or https, not %q", text)
	}
	host := strings.ToLower(u.Hostname())
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return u.Scheme + "://" + host + ":" + port, nil
}
