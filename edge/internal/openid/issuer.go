// Package openid asks OpenID issuers over HTTP: what they say of themselves, and what
// they point to. Package authn fetches the keys of tokens that way, package drogue the
// tokens of its own calls.
package openid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Timeout ends one request to an issuer, connecting and redirects included.
const Timeout = 5 * time.Second

const (
	// answerBytes bounds an answer of an issuer.
	answerBytes = 1 << 20
	// headerBytes bounds the headers of one.
	headerBytes = 64 << 10
	// redirects bounds the redirects of one request.
	redirects = 3
)

// Issuer is an OpenID issuer as seen over HTTP. Any goroutine may use it.
type Issuer struct {
	url    string // exactly as tokens name it in iss
	client *http.Client
}

// Endpoints are the addresses that an issuer names for what is asked of it here.
type Endpoints struct {
	Keys  string // jwks_uri: the public keys of its tokens
	Token string // token_endpoint: where clients get tokens
}

// NewIssuer returns the issuer of that URL, without asking it anything. A nil transport
// means one of its own. The error holds no part of the URL, which may hold a password.
func NewIssuer(address string, transport http.RoundTripper) (*Issuer, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("the issuer's URL cannot be parsed")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, errors.New("the issuer's URL is not of the form https://host/path")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, errors.New("the issuer's URL has a user, a query or a fragment")
	}
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxResponseHeaderBytes = headerBytes
		transport = own
	}
	return &Issuer{url: address, client: &http.Client{
		Transport:     transport,
		CheckRedirect: checkRedirect,
		Timeout:       Timeout,
	}}, nil
}

// checkRedirect keeps a request on the host it was meant for, so that a redirect cannot
// replace the issuer's answers by somebody else's.
func checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) > redirects {
		return errors.New("too many redirects")
	}
	if first := before[0].URL; next.URL.Host != first.Host || next.URL.Scheme != first.Scheme {
		return errors.New("redirect to another host or scheme")
	}
	return nil
}

// URL is the issuer's name, exactly as its tokens write it in iss.
func (i *Issuer) URL() string { return i.url }

// Client is the client that asks the issuer. It ends each request after Timeout.
func (i *Issuer) Client() *http.Client { return i.client }

// Close closes the connections to the issuer that nobody uses.
func (i *Issuer) Close() { i.client.CloseIdleConnections() }

// Discover asks the issuer for its endpoints: OpenID Connect Discovery 1.0, section 4.
// Endpoints that it does not name are empty.
func (i *Issuer) Discover(ctx context.Context) (Endpoints, error) {
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
		Token  string `json:"token_endpoint"`
	}
	at := strings.TrimSuffix(i.url, "/") + "/.well-known/openid-configuration"
	if err := i.Get(ctx, at, &discovery); err != nil {
		return Endpoints{}, err
	}
	if discovery.Issuer != i.url {
		return Endpoints{}, fmt.Errorf("read %s: it names the issuer %.200q, configured is %q", at, discovery.Issuer, i.url)
	}
	if strings.HasPrefix(i.url, "https:") {
		for name, endpoint := range map[string]string{"jwks_uri": discovery.Keys, "token_endpoint": discovery.Token} {
			if endpoint != "" && !strings.HasPrefix(endpoint, "https:") {
				return Endpoints{}, fmt.Errorf("read %s: %s is not https", at, name)
			}
		}
	}
	return Endpoints{Keys: discovery.Keys, Token: discovery.Token}, nil
}

// Get decodes the JSON at an address, which must answer 200 with at most 1 MiB.
func (i *Issuer) Get(ctx context.Context, address string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("request %s: %w", address, err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := i.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask issuer: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("read %s: status %d", address, response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, answerBytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", address, err)
	}
	if len(body) > answerBytes {
		return fmt.Errorf("read %s: longer than %d bytes", address, answerBytes)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("decode %s: %w", address, err)
	}
	return nil
}
