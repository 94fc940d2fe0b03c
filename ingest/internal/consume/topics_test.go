package consume

import (
	"fmt"
	"testing"
)

func TestNamesBecomePatternsBesidePatterns(t *testing.T) {
	for _, c := range []struct {
		setting []string
		want    string
	}{
		{[]string{"a.b", "c"}, "{[a.b c] [] false}"},
		{[]string{"^(events|evt)-.*"}, "{[^(events|evt)-.*] [] true}"},
		{[]string{"a.b", "^x-.*$"}, `{[^a\.b$ ^x-.*$] [] true}`},
		{[]string{"a.b", "!c.d"}, `{[^a\.b$] [^c\.d$] true}`},
		{[]string{"!^.*-dlt$", "^events-.*"}, `{[^events-.*] [^.*-dlt$] true}`},
	} {
		got, err := chooseTopics(c.setting)
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%v: got %v, %v; want %s", c.setting, got, err, c.want)
		}
	}
	for _, bad := range [][]string{nil, {"^("}, {"^a", "!^("}, {"!a"}} {
		if _, err := chooseTopics(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestMatcherTakesWholeNamesAndPatternsButWhatIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		setting []string
		want    map[string]bool
	}{
		{[]string{"one", "a.b"}, map[string]bool{"one": true, "one2": false, "a.b": true, "axb": false}},
		{[]string{"one", "^evt-.*"}, map[string]bool{"one": true, "one2": false, "evt-x": true, "an-evt-x": false}},
		{[]string{"!^.*-(dlt|retry-[0-9]+)$", "^events-.*", "one", "!events-z"}, map[string]bool{
			"one": true, "events-a": true, "events-a-dlt": false, "events-a-retry-0": false, "events-dlt-a": true,
			"events-z": false, "events-zz": true, "dlt": false,
		}},
		{[]string{"^(events|evt)-.*", `!^.*[-._](dlt|retry)([-._].*)?$`}, map[string]bool{ // README's
			"events-a": true, "events-dlt-a": false, "events-adlt": true, "events-a-dlt": false, "events-a.dlt": false,
			"events-a_retry": false, "events-a-retry-0": false, "events-a-retry0": true,
		}},
	} {
		choice, err := chooseTopics(c.setting)
		if err != nil {
			t.Fatal(err)
		}
		match := choice.matcher()
		for name, want := range c.want {
			if match(name) != want {
				t.Errorf("%v: %s: %v", c.setting, name, !want)
			}
		}
	}
}

func TestTopicsThatOnlyAPatternBringsAndNobodyOwnsAreToldOf(t *testing.T) {
	names := map[string][]int32{
		"events-a": nil, "events-a-dlt": nil, "evt-901890a8e9c8cf6d5a1a542b229febff-foo": nil,
		"events-a.dlt": nil, "events-a_b": nil, "evt-foo": nil, "events-B": nil,
	}
	got := fmt.Sprint(outsiders([]string{"^(events|evt)-.*", "events-B"}, names))
	if want := "[events-a.dlt events-a_b evt-foo]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
