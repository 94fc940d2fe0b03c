package gateway

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"github.com/oauth2-proxy/mockoidc"

	"canopy/shared/config"
)

// oidc is an OpenID issuer that is foreign to this project.
type oidc struct {
	*mockoidc.MockOIDC
	t       *testing.T
	fetches atomic.Int64 // of its keys
	mute    atomic.Bool  // it gives no keys
}

func startOIDC(t *testing.T) *oidc {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048) // without one all share a default key
	if err != nil {
		t.Fatal(err)
	}
	m, err := mockoidc.NewServer(key)
	if err != nil {
		t.Fatal(err)
	}
	o := &oidc{MockOIDC: m, t: t}
	err = m.AddMiddleware(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == mockoidc.JWKSEndpoint {
				o.fetches.Add(1)
				if o.mute.Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := listenAnywhere()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(ln, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Shutdown() })
	return o
}

// trust has an edge take the tokens of these issuers, the first one's as they are.
func trust(issuers ...*oidc) func(*config.Config) {
	return func(c *config.Config) {
		c.OAuth.Clients = make(map[string]config.OAuthClient)
		for n, o := range issuers {
			c.OAuth.Clients[strconv.Itoa(n)] = config.OAuthClient{ClientID: o.ClientID, IssuerURL: o.Issuer()}
		}
	}
}

// claims are those of a good token of that user.
func (o *oidc) claims(user string) jwt.MapClaims {
	return jwt.MapClaims{"iss": o.Issuer(), "aud": o.ClientID, "sub": user, "exp": time.Now().Add(time.Hour).Unix()}
}

// sign is a token as the issuer signs it.
func (o *oidc) sign(claims jwt.MapClaims) string {
	o.t.Helper()
	token, err := o.Keypair.SignJWT(claims)
	if err != nil {
		o.t.Fatal(err)
	}
	return token
}

// forge is a token that somebody else has signed.
func (o *oidc) forge(method jwt.SigningMethod, key any, kid string, claims jwt.MapClaims) string {
	o.t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		o.t.Fatal(err)
	}
	return text
}

func (o *oidc) kid() string {
	o.t.Helper()
	kid, err := o.Keypair.KeyID()
	if err != nil {
		o.t.Fatal(err)
	}
	return kid
}

// signIn is the whole authorization code flow, after which the issuer gives an ID token.
func (o *oidc) signIn(user string) string {
	o.t.Helper()
	o.QueueUser(&mockoidc.MockUser{Subject: user})
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	page, err := client.Get(o.AuthorizationEndpoint() + "?" + url.Values{
		"client_id": {o.ClientID}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"}, "redirect_uri": {"http://app.example/"},
	}.Encode())
	if err != nil {
		o.t.Fatal(err)
	}
	_ = page.Body.Close()
	back, err := page.Location()
	if err != nil {
		o.t.Fatalf("%s: %v", page.Status, err)
	}
	answer, err := client.PostForm(o.TokenEndpoint(), url.Values{
		"client_id": {o.ClientID}, "client_secret": {o.ClientSecret}, "grant_type": {"authorization_code"}, "code": {back.Query().Get("code")},
	})
	if err != nil {
		o.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(body), `"id_token":"`)
	token, _, ok := strings.Cut(rest, `"`)
	if !ok {
		o.t.Fatalf("%s: %s", answer.Status, body)
	}
	return token
}

// open asks for a socket and returns the status and the body; an open one is closed.
func (s *stack) open(path string, header ...string) (int, string) {
	s.t.Helper()
	c := s.connect("GET " + path + " HTTP/1.1\r\nHost: canopy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + strings.Join(append(header, "\r\n"), "\r\n"))
	defer func() { _ = c.Close() }()
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return answer.StatusCode, ""
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

const justForbidden = `{"error":"Forbidden","message":"Forbidden"}`

func TestTokenOfAForeignIssuerSignsIn(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, trust(o))
	token := o.signIn("alice")
	if status, body := s.open("/secret-app", "Authorization: Bearer "+token); status != 101 {
		t.Errorf("in the header: %d %s", status, body)
	}
	if status, body := s.open("/secret-app?token=" + token); status != 101 {
		t.Errorf("in the query: %d %s", status, body)
	}
	if status, body := s.open("/secret-app?token=" + o.signIn("mallory")); status != 404 {
		t.Errorf("somebody else's: %d %s", status, body)
	}
}

func TestBadTokensAreForbidden(t *testing.T) {
	o, second := startOIDC(t), startOIDC(t)
	s := startEdge(t, trust(o, second))
	edit := func(change func(jwt.MapClaims)) string {
		claims := o.claims("alice")
		change(claims)
		return o.sign(claims)
	}
	der, err := x509.MarshalPKIXPublicKey(&o.Keypair.PrivateKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if status, body := s.open("/secret-app?token=" + edit(func(jwt.MapClaims) {})); status != 101 {
		t.Fatalf("the token that all others are made from: %d %s", status, body)
	}
	for name, token := range map[string]string{
		"alg none":                  o.forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, o.kid(), o.claims("alice")),
		"HS256 with the public key": o.forge(jwt.SigningMethodHS256, public, o.kid(), o.claims("alice")),
		"HS256 with its DER":        o.forge(jwt.SigningMethodHS256, der, o.kid(), o.claims("alice")),
		"signed by another issuer":  o.forge(jwt.SigningMethodRS256, second.Keypair.PrivateKey, o.kid(), o.claims("alice")),
		"with that one's kid, too":  o.forge(jwt.SigningMethodRS256, second.Keypair.PrivateKey, second.kid(), o.claims("alice")),
		"wrong iss":                 edit(func(c jwt.MapClaims) { c["iss"] = "https://elsewhere.example" }),
		"iss of the other issuer":   edit(func(c jwt.MapClaims) { c["iss"] = second.Issuer() }),
		"wrong aud":                 edit(func(c jwt.MapClaims) { c["aud"] = "another" }),
		"aud of the other issuer":   edit(func(c jwt.MapClaims) { c["aud"] = second.ClientID + "x" }),
		"wrong azp":                 edit(func(c jwt.MapClaims) { c["azp"] = "another" }),
		"no exp":                    edit(func(c jwt.MapClaims) { delete(c, "exp") }),
		"expired by 31 s":           edit(func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-31 * time.Second).Unix() }),
		"not valid for 35 s":        edit(func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(35 * time.Second).Unix() }),
		"sub like a role":           edit(func(c jwt.MapClaims) { c["sub"] = "role:ops" }),
		"sub of the second issuer":  edit(func(c jwt.MapClaims) { c["sub"] = "1/alice" }),
		"longer than 16 KiB":        edit(func(c jwt.MapClaims) { c["x"] = strings.Repeat("x", 16<<10) }),
		"a refresh token":           edit(func(c jwt.MapClaims) { c["typ"] = "Refresh" }),
		"an offline token":          edit(func(c jwt.MapClaims) { c["typ"] = "Offline" }),
		"a logout token": edit(func(c jwt.MapClaims) {
			c["events"] = map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
		}),
		"a token bound to a key":     edit(func(c jwt.MapClaims) { c["cnf"] = map[string]string{"jkt": "x"} }),
		"sub with a line feed":       edit(func(c jwt.MapClaims) { c["sub"] = "alice\n" }),
		"no token":                   "nonsense",
		"cut":                        o.sign(o.claims("alice"))[:200],
		"another's payload, by hand": strings.Replace(o.sign(o.claims("alice")), ".", "."+base64.RawURLEncoding.EncodeToString([]byte("{}")), 1),
	} {
		for _, how := range []func() (int, string){
			func() (int, string) { return s.open("/secret-app?token=" + token) },
			func() (int, string) { return s.open("/secret-app", "Authorization: Bearer "+token) },
		} {
			if status, body := how(); status != 403 || body != justForbidden {
				t.Errorf("%s: %d %s", name, status, body)
			}
		}
	}
	if status, body := s.open("/secret-app?token=" + second.sign(second.claims("alice"))); status != 404 {
		t.Errorf("the second issuer's alice reads what the first one's may: %d %s", status, body)
	}
	mebibyte := strings.Repeat("x", 1<<20)
	if status, _ := s.open("/secret-app?token=" + mebibyte); status != 431 {
		t.Errorf("1 MiB in the query: %d, want 431", status)
	}
	if status, _ := s.open("/secret-app", "Authorization: Bearer "+mebibyte); status != 431 {
		t.Errorf("1 MiB in the header: %d, want 431", status)
	}
}

func TestCredentialsThatCannotBeReadAreForbidden(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, trust(o))
	token := o.sign(o.claims("alice"))
	basic := func(text string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(text))
	}
	for name, c := range map[string]struct {
		path, header string
	}{
		"header and token":         {"/secret-app?token=" + token, basic("alice:secret")},
		"token and key":            {"/secret-app?username=alice&api_key=secret&token=" + token, "X: y"},
		"header twice":             {"/secret-app", basic("alice:secret") + "\r\nAuthorization: Bearer " + token},
		"Basic without a colon":    {"/secret-app", basic("alice")},
		"Basic without a password": {"/secret-app", basic("alice:")},
		"no base64":                {"/secret-app", "Authorization: Basic !!!"},
		"no UTF-8":                 {"/secret-app", basic("alice:\xff")},
		"another scheme":           {"/secret-app", "Authorization: Digest x"},
		"half a key":               {"/secret-app?username=alice", "X: y"},
	} {
		status, body := s.open(c.path, c.header)
		if status != 403 || !strings.HasPrefix(body, `{"error":"Forbidden","message":"Invalid request: `) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

func TestRefreshTakesATokenOfTheSameUserAndOfNobodyElse(t *testing.T) {
	o, second := startOIDC(t), startOIDC(t)
	s := startEdge(t, trust(o, second))
	claims := o.claims("alice")
	claims["typ"] = "Refresh"
	refresh := o.sign(claims)
	for _, c := range []struct {
		name, token string
		code        websocket.StatusCode
		reason      string
	}{
		{"another user's", o.sign(o.claims("bob")), websocket.StatusPolicyViolation, "Failed to refresh token"},
		{"the same name at another issuer", second.sign(second.claims("alice")), websocket.StatusPolicyViolation, "Failed to refresh token"},
		{"no token", "nonsense", websocket.StatusPolicyViolation, "Failed to refresh token"},
		{"a refresh token, as the message's name invites to send", refresh, websocket.StatusPolicyViolation, "Failed to refresh token"},
		{"one of 20 KiB", strings.Repeat("x", 20<<10), websocket.StatusPolicyViolation, "Failed to refresh token"},
		{"one of 1 MiB", strings.Repeat("x", 1<<20), websocket.StatusMessageTooBig, "message is too big"},
	} {
		socket := s.dial("/open-app?token="+o.sign(o.claims("alice")), nil)
		socket.SetReadLimit(1 << 20)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		// The edge may close before it has read a message that is too big.
		if err := socket.Write(ctx, websocket.MessageText, []byte(`{"RefreshAccessToken":"`+c.token+`"}`)); err != nil && len(c.token) < 1<<20 {
			t.Fatal(err)
		}
		cancel()
		wantClose(t, socket, c.code, c.reason)
	}
	claims = o.claims("alice")
	claims["exp"] = time.Now().Add(3 * time.Second).Unix()
	stays := s.dial("/open-app?token="+o.sign(claims), nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 5 { // all at once: one is verified, the last one waits, the others are overtaken
		if err := stays.Write(ctx, websocket.MessageText, []byte(`{"RefreshAccessToken":"`+o.sign(o.claims("alice"))+`"}`)); err != nil {
			t.Fatal(err)
		}
	}
	ends := s.dial("/open-app?token="+o.sign(claims), nil)
	wantClose(t, ends, websocket.StatusPolicyViolation, "JWT token expired")
	s.publish("open-app", "", 1)
	if r := read(t, stays); r.Data.N != 1 {
		t.Errorf("the refreshed socket got %+v", r)
	}
}

// TestMadeUpKeyIdsCauseOneFetchAndSlowDownNobody sends 2,000 tokens with key ids that do
// not exist, or as many as CANOPY_TEST_KIDS says.
func TestMadeUpKeyIdsCauseOneFetchAndSlowDownNobody(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, trust(o))
	kids := setting(t, "CANOPY_TEST_KIDS", 2000)
	start, before := time.Now(), o.fetches.Load()
	forged := o.forge(jwt.SigningMethodRS256, o.Keypair.PrivateKey, "KID", o.claims("alice"))
	_, rest, _ := strings.Cut(forged, ".")
	done := make(chan struct{})
	var attackers sync.WaitGroup
	var sent atomic.Int64
	for range 8 {
		attackers.Go(func() {
			for n := sent.Add(1); n <= int64(kids); n = sent.Add(1) {
				header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"made-up-` + strconv.FormatInt(n, 10) + `"}`))
				if status, body := s.open("/secret-app?token=" + header + "." + rest); status != 403 || body != justForbidden {
					t.Errorf("made-up key id: %d %s", status, body)
				}
			}
		})
	}
	go func() { attackers.Wait(); close(done) }()
	good := o.sign(o.claims("alice"))
	var took []time.Duration
	for attacked := true; attacked; {
		select {
		case <-done:
			attacked = false
		default:
			at := time.Now()
			if status, body := s.open("/secret-app?token=" + good); status != 101 {
				t.Fatalf("a good token: %d %s", status, body)
			}
			took = append(took, time.Since(at))
		}
	}
	slices.Sort(took)
	p99, lasted, fetched := took[len(took)*99/100], time.Since(start), o.fetches.Load()-before
	t.Logf("%d made-up key ids in %v: %d fetches of keys; %d good logins, p50 %v, p99 %v, max %v",
		kids, lasted, fetched, len(took), took[len(took)/2], p99, took[len(took)-1])
	// One more for the fetch in the background that may fall into the time.
	if most := 1 + int64(lasted/(10*time.Second)) + 1; fetched < 1 || fetched > most {
		t.Errorf("%d fetches of keys in %v, want 1 to %d", fetched, lasted, most)
	}
	if p99 > 500*time.Millisecond { // a fetch may take a second; the machine may be busy
		t.Errorf("p99 of good logins is %v", p99)
	}
}

// TestWrongKeysAreHeldBackAndSlowDownNobody guesses 2,000 keys, or as many as
// CANOPY_TEST_KEYS says.
func TestWrongKeysAreHeldBackAndSlowDownNobody(t *testing.T) {
	s := startEdge(t, nil)
	guesses := setting(t, "CANOPY_TEST_KEYS", 2000)
	start := time.Now()
	var attackers sync.WaitGroup
	var sent, held atomic.Int64
	done := make(chan struct{})
	for range 8 {
		attackers.Go(func() {
			for n := sent.Add(1); n <= int64(guesses); n = sent.Add(1) {
				switch status, body := s.open("/secret-app?username=alice&api_key=guess-" + strconv.FormatInt(n, 10)); status {
				case 403:
				case 429:
					held.Add(1)
				default:
					t.Errorf("a wrong key: %d %s", status, body)
				}
			}
		})
	}
	go func() { attackers.Wait(); close(done) }()
	var took []time.Duration
	for attacked := true; attacked; {
		select {
		case <-done:
			attacked = false
		default:
			at := time.Now()
			if status, body := s.open("/secret-app?username=alice&api_key=secret"); status != 101 {
				t.Fatalf("the right key from the same address: %d %s", status, body)
			}
			took = append(took, time.Since(at))
		}
	}
	slices.Sort(took)
	t.Logf("%d wrong keys in %v, %d of them answered 429; %d good logins, p50 %v, p99 %v", guesses, time.Since(start),
		held.Load(), len(took), took[len(took)/2], took[len(took)*99/100])
	if p99 := took[len(took)*99/100]; p99 > 500*time.Millisecond {
		t.Errorf("p99 of good logins is %v", p99)
	}
	if n := s.metric(`canopy_edge_over_limit_total{limit="failed_sign_ins"}`); n != float64(held.Load()) {
		t.Errorf("%v refusals are counted, want %d", n, held.Load())
	}
	if most := int64(20 + time.Since(start)/time.Second + 8); int64(guesses)-held.Load() > most {
		t.Errorf("%d wrong keys were not held back, want %d at most", int64(guesses)-held.Load(), most)
	}
}
