package authn

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func text(s string) *string { return &s }

func basic(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

func TestCredentialsAreReadFromHeaderOrQuery(t *testing.T) {
	token := Credentials{kind: Token, secret: "a.b.c"}
	for _, c := range []struct {
		name   string
		header []string
		query  Query
		want   Credentials
	}{
		{"nothing", nil, Query{}, Credentials{}},
		{"bearer", []string{"Bearer a.b.c"}, Query{}, token},
		{"bearer in lower case with spaces", []string{" bearer   a.b.c "}, Query{}, token},
		{"token in the query", nil, Query{Token: text("a.b.c")}, token},
		{"basic", []string{basic("alice:key")}, Query{}, Credentials{kind: Key, basic: true, user: "alice", secret: "key"}},
		{"basic whose key has a colon", []string{basic("alice:k:ey")}, Query{}, Credentials{kind: Key, basic: true, user: "alice", secret: "k:ey"}},
		{"key in the query", nil, Query{Username: text("alice"), APIKey: text("key")}, Credentials{kind: Key, user: "alice", secret: "key"}},
	} {
		got, err := FromRequest(http.Header{"Authorization": c.header}, c.query)
		if err != nil || got != c.want {
			t.Errorf("%s: got %v %q %q, %v", c.name, got, got.user, got.secret, err)
		}
	}
}

func TestUnreadableCredentialsAreInvalid(t *testing.T) {
	for _, c := range []struct {
		name   string
		header []string
		query  Query
		want   string
	}{
		{"bearer and token", []string{"Bearer a.b.c"}, Query{Token: text("a.b.c")}, "more than one kind of credentials"},
		{"basic and token", []string{basic("alice:key")}, Query{Token: text("a.b.c")}, "more than one kind of credentials"},
		{"token and key", nil, Query{Token: text("x"), Username: text("alice"), APIKey: text("key")}, "more than one kind of credentials"},
		{"basic and key", []string{basic("a:b")}, Query{Username: text("a"), APIKey: text("b")}, "more than one kind of credentials"},
		{"two headers", []string{"Bearer a", "Bearer a"}, Query{}, "more than one Authorization header"},
		{"basic without a colon", []string{basic("alice")}, Query{}, "Basic credentials without a password"},
		{"basic with an empty password", []string{basic("alice:")}, Query{}, "Basic credentials without a password"},
		{"basic without a user", []string{basic(":key")}, Query{}, "Basic credentials without a user"},
		{"basic without a value", []string{"Basic"}, Query{}, "Basic credentials without a password"},
		{"basic, not base64", []string{"Basic !!!"}, Query{}, "undecodable Authorization header"},
		{"basic, not UTF-8", []string{basic("alice:\xff")}, Query{}, "undecodable Authorization header"},
		{"another scheme", []string{"Digest x"}, Query{}, "unknown scheme in the Authorization header"},
		{"empty header", []string{""}, Query{}, "unknown scheme in the Authorization header"},
		{"bearer without a token", []string{"Bearer "}, Query{}, "empty token"},
		{"empty token", nil, Query{Token: text("")}, "empty token"},
		{"username alone", nil, Query{Username: text("alice")}, "username without api_key"},
		{"empty api_key", nil, Query{Username: text("alice"), APIKey: text("")}, "username without api_key"},
		{"api_key alone", nil, Query{APIKey: text("key")}, "api_key without username"},
		{"username, not UTF-8", nil, Query{Username: text("\xff"), APIKey: text("key")}, "undecodable username or api_key"},
	} {
		got, err := FromRequest(http.Header{"Authorization": c.header}, c.query)
		var invalid *Invalid
		if !errors.As(err, &invalid) || invalid.Message() != "Invalid request: "+c.want {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		if got != (Credentials{}) {
			t.Errorf("%s: credentials beside the error: %v", c.name, got)
		}
	}
}

func FuzzFromRequest(f *testing.F) {
	f.Add(basic("alice:key"), "", "", "", uint8(1))
	f.Add("Bearer a.b.c", "t", "alice", "key", uint8(15))
	f.Add("", "t", "alice", "key", uint8(6))
	f.Fuzz(func(t *testing.T, header, token, user, key string, present uint8) {
		h, q, given := http.Header{}, Query{}, 0
		if present&1 != 0 {
			h.Set("Authorization", header)
			given++
		}
		if present&2 != 0 {
			q.Token = &token
			given++
		}
		if present&4 != 0 {
			q.Username, q.APIKey = &user, &key
			given++
		}
		c, err := FromRequest(h, q)
		if err != nil {
			var invalid *Invalid
			if !errors.As(err, &invalid) {
				t.Fatalf("error is no *Invalid: %v", err)
			}
			return
		}
		switch {
		case given > 1:
			t.Fatal("several kinds were accepted")
		case (c.kind == Anonymous) != (given == 0):
			t.Fatalf("%d kinds given, read %v", given, c)
		case c.kind != Anonymous && c.secret == "", c.kind == Key && c.user == "":
			t.Fatalf("%v without content", c)
		case c.kind == Key && c.Basic() && strings.Contains(c.user, ":"):
			t.Fatal("the user holds a colon")
		}
	})
}
