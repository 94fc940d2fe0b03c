package client

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// TestComingBackFollowsTheTableOfCloseCodes has the rows of the README's table.
func TestComingBackFollowsTheTableOfCloseCodes(t *testing.T) {
	const s, no = time.Second, -1
	token := situation{token: true, opened: true}
	for _, c := range []struct {
		code   int
		reason string
		s      situation
		delays [3]time.Duration // with so many failures in a row; no: never
	}{
		{1001, "edge is going away", situation{}, [3]time.Duration{0, 2 * s, 4 * s}},
		{1002, "unknown message: expected RefreshAccessToken", token, [3]time.Duration{no}},
		{1007, "text is not UTF-8", token, [3]time.Duration{no}},
		{1008, "JWT token expired", token, [3]time.Duration{0, 2 * s, 4 * s}},
		{1008, "JWT token expired", situation{}, [3]time.Duration{no}},
		{1008, "Access withdrawn", token, [3]time.Duration{no}},
		{1008, "Disconnected by the operator", situation{}, [3]time.Duration{60 * s, 60 * s, 60 * s}},
		{1008, "Failed to refresh token", token, [3]time.Duration{0, 2 * s, 4 * s}},
		{1008, "too many messages", situation{}, [3]time.Duration{5 * s, 5 * s, 5 * s}},
		{1008, "something new", token, [3]time.Duration{no}},
		{1009, "message is too big", token, [3]time.Duration{no}},
		{1011, "Access cannot be checked", situation{}, [3]time.Duration{s, 2 * s, 4 * s}},
		{1013, "slow consumer", situation{}, [3]time.Duration{5 * s, 5 * s, 5 * s}},
		{1013, "group member does not answer Pings", situation{}, [3]time.Duration{5 * s, 5 * s, 5 * s}},
		{1012, "a proxy restarts", situation{}, [3]time.Duration{s, 2 * s, 4 * s}},
	} {
		r := ruleFor(fmt.Errorf("wrapped: %w", &ClosedError{Code: c.code, Reason: c.reason}), c.s)
		if r.final != (c.delays[0] == no) {
			t.Errorf("%d %s: for good is %v", c.code, c.reason, r.final)
		}
		if r.final {
			continue
		}
		for i, want := range c.delays {
			between(t, fmt.Sprint(c.code, c.reason, i+1), r.wait(i+1), want)
		}
	}
	broken := ruleFor(io.ErrUnexpectedEOF, situation{})
	for failures, want := range map[int]time.Duration{1: s, 2: 2 * s, 6: 32 * s, 7: 60 * s, 1_000_000: 60 * s} {
		between(t, fmt.Sprintf("1006 after %d failures", failures), broken.wait(failures), want)
	}
}

// between wants the delay and not much more.
func between(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want || got > want+want/2+minJitter {
		t.Errorf("%s: waits %v, want %v and some chance", what, got, want)
	}
}

func TestRefusalsThatPassAreTriedAgain(t *testing.T) {
	token := situation{token: true, opened: true}
	tired := situation{token: true, opened: true, forbidden: maxForbidden}
	for _, c := range []struct {
		err   RefusedError
		s     situation
		again bool
	}{
		{RefusedError{Status: 400}, token, false},
		{RefusedError{Status: 404}, token, false},
		{RefusedError{Status: 403, Kind: "Forbidden"}, situation{opened: true}, false},
		{RefusedError{Status: 403, Kind: "Forbidden"}, situation{token: true}, false},
		{RefusedError{Status: 403, Kind: "Forbidden"}, token, true},
		{RefusedError{Status: 403, Kind: "Forbidden"}, tired, false},
		{RefusedError{Status: 429, RetryAfter: 90 * time.Second}, situation{}, true},
		{RefusedError{Status: 431}, situation{}, false},
		{RefusedError{Status: 500}, situation{}, true},
		{RefusedError{Status: 502}, situation{}, true},
		{RefusedError{Status: 503}, situation{}, true},
	} {
		r := ruleFor(&c.err, c.s)
		if r.final == c.again {
			t.Errorf("%+v, %+v: comes back is %v", c.err, c.s, !r.final)
		}
		if c.again {
			between(t, c.err.Error(), r.wait(1), max(c.err.RetryAfter, time.Second))
		}
	}
}

func TestThePlaceToResumeAtIsTakenFromAReason(t *testing.T) {
	for reason, want := range map[string][2]string{
		"slow consumer since=abc-1": {"slow consumer", "abc-1"},
		"since=abc-1":               {"", "abc-1"},
		"slow consumer":             {"slow consumer", ""},
		"ever since=":               {"ever", ""},
		"notsince=1":                {"notsince=1", ""},
		"":                          {"", ""},
	} {
		if text, since := splitReason(reason); text != want[0] || since != want[1] {
			t.Errorf("%q: got %q, %q", reason, text, since)
		}
	}
}

func TestConfigurationReportsEveryProblem(t *testing.T) {
	err := (&Config{Edge: "http://u:p@host?x", Group: "g", Since: "s", User: "u", MaxMessage: -1}).validate()
	if err == nil {
		t.Fatal("no problem")
	}
	for _, part := range []string{"no user, query", "an application", "a group", "go together", "negative"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
	for _, edge := range []string{"", "host:80", "ftp://host", "ws://", "::"} {
		if (&Config{Edge: edge, Application: "a"}).validate() == nil {
			t.Errorf("%q passes", edge)
		}
	}
}

func TestNamesAreEscapedBehindThePathOfTheEdge(t *testing.T) {
	for _, c := range []struct {
		config Config
		since  string
		want   string
	}{
		{Config{Edge: "ws://h", Application: "a"}, "", "ws://h/a"},
		{Config{Edge: "wss://h/", Application: "a", Channel: "b"}, "c-1", "wss://h/a/b?since=c-1"},
		{Config{Edge: "https://h/p%2Fq/", Application: "a/b c", Channel: "d?e", Device: "f&g"}, "", "https://h/p%2Fq/a%2Fb%20c/d%3Fe?device=f%26g"},
		{Config{Edge: "ws://h", Application: "a", Group: "ü"}, "", "ws://h/a?group_id=%C3%BC"},
	} {
		if got := c.config.url(c.since); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func TestTokensAreRefreshedWellBeforeTheyEnd(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	token := func(claims string) string {
		return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s"
	}
	for _, c := range []struct {
		token string
		want  time.Duration
		ok    bool
	}{
		{token(`{"exp":1000100}`), 75 * time.Second, true},
		{token(`{"exp":1000000.5}`), time.Second, true},
		{token(`{"exp":5}`), time.Second, true},
		{token(`{}`), 0, false},
		{token(`{"exp":"soon"}`), 0, false},
		{"opaque", 0, false},
		{"a.!.b", 0, false},
		{"", 0, false},
	} {
		if wait, ok := refreshIn(c.token, now); wait != c.want || ok != c.ok {
			t.Errorf("%s: in %v, %v; want %v, %v", c.token, wait, ok, c.want, c.ok)
		}
	}
}

func TestDataIsReadInEveryForm(t *testing.T) {
	for _, c := range []struct {
		members, data, text string
		binary              bool
	}{
		{`"data":{"n":12345678901234567890}`, `{"n":12345678901234567890}`, `{"n":12345678901234567890}`, false},
		{`"data":"a\"b"`, `"a\"b"`, `a"b`, false},
		{`"data_base64":"aGk="`, "hi", "hi", true},
		{`"data_base64":""`, "", "", true},
		{`"time":"never"`, "", "", false},
	} {
		e, err := parse([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t",` + c.members + `}`))
		if err != nil || string(e.Data) != c.data || e.Text() != c.text || e.Binary != c.binary {
			t.Errorf("%s: got %+v, %v", c.members, e, err)
		}
	}
	for _, message := range []string{``, `[]`, `{}`, `{"hello":"world"}`, `{"specversion":"1.0","type":"t","data_base64":"?"}`} {
		if _, err := parse([]byte(message)); err == nil {
			t.Errorf("%s is an event", message)
		}
	}
	for _, forged := range []string{`"source":"canopy:edge","data":1`, `"source":"drogue://a/device","data":{"reason":"log"}`, `"source":"canopy:edge"`} {
		e, err := parse([]byte(`{"specversion":"1.0","id":"1","type":"` + gapType + `",` + forged + `}`))
		if err != nil || e.Gap != nil {
			t.Errorf("%s: got a gap %v, %v, want an event of a device", forged, e.Gap, err)
		}
	}
	if !ruleFor(fmt.Errorf("%w: x", errNoEvent), situation{}).final || ruleFor(ErrTooBig, situation{}).final || errors.Is(errNoEvent, ErrTooBig) {
		t.Error("a server that sends no events is asked again")
	}
}
