package authn

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"canopy/edge/internal/openid"
	"canopy/shared/config"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// issuer is one OpenID issuer whose tokens sign users in, with its own keys: a token is
// only ever checked against those of the issuer that it names.
type issuer struct {
	*openid.Issuer
	number  string   // of its first client in the configuration
	prefix  string   // of its users and roles: nothing for the first issuer, else "<N>/"
	clients []string // client ids, one of which a token must be meant for
	keys    *keySet
	keyfunc keyfunc.Keyfunc // over keys

	log       *zap.Logger
	complaint string // about the keys that were fetched last; only fetch has it
}

// newIssuers returns the issuers of cfg by name. They share transport, nil for the usual
// one. The error lists everything that is wrong with cfg.
func newIssuers(cfg config.OAuth, log *zap.Logger, refreshes *prometheus.CounterVec, transport http.RoundTripper) (map[string]*issuer, error) {
	issuers := make(map[string]*issuer)
	var wrong []error
	for _, n := range numbers(cfg.Clients) {
		client, name := cfg.Clients[n], "OAUTH__CLIENTS__"+n
		address := client.IssuerURL
		if address == "" {
			address = cfg.IssuerURL
		}
		if client.ClientID == "" {
			wrong = append(wrong, fmt.Errorf("%s__CLIENT_ID is empty", name))
		}
		if address == "" {
			wrong = append(wrong, fmt.Errorf("%s has no issuer: set OAUTH__ISSUER_URL", name))
			continue
		}
		if i := issuers[address]; i != nil {
			i.clients = append(i.clients, client.ClientID)
			continue
		}
		web, err := openid.NewIssuer(address, transport)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("use issuer of %s: %w", name, err))
			continue
		}
		i := &issuer{
			Issuer: web, number: n, clients: []string{client.ClientID}, log: log.With(zap.String("issuer", address)),
		}
		if len(issuers) > 0 {
			i.prefix = n + "/"
		}
		i.keys = newKeySet(i.fetch, i.log, refreshes.MustCurryWith(prometheus.Labels{"issuer": n}))
		if i.keyfunc, err = newKeyfunc(i.keys); err != nil {
			return nil, fmt.Errorf("read keys of %s: %w", name, err)
		}
		issuers[address] = i
	}
	if cfg.IssuerURL != "" && len(cfg.Clients) == 0 {
		wrong = append(wrong, fmt.Errorf("OAUTH__ISSUER_URL is set, but no OAUTH__CLIENTS__0__CLIENT_ID"))
	}
	return issuers, join(wrong)
}

// numbers returns the numbers of clients, the least first. It decides which issuer is the
// first one, and so 10 must come behind 9.
func numbers(clients map[string]config.OAuthClient) []string {
	return slices.SortedFunc(maps.Keys(clients), func(a, b string) int {
		m, errM := strconv.Atoi(a)
		n, errN := strconv.Atoi(b)
		if errM != nil || errN != nil {
			return strings.Compare(a, b)
		}
		return m - n
	})
}

// fetch asks the issuer for its present signing keys: discovery, then the JWK set that it
// names. Only one goroutine may.
func (i *issuer) fetch(ctx context.Context) ([]jwkset.JWK, error) {
	at, err := i.Discover(ctx)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := i.Get(ctx, at.Keys, &set); err != nil {
		return nil, err
	}
	keys, complaint := public(set.Keys)
	if complaint != i.complaint {
		i.complaint = complaint
		i.log.Warn("which keys of the issuer do not count has changed", zap.String("ignored", complaint))
	}
	if !slices.ContainsFunc(keys, signs) {
		return nil, fmt.Errorf("read %s: no usable key among %d", at.Keys, len(set.Keys))
	}
	return keys, nil
}

// meant reports whether a token's audience holds a client id of this issuer, and if the
// token names the party that it was issued to, that party's.
func (i *issuer) meant(c *claims) bool {
	return slices.ContainsFunc(i.clients, func(id string) bool {
		return (c.Party == "" || c.Party == id) && slices.Contains(c.Audience, id)
	})
}

// name writes a user or a role of this issuer so that it is nobody else's.
func (i *issuer) name(bare string) string { return i.prefix + bare }

// roles writes the roles of one of this issuer's tokens likewise, sorted, each once.
func (i *issuer) roles(c *claims) []string {
	roles := c.roles()
	if i.prefix == "" {
		return OwnRoles(roles)
	}
	for n, role := range roles {
		roles[n] = i.name(role)
	}
	return roles
}
