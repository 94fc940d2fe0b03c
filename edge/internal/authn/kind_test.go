package authn

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// press signs a good token to which header and claims were added.
func (i *testIssuer) press(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, i.goodClaims())
	token.Header["kid"] = "one"
	for name, value := range header {
		if value == nil {
			delete(token.Header, name)
		} else {
			token.Header[name] = value
		}
	}
	maps.Copy(token.Claims.(jwt.MapClaims), claims)
	text, err := token.SignedString(rsaKey(t, "one"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestOnlyAccessAndIDTokensSignIn(t *testing.T) {
	type members = map[string]any
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	logout := "http://schemas.openid.net/event/backchannel-logout"
	for name, c := range map[string]struct{ header, claims members }{
		"Keycloak's access token":             {members{"typ": "JWT"}, members{"typ": "Bearer", "azp": "canopy"}},
		"Keycloak's ID token":                 {members{"typ": "JWT"}, members{"typ": "ID", "nonce": "n"}},
		"Keycloak's, as of RFC 9068":          {members{"typ": "at+jwt"}, members{"typ": "Bearer"}},
		"Rauthy's ID token":                   {nil, members{"typ": "Id"}},
		"Auth0's, Azure's, Google's":          {members{"typ": "JWT"}, nil},
		"Okta's, Cognito's, Dex's":            {members{"typ": nil}, members{"token_use": "access"}},
		"Cognito's ID token":                  {members{"typ": nil}, members{"token_use": "id"}},
		"of RFC 9068, at length":              {members{"typ": "application/at+jwt"}, nil},
		"of RFC 9068, in capitals":            {members{"typ": "Application/AT+JWT"}, nil},
		"in small letters":                    {members{"typ": "jwt"}, nil},
		"PingAM's access token":               {nil, members{"tokenName": "access_token", "token_type": "Bearer", "tokenType": "JWTToken"}},
		"Casdoor's access token":              {nil, members{"tokenType": "access-token"}},
		"with a type like the header's":       {nil, members{"typ": "JWT"}},
		"with events that are no security's":  {nil, members{"events": []string{"read"}}},
		"with events that are named by words": {nil, members{"events": members{"read": true}}},
		"bound to nothing":                    {nil, members{"cnf": nil}},
	} {
		if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: i.press(t, c.header, c.claims)}, netip.Addr{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	tokens := make(map[string]string)
	for name, c := range map[string]struct{ header, claims members }{
		"Keycloak's refresh token":                  {nil, members{"typ": "Refresh"}},
		"Keycloak's offline token":                  {nil, members{"typ": "Offline"}},
		"Keycloak's logout token":                   {nil, members{"typ": "Logout"}},
		"Keycloak's identity cookie":                {nil, members{"typ": "Serialized-ID"}},
		"Keycloak's registration token":             {nil, members{"typ": "RegistrationAccessToken"}},
		"Keycloak's action token":                   {nil, members{"typ": "verify-email"}},
		"Keycloak's DPoP token":                     {nil, members{"typ": "DPoP"}},
		"Cognito's refresh token":                   {nil, members{"token_use": "refresh"}},
		"PingAM's refresh token":                    {nil, members{"tokenName": "refresh_token", "token_type": "Bearer"}},
		"Casdoor's refresh token":                   {nil, members{"tokenType": "refresh-token"}},
		"somebody's refresh token":                  {nil, members{"token_type": "Refresh"}},
		"logout token by its header":                {members{"typ": "logout+jwt"}, nil},
		"logout token by its event":                 {nil, members{"events": members{logout: members{}}}},
		"another security event":                    {nil, members{"events": members{"urn:example:event": members{}}}},
		"event beside a word":                       {nil, members{"events": members{"read": 1, logout: members{}}}},
		"security event by its header":              {members{"typ": "secevent+jwt"}, nil},
		"DPoP proof":                                {members{"typ": "dpop+jwt"}, nil},
		"proof of a key":                            {members{"typ": "kb+jwt"}, nil},
		"request for authorization":                 {members{"typ": "oauth-authz-req+jwt"}, nil},
		"answer to introspection":                   {members{"typ": "token-introspection+jwt"}, nil},
		"Okta's own access token":                   {members{"typ": "application/okta-internal-at+jwt"}, nil},
		"empty header typ":                          {members{"typ": ""}, nil},
		"header typ that is no text":                {members{"typ": 7}, nil},
		"typ that is no text":                       {nil, members{"typ": []string{"Bearer"}}},
		"bound to a key of DPoP":                    {nil, members{"cnf": members{"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}},
		"bound to a certificate":                    {nil, members{"cnf": members{"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}},
		"critical header":                           {members{"crit": []string{"b64"}, "b64": false}, nil},
		"critical header that is a list of nothing": {members{"crit": []string{}}, nil},
	} {
		tokens[name] = i.press(t, c.header, c.claims)
	}
	refuses(t, a, i, tokens)
}

func TestClaimsThatAreOutOfBoundsAreForbidden(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	tokens := make(map[string]string)
	// What a number beyond a time becomes differs between processors.
	for name, number := range map[string]string{
		"1e300": "1e300", "1e400": "1e400", "over 2^53": "9007199254740994", "2^63": "9223372036854775808", "negative": "-1",
		"text that is no number": `"soon"`, "list": "[4102444800]", "nothing": "null", "empty text": `""`, "no number": `"NaN"`,
	} {
		if name != "nothing" {
			tokens["nbf "+name] = i.raw(t, `"exp":4102444800,"nbf":`+number)
		}
		tokens["exp "+name] = i.raw(t, `"exp":`+number)
	}
	for name, sub := range map[string]string{
		"line feed": "alice\nbob", "NUL": "alice\x00", "escape": "\x1b[2J", "a C1 control": "a\u0085b", "over 1 KiB": strings.Repeat("a", userBytes+1),
	} {
		tokens["sub with "+name] = i.press(t, nil, map[string]any{"sub": sub})
	}
	for _, twice := range []string{"sub", "aud", "exp", "iss", "typ", "nbf", "azp"} {
		tokens[twice+" twice"] = i.raw(t, `"exp":4102444800,"`+twice+`":"a","`+twice+`":"b"`)
	}
	tokens["roles twice"] = i.raw(t, `"exp":4102444800,"realm_access":{"roles":[],"roles":["ops"]}`)
	refuses(t, a, i, tokens)

	for name, token := range map[string]string{
		"the token that others are made from":   i.raw(t, `"exp":4102444800`),
		"exp with a fraction":                   i.raw(t, `"exp":4102444800.7`),
		"exp with an exponent":                  i.raw(t, `"exp":4.1024448e9`),
		"exp as a text":                         i.raw(t, `"exp":"4102444800"`),
		"exp as late as a number can say":       i.raw(t, `"exp":9007199254740992`),
		"nbf null":                              i.raw(t, `"exp":4102444800,"nbf":null`),
		"issued in the future, as nothing asks": i.raw(t, `"exp":4102444800,"iat":4102444700`),
		"an audience of 3,000": i.press(t, nil, map[string]any{
			"aud": append(make([]string, 3000), "canopy")}),
		"sub of 1 KiB":           i.press(t, nil, map[string]any{"sub": strings.Repeat("a", userBytes)}),
		"sub that is an address": i.press(t, nil, map[string]any{"sub": "mailto:jürgen@example.com"}),
	} {
		if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: token}, netip.Addr{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// raw signs claims as they are written, beside iss, aud and sub, of which those that stand in
// them are left out.
func (i *testIssuer) raw(t testing.TB, members string) string {
	t.Helper()
	text := "{" + members
	for name, value := range map[string]string{"iss": i.server.URL, "aud": "canopy", "sub": "alice"} {
		if !strings.Contains(members, `"`+name+`":`) {
			text += `,"` + name + `":"` + value + `"`
		}
	}
	return signText(t, `{"alg":"RS256","kid":"one"}`, text+"}")
}

// signText signs a header and claims as they are written.
func signText(t testing.TB, header, claims string) string {
	t.Helper()
	text := encode(header) + "." + encode(claims)
	signature, err := jwt.SigningMethodRS256.Sign(text, rsaKey(t, "one"))
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + encode(string(signature))
}

func TestHeadersThatBringAKeyOrAPathPickNoKey(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	own := string(publicJWK(t, rsaKey(t, "other").Public(), "one", jwkset.UseSig))
	good := i.raw(t, `"exp":4102444800`)
	claims := strings.Split(good, ".")[1]
	header := func(text string) string {
		signed := encode(text) + "." + claims
		signature, err := jwt.SigningMethodRS256.Sign(signed, rsaKey(t, "other"))
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + encode(string(signature))
	}
	refuses(t, a, i, map[string]string{
		"a key of its own":         header(`{"alg":"RS256","kid":"one","jwk":` + own + `}`),
		"where its keys are":       header(`{"alg":"RS256","kid":"one","jku":"http://127.0.0.1:1/keys","x5u":"http://127.0.0.1:1/"}`),
		"no id, and a key":         header(`{"alg":"RS256","jwk":` + own + `}`),
		"an id that is no text":    header(`{"alg":"RS256","kid":["one"]}`),
		"an empty id":              header(`{"alg":"RS256","kid":""}`),
		"a token inside":           signText(t, `{"alg":"RS256","kid":"one","cty":"JWT"}`, `"`+good+`"`),
		"no object":                signText(t, `{"alg":"RS256","kid":"one"}`, `["alice"]`),
		"two objects":              signText(t, `{"alg":"RS256","kid":"one"}`, `{}{}`),
		"10,000 lists deep":        header(`{"alg":"RS256","kid":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`),
		"an algorithm of no text":  header(`{"alg":["RS256"],"kid":"one"}`),
		"an algorithm in capitals": header(`{"alg":"NONE","kid":"one"}`),
	})
}
