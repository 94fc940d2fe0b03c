package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/MicahParks/jwkset"
)

const (
	// fetchTimeout ends one request to the issuer, connecting and redirects included.
	fetchTimeout = 5 * time.Second
	// fetchBytes bounds an answer of the issuer.
	fetchBytes = 1 << 20
	// fetchHeaderBytes bounds the headers of one.
	fetchHeaderBytes = 64 << 10
	// fetchRedirects bounds the redirects of one request.
	fetchRedirects = 3
)

// issuer is the OpenID issuer as seen over HTTP.
type issuer struct {
	url    string // exactly as tokens name it in iss
	client *http.Client
}

// newIssuer returns the issuer of that URL. A nil transport means one of its own.
func newIssuer(address string, transport http.RoundTripper) (*issuer, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		// url.Error would repeat the address, and with it a password that somebody wrote there.
		return nil, errors.New("the issuer's URL cannot be parsed")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, errors.New("the issuer's URL is not of the form https://host/path")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("the issuer's URL has a user, a query or a fragment")
	}
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxResponseHeaderBytes = fetchHeaderBytes
		transport = own
	}
	return &issuer{url: address, client: &http.Client{
		Transport:     transport,
		CheckRedirect: checkRedirect,
		Timeout:       fetchTimeout,
	}}, nil
}

// checkRedirect keeps a request on the host it was meant for, so that a redirect cannot
// replace the issuer's keys by somebody else's.
func checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) > fetchRedirects {
		return errors.New("too many redirects")
	}
	if first := before[0].URL; next.URL.Host != first.Host || next.URL.Scheme != first.Scheme {
		return errors.New("redirect to another host or scheme")
	}
	return nil
}

// keys asks the issuer for its present signing keys: OpenID Connect Discovery 1.0,
// section 4, then the JWK set that it names.
func (i *issuer) keys(ctx context.Context) ([]jwkset.JWK, error) {
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	at := strings.TrimSuffix(i.url, "/") + "/.well-known/openid-configuration"
	if err := i.get(ctx, at, &discovery); err != nil {
		return nil, err
	}
	if discovery.Issuer != i.url {
		return nil, fmt.Errorf("read %s: it names the issuer %.200q, configured is %q", at, discovery.Issuer, i.url)
	}
	if strings.HasPrefix(i.url, "https:") && !strings.HasPrefix(discovery.Keys, "https:") {
		return nil, fmt.Errorf("read %s: jwks_uri is not https", at)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := i.get(ctx, discovery.Keys, &set); err != nil {
		return nil, err
	}
	keys := usable(set.Keys)
	if len(keys) == 0 {
		return nil, fmt.Errorf("read %s: no usable key among %d", discovery.Keys, len(set.Keys))
	}
	return keys, nil
}

// get decodes the JSON at an address.
func (i *issuer) get(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("request %s: %w", address, err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := i.client.Do(request)
	if err != nil {
		return fmt.Errorf("request keys: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("read %s: status %d", address, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, fetchBytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", address, err)
	}
	if len(body) > fetchBytes {
		return fmt.Errorf("read %s: longer than %d bytes", address, fetchBytes)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode %s: %w", address, err)
	}
	return nil
}

// usable returns those keys of a set that can verify a token: public keys of an
// asymmetric algorithm, with an id. One key that nobody here understands must not hide
// the others.
func usable(raw []json.RawMessage) []jwkset.JWK {
	var keys []jwkset.JWK
	for _, r := range raw {
		key, err := jwkset.NewJWKFromRawJSON(r, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil || key.Marshal().KID == "" {
			continue
		}
		switch key.Key().(type) {
		case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
			keys = append(keys, key)
		}
	}
	return keys
}
