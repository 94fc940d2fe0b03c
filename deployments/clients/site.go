package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	pageFile = "edge/client/examples/browser/index.html"

	freshTTL = time.Minute
)

func basic(user, key string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + key))
}

// site is what stands beside Canopy where these clients are at home: the web site that
// serves the page and knows who is signed in, and the services of Drogue that drg asks where
// the edge is and for a fresh token.
type site struct {
	issuer string // host:port
	server *http.Server
	url    string

	mu    sync.Mutex
	files []string // a page's token file, by the page's number; "" for anonymous pages
}

func newSite(issuer string) (*site, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open site: %w", err)
	}
	s := &site{issuer: issuer, url: "http://" + listener.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /page/{number}/{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, pageFile) })
	mux.HandleFunc("GET /page/{number}/token", s.pageToken)
	mux.HandleFunc("GET /drogue/{edge}/api/console/v1alpha1/info", endpoints)
	mux.HandleFunc("POST /drogue/token", s.refreshGrant)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.server.Serve(listener) }() // until close
	return s, nil
}

func (s *site) close() { _ = s.server.Close() }

// page makes a page for one call and gives its URL.
func (s *site) page(c call) string {
	s.mu.Lock()
	s.files = append(s.files, c.tokenFile)
	number := len(s.files) - 1
	s.mu.Unlock()
	query := c.query()
	query.Del("token") // the page asks for it
	query.Set("edge", c.base())
	query.Set("application", c.application)
	if c.channel != "" {
		query.Set("channel", c.channel)
	}
	return s.url + "/page/" + strconv.Itoa(number) + "/?" + query.Encode()
}

func (s *site) pageToken(w http.ResponseWriter, r *http.Request) {
	number, err := strconv.Atoi(r.PathValue("number"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || number < 0 || number >= len(s.files) || s.files[number] == "" {
		http.NotFound(w, r)
		return
	}
	http.ServeFile(w, r, s.files[number])
}

// endpoints is the answer of Drogue's console about where its services are.
func endpoints(w http.ResponseWriter, r *http.Request) {
	answer(w, map[string]any{"websocket_integration": map[string]string{"url": "ws://" + r.PathValue("edge")}})
}

// refreshGrant is RFC 6749, section 6, which the local issuer does not have. Its tokens are
// short: drg asks for a new one behind each event when less than 30 s are left.
func (s *site) refreshGrant(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") == "" {
		http.Error(w, "a refresh token is needed", http.StatusBadRequest)
		return
	}
	token, err := s.token(r.Context(), shortTTL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	answer(w, tokenAnswer(token, shortTTL))
}

// tokenAnswer is RFC 6749, section 5.1.
func tokenAnswer(token string, ttl time.Duration) map[string]any {
	return map[string]any{
		"access_token": token, "token_type": "bearer",
		"expires_in": int(ttl.Seconds()), "refresh_token": "any",
	}
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // a client that has gone does not want it
}

// token asks the stack's issuer for one of alice's.
func (s *site) token(ctx context.Context, ttl time.Duration) (string, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {user}, "client_secret": {user}, "ttl": {ttl.String()}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // it was only read
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if body.Token == "" {
		return "", errors.New("read token: the issuer gave none")
	}
	return body.Token, nil
}

// drogueConfig writes drg's configuration file and gives its path.
func (s *site) drogueConfig(folder string, c call) (string, error) {
	var token any = map[string]string{"id": c.user, "token": c.key}
	if c.signIn == tokenAlone {
		token = tokenAnswer(c.token, c.ttl)
	}
	config, err := json.Marshal(map[string]any{ // which is YAML, too
		"active_context": "local",
		"contexts": []any{map[string]any{
			"name": "local", "drogue_cloud_url": s.url + "/drogue/" + c.edge, "default_app": nil, "default_algo": nil,
			"auth_url": s.url + "/drogue/auth", "token_url": s.url + "/drogue/token", "registry_url": s.url,
			"token_exp_date": time.Now().Add(c.ttl).UTC().Format(time.RFC3339), "token": token,
		}},
	})
	if err != nil {
		return "", fmt.Errorf("encode drg's configuration: %w", err)
	}
	name := filepath.Join(folder, "drg.yaml")
	if err := os.WriteFile(name, config, 0o600); err != nil {
		return "", fmt.Errorf("write drg's configuration: %w", err)
	}
	return name, nil
}
