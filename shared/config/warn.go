package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
)

// WarnEdge tells what an edge may start with and an operator should know of. It is for a
// configuration that ValidateEdge finds nothing wrong with.
func (cfg Config) WarnEdge() []string {
	var warnings []string
	if cfg.HTTP.ProxyProtocol && len(cfg.HTTP.TrustedProxies) == 0 {
		warnings = append(warnings, "HTTP__PROXY_PROTOCOL without HTTP__TRUSTED_PROXIES: whoever reaches the port can pose as any client")
	}
	warn := func(name, text string) {
		issuer, err := url.Parse(text)
		if err != nil || text == "" {
			return
		}
		if issuer.Scheme == "http" && !isLoopback(net.JoinHostPort(issuer.Hostname(), "0")) {
			warnings = append(warnings, fmt.Sprintf("%s is not encrypted: whoever is on the way can sign in as anybody", name))
		}
		if _, query := hides(text); query {
			warnings = append(warnings, fmt.Sprintf("%s has a query, which issuers of OpenID do not have", name))
		}
	}
	warn("OAUTH__ISSUER_URL", cfg.OAuth.IssuerURL)
	for _, n := range slices.Sorted(maps.Keys(cfg.OAuth.Clients)) {
		warn("OAUTH__CLIENTS__"+n+"__ISSUER_URL", cfg.OAuth.Clients[n].IssuerURL)
	}
	warn("USER_AUTH__ISSUER_URL", cfg.UserAuth.IssuerURL)
	warn("REGISTRY__ISSUER_URL", cfg.Registry.IssuerURL)
	return warnings
}
