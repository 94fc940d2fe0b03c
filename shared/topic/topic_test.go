package topic

import (
	"regexp"
	"strings"
	"testing"
)

func TestTopicsAreNamedAsTheCloudNamesThem(t *testing.T) {
	for _, c := range []struct{ application, topic string }{
		{"foo", "events-foo"},
		{"00foo", "events-00foo"},
		{"a", "events-a"},
		{"a-b", "events-a-b"},
		{"FOO", "evt-901890a8e9c8cf6d5a1a542b229febff-foo"},
		{"foo-", "evt-03f19ca8da08c40c2d036c8915d383e2-foo"},
		{strings.Repeat("0123456789", 7), "evt-109eb12c10c45d94ddac8eca7b818bed-01234567890123456789012345"},
		{strings.Repeat("a", 55), "events-" + strings.Repeat("a", 55)},
		{strings.Repeat("a", 56), "evt-3b0c8ac703f828b04c6c197006d17218-" + strings.Repeat("a", 26)},
		{"my.app", "evt-deaa787ff44f93598107c22c57312f74-my-app"},
		{"", "evt-d41d8cd98f00b204e9800998ecf8427e"},
		{"-", "evt-336d5ebc5436534e61d16e63ddfca327"},
		{"é", "evt-66ddcd97cfdeabb2f6fb8a999b4bc76f"},
		{"aéb", "evt-669240e0a2c2ae39fda9944f1492162d-a-b"},
		{"KELVIN \u212A", "evt-e6a3d9f697941e53930409da150f9bc2-kelvin-k"},
		{"İx", "evt-13e51bcd4c2b8d678480dce7c7c4f0ba-i-x"},
	} {
		if got := Of(c.application); got != c.topic {
			t.Errorf("Of(%q) = %q, want %q", c.application, got, c.topic)
		}
	}
}

func TestOnlyPlainTopicsTellTheirApplication(t *testing.T) {
	for _, c := range []struct {
		topic, application string
		ok                 bool
	}{
		{"events-foo", "foo", true},
		{"events-00foo", "00foo", true},
		{"events-events-foo", "events-foo", true},
		{"events-" + strings.Repeat("a", 55), strings.Repeat("a", 55), true},
		{"events-" + strings.Repeat("a", 56), "", false},
		{"events-", "", false},
		{"events-FOO", "", false},
		{"events-foo-", "", false},
		{"events--foo", "", false},
		{"events-my.app", "", false},
		{"evt-901890a8e9c8cf6d5a1a542b229febff-foo", "", false},
		{"foo", "", false},
		{"", "", false},
	} {
		if got, ok := Application(c.topic); got != c.application || ok != c.ok {
			t.Errorf("Application(%q) = %q %v, want %q %v", c.topic, got, ok, c.application, c.ok)
		}
	}
}

func TestHashedTopicsAreKnownByTheirForm(t *testing.T) {
	const sum = "901890a8e9c8cf6d5a1a542b229febff"
	for _, c := range []struct {
		topic string
		want  bool
	}{
		{"evt-" + sum + "-foo", true},
		{"evt-" + sum + "-b-a-r", true},
		{"evt-" + sum + "--foo", true}, // a name may begin with a dash, or with what becomes one
		{"evt-" + sum, true},
		{"evt-" + sum + "-" + strings.Repeat("a", 26), true},
		{"evt-" + sum + "-" + strings.Repeat("a", 27), false},
		{"evt-" + sum + "-", false},
		{"evt-" + sum + "-foo-", false},
		{"evt-" + sum + "foo", false},
		{"evt-" + sum + "0", false},
		{"evt-" + sum + "-FOO", false},
		{"evt-" + sum + "-f.o", false},
		{"evt-" + sum + "-é", false},
		{"evt-" + sum[1:], false},
		{"evt-" + sum[1:] + "-foo", false},
		{"evt-" + strings.ToUpper(sum) + "-foo", false},
		{"evt-g" + sum[1:] + "-foo", false},
		{"evt-é" + sum[2:] + "-foo", false},
		{"EVT-" + sum + "-foo", false},
		{"events-" + sum, false},
		{"evt-foo", false},
		{"evt-", false},
		{"", false},
	} {
		if got := Hashed(c.topic); got != c.want {
			t.Errorf("Hashed(%q) = %v, want %v", c.topic, got, c.want)
		}
	}
}

var legal = regexp.MustCompile(`^(events-[a-z0-9]([-a-z0-9]*[a-z0-9])?|evt-[0-9a-f]{32}(-[-a-z0-9]*[a-z0-9])?)$`)

func FuzzTopicIsLegalAndBelongsToOneApplication(f *testing.F) {
	for _, s := range []string{"", "foo", "foo-", "my.app", "İ", "\xff", strings.Repeat("-", 80), "events-a", "evt-" + strings.Repeat("0a", 16) + "-x"} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		topic := Of(name)
		if len(topic) > maxLen || !legal.MatchString(topic) {
			t.Fatalf("Of(%q) = %q", name, topic)
		}
		if name != other && topic == Of(other) {
			t.Fatalf("%q and %q share the topic %q", name, other, topic)
		}
		application, ok := Application(topic)
		if ok != strings.HasPrefix(topic, plainPrefix) || ok && application != name {
			t.Fatalf("Application(Of(%q)) = %q %v", name, application, ok)
		}
		if Hashed(topic) == ok {
			t.Fatalf("Hashed(Of(%q)) = %v, but it tells its application: %v", name, !ok, ok)
		}
		// name as a topic's: whatever it is, Of can have made it or nobody owns it.
		_, plain := Application(name)
		limit := maxLen
		if strings.HasPrefix(name, plainPrefix) {
			limit-- // a plain one stays below
		}
		if want := legal.MatchString(name) && len(name) <= limit; (plain || Hashed(name)) != want || plain && Hashed(name) {
			t.Fatalf("%q: plain %v, hashed %v, of the naming %v", name, plain, Hashed(name), want)
		}
		if application, ok := Application(name); ok && Of(application) != name {
			t.Fatalf("Application(%q) = %q, whose topic is %q", name, application, Of(application))
		}
	})
}
