package subject

import (
	"strings"
	"testing"
)

func TestEncodeKeepsEveryNameInsideOneToken(t *testing.T) {
	long := strings.Repeat("a", 10_240)
	for _, c := range []struct{ name, token string }{
		{"my-app_1", "my-app_1"},
		{"", "="},
		{"a.b", "a=2Eb"},
		{"*", "=2A"},
		{">", "=3E"},
		{"a b", "a=20b"},
		{"\r\n", "=0D=0A"},
		{"\x00", "=00"},
		{"=", "=3D"},
		{"é", "=C3=A9"},
		{strings.Repeat("a", MaxToken), strings.Repeat("a", MaxToken)},
		{strings.Repeat(".", 42), strings.Repeat("=2E", 42)},
	} {
		if got := Encode(c.name); got != c.token {
			t.Errorf("Encode(%q) = %q, want %q", c.name, got, c.token)
		}
		if got, ok := Decode(c.token); !ok || got != c.name {
			t.Errorf("Decode(%q) = %q %v, want %q", c.token, got, ok, c.name)
		}
	}
	a, b := Encode(long), Encode(long+"b")
	if a == b || len(a) > MaxToken || !strings.Contains(a, "==") {
		t.Errorf("over-long names: %q and %q", a, b)
	}
	if name, ok := Decode(a); ok {
		t.Errorf("a cut token decoded to %q", name)
	}
}

func TestDecodeRefusesWhatEncodeNeverMakes(t *testing.T) {
	for _, token := range []string{"", "a.b", "=2", "=2e", "=41", "a=", "=G0", "*", ">", "a b", strings.Repeat("a", MaxToken+1)} {
		if name, ok := Decode(token); ok {
			t.Errorf("Decode(%q) = %q, want a refusal", token, name)
		}
	}
}

func TestShardIsStable(t *testing.T) {
	// A change of these numbers would part applications from their stored events.
	for app, want := range map[string]int{"drogue-public-temperature": 16, "example-app": 55, "": 37} {
		if got := Shard(app, 64); got != want {
			t.Errorf("Shard(%q, 64) = %d, want %d", app, got, want)
		}
	}
}

func TestShardOfStreamReadsOnlyOurNames(t *testing.T) {
	if n, ok := ShardOfStream(Stream(17)); !ok || n != 17 {
		t.Errorf("ShardOfStream(%q) = %d %v", Stream(17), n, ok)
	}
	for _, name := range []string{"EVENTS_", "EVENTS_-1", "EVENTS_007", "OTHER_1", "EVENTS_1x", "EVENTS_+1"} {
		if n, ok := ShardOfStream(name); ok {
			t.Errorf("ShardOfStream(%q) = %d, want a refusal", name, n)
		}
	}
}

func FuzzEncodeIsOneTokenAndComesBack(f *testing.F) {
	for _, s := range []string{"", "a", "a.b.>", "=2E", "==", "\x00\xff", strings.Repeat("x.", 70)} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		token := Encode(name)
		if token == "" || len(token) > MaxToken || strings.ContainsAny(token, ".*> \t\r\n\x00") {
			t.Fatalf("Encode(%q) = %q is not one token", name, token)
		}
		if back, ok := Decode(token); ok && back != name {
			t.Fatalf("Decode(Encode(%q)) = %q", name, back)
		} else if !ok && !strings.Contains(token, cutMark) {
			t.Fatalf("Encode(%q) = %q does not decode", name, token)
		}
		if name != other && token == Encode(other) {
			t.Fatalf("%q and %q share the token %q", name, other, token)
		}
	})
}
