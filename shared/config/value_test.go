package config

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func mustLookup(t *testing.T, name string) setting {
	t.Helper()
	s, ok := lookup(name)
	if !ok {
		t.Fatalf("no setting %s", name)
	}
	return s
}

func TestParseReadsEachTypeOfTheEnvironment(t *testing.T) {
	const (
		flag, number, size, span  = "HTTP__DISABLE_TLS", "INGEST__SHARDS", "EDGE__BUFFERS__FEED_BYTES", "EDGE__DRAIN"
		list, text, events, wrong = "INGEST__TOPICS", "INGEST__GROUP", "INGEST__RETENTION__EVENTS_PER_APPLICATION", "wrong"
	)
	for _, c := range []struct {
		name, text string
		want       any
	}{
		{flag, "true", true}, {flag, "false", false},
		{flag, "", wrong}, {flag, "yes", wrong}, {flag, "1", wrong}, {flag, "TRUE", wrong},
		{number, "64", 64}, {number, "-1", -1}, {number, "", wrong}, {number, "1e3", wrong}, {number, "0x10", wrong}, {number, "99999999999999999999", wrong},
		{events, "1000000", int64(1000000)}, {events, "1MiB", wrong},
		{size, "1048576", int64(1 << 20)}, {size, "16MiB", int64(16 << 20)}, {size, "2 GiB", int64(2 << 30)}, {size, "7KiB", int64(7 << 10)}, {size, "9B", int64(9)},
		{size, "0", int64(0)}, {size, "9223372036854775807", int64(math.MaxInt64)},
		{size, "9223372036854775807KiB", wrong}, {size, "8589934592GiB", wrong}, {size, "-8589934593GiB", wrong}, {size, "16MB", wrong}, {size, "MiB", wrong}, {size, "1.5GiB", wrong}, {size, "", wrong},
		{span, "30s", 30 * time.Second}, {span, "24h", 24 * time.Hour}, {span, "1h30m", 90 * time.Minute}, {span, "30", wrong}, {span, "7d", wrong}, {span, "", wrong},
		{text, "", ""}, {text, " a ", " a "},
		{list, "", []string{}}, {list, " a , b,,", []string{"a", "b"}},
		{list, `^a{2,3}-[,x]-(b,c),d`, []string{`^a{2,3}-[,x]-(b,c)`, "d"}},
		{list, `^a\{,b`, []string{`^a\{`, "b"}}, {list, `a),b`, []string{"a)", "b"}}, {list, `\`, []string{`\`}},
		{list, "[::1]:9092,b:1", []string{"[::1]:9092", "b:1"}},
	} {
		got, err := mustLookup(t, c.name).parse(c.text)
		if c.want == wrong {
			if err == nil {
				t.Errorf("%s=%q became %v, want a refusal", c.name, c.text, got)
			}
		} else if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s=%q became %#v, %v; want %#v", c.name, c.text, got, err, c.want)
		}
	}
}

func TestConvertTakesNativeValuesOfTheFile(t *testing.T) {
	for _, c := range []struct {
		name  string
		value any
		want  any // nil: refused
	}{
		{"HTTP__DISABLE_TLS", true, true}, {"HTTP__DISABLE_TLS", "true", true}, {"HTTP__DISABLE_TLS", 1, nil},
		{"INGEST__SHARDS", 8, 8}, {"INGEST__SHARDS", "8", 8}, {"INGEST__SHARDS", 8.5, nil}, {"INGEST__SHARDS", uint64(math.MaxUint64), nil},
		{"EDGE__BUFFERS__FEED_BYTES", 4096, int64(4096)}, {"EDGE__BUFFERS__FEED_BYTES", "4KiB", int64(4096)},
		{"EDGE__DRAIN", "5s", 5 * time.Second}, {"EDGE__DRAIN", 5, nil},
		{"INGEST__TOPICS", []any{"^a,b", "c"}, []string{"^a,b", "c"}}, {"INGEST__TOPICS", "a,b", []string{"a", "b"}},
		{"INGEST__TOPICS", []any{1}, nil}, {"INGEST__TOPICS", 1, nil},
		{"INGEST__GROUP", "g", "g"}, {"INGEST__GROUP", 1, nil}, {"INGEST__GROUP", []any{"g"}, nil}, {"INGEST__GROUP", time.Time{}, nil},
	} {
		got, err := mustLookup(t, c.name).convert(c.value)
		if (err == nil) != (c.want != nil) || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %#v became %#v, %v; want %#v", c.name, c.value, got, err, c.want)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "expected ") {
			t.Errorf("%s: %#v: %q does not say what is expected", c.name, c.value, err)
		}
	}
}

func TestShowHidesSecretsAndPasswordsInURLs(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2", "(hidden)"},
		{"NATS__URL", "nats://u:hunter2@a,nats://u:hunter2@b:1", `"xxxxx@b:1"`},
		{"INGEST__GROUP", "a\nb", `"a\nb"`},
		{"INGEST__GROUP", strings.Repeat("a", 200), `"` + strings.Repeat("a", maxShown) + `"…`},
	} {
		if got := mustLookup(t, c.name).show(c.value); got != c.want {
			t.Errorf("%s: %q is shown as %s, want %s", c.name, c.value, got, c.want)
		}
	}
}
