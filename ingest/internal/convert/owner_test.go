package convert

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"canopy/shared/topic"
)

// hashedFOO is the topic of the application FOO.
const hashedFOO = "evt-901890a8e9c8cf6d5a1a542b229febff-foo"

// The naming, as the cloud's documentation has it.
var (
	plainName  = regexp.MustCompile(`^events-([a-z0-9]([-a-z0-9]*[a-z0-9])?)$`)
	hashedName = regexp.MustCompile(`^evt-[0-9a-f]{32}(-[-a-z0-9]*[a-z0-9])?$`)
)

// checkOwner fails the test if e, made from r by New(fallback), belongs to anybody else than
// the naming says. e is read as JSON, not as convert reads it.
func checkOwner(t *testing.T, r Record, fallback string, e Event) {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(e.JSON, &members); err != nil {
		t.Fatal(err)
	}
	named := ""
	if value, ok := members["application"]; ok {
		named, _ = textOf(value)
	}
	want, misnamed := named, false
	if m := plainName.FindStringSubmatch(r.Topic); m != nil && len(r.Topic) < 63 {
		want, misnamed = m[1], named != "" && named != m[1]
	} else if hashedName.MatchString(r.Topic) && len(r.Topic) <= 63 {
		if topic.Of(named) != r.Topic {
			t.Fatalf("an event of %q came through %s", named, r.Topic)
		}
	} else if want == "" {
		want = fallback
	}
	if want == "" || e.Application != want || e.Misnamed != misnamed {
		t.Fatalf("topic %q, event of %q: it belongs to %q, misnamed %v; want %q, %v", r.Topic, named, e.Application, e.Misnamed, want, misnamed)
	}
}

// inBothModes makes two records of topicName with an event that names application; null
// stands for none.
func inBothModes(topicName, application string) map[string]Record {
	binary := Record{Topic: topicName, Headers: minimal()}
	if application != "null" {
		var text string
		if json.Unmarshal([]byte(application), &text) != nil {
			text = application // a number, say, which a header cannot tell from its text
		}
		binary.Headers = minimal("CE_Application", text)
	}
	body := structured(startedWith + `"application":` + application + `}`)
	body.Topic = topicName
	// The cloud has made headers for an event whose content type, and so its body, is a device's.
	cloud := body
	cloud.Headers = append(minimal("ce_application", "cloud"), body.Headers...)
	return map[string]Record{"binary": binary, "structured": body, "structured with headers": cloud}
}

func TestATopicOfAnApplicationCarriesItsEventsOnly(t *testing.T) {
	for _, c := range []struct {
		name, topic, application string // in JSON
		want                     string
		misnamed                 bool
	}{
		{"its own", "events-a", `"a"`, "a", false},
		{"none", "events-a", `null`, "a", false},
		{"an empty one", "events-a", `""`, "a", false},
		{"another one", "events-a", `"b"`, "a", true},
		{"another one in disguise", "events-a", `"\u0062"`, "a", true},
		{"its own in disguise", "events-a", `"\u0061"`, "a", false},
		{"its own in capitals", "events-a", `"A"`, "a", true},
		{"its own, percent-encoded", "events-a", `"%61"`, "a", true},
		{"its own and a NUL", "events-a", `"a\u0000"`, "a", true},
		{"its own and a blank", "events-a", `"a "`, "a", true},
		{"a subject of NATS", "events-a", `"b.>\r\n"`, "a", true},
		{"one that is very long", "events-a", `"` + strings.Repeat("b", 1<<20) + `"`, "a", true},
		{"a number", "events-a", `5`, "a", true},
		{"its own as a number", "events-5", `5`, "5", false},
		{"true", "events-true", `true`, "true", false},
		{"one with a hashed topic", "events-a", `"FOO"`, "a", true},
		{"that of failed events", "events-a-dlt", `"a"`, "a-dlt", true},
		{"that of events to be tried again", "events-a-retry-0", `"a"`, "a-retry-0", true},
		{"the longest name", "events-" + strings.Repeat("a", 55), `"b"`, strings.Repeat("a", 55), true},
	} {
		for mode, r := range inBothModes(c.topic, c.application) {
			t.Run(c.name+", "+mode, func(t *testing.T) {
				e, err := New("default").Convert(r)
				if err != nil {
					t.Fatal(err)
				}
				if e.Application != c.want || e.Misnamed != c.misnamed || e.Structured != (mode != "binary") {
					t.Errorf("got %.80q, misnamed %v, structured %v; want %q, %v", e.Application, e.Misnamed, e.Structured, c.want, c.misnamed)
				}
				checkEvent(t, e)
				checkOwner(t, r, "default", e)
			})
		}
	}
}

func TestAnEventKeepsTheApplicationThatItNames(t *testing.T) {
	for mode, r := range inBothModes("events-a", `"b"`) {
		e, err := New("").Convert(r)
		if want := start + `,"application":"b"}`; err != nil || string(e.JSON) != want {
			t.Errorf("%s: got %s, %v; want %s", mode, e.JSON, err, want)
		}
	}
}

func TestAHashedTopicNeedsAnEventThatNamesItsApplication(t *testing.T) {
	for _, c := range []struct{ name, topic, application, want string }{
		{"its own", hashedFOO, `"FOO"`, "FOO"},
		{"its own in disguise", hashedFOO, `"\u0046OO"`, "FOO"},
		{"another one", hashedFOO, `"b"`, ""},
		{"one that looks alike", hashedFOO, `"foo"`, ""},
		{"one with another hashed topic", hashedFOO, `"FOo"`, ""},
		{"none", hashedFOO, `null`, ""},
		{"an empty one", topic.Of(""), `""`, ""},
		{"none, and the topic is that of an empty one", topic.Of(""), `null`, ""},
		{"one whose topic is not a hashed one", "evt-acbd18db4cc2f85cedef654fccc4a4d8-foo", `"foo"`, ""},
		{"its own, and the topic has another end", hashedFOO + "o", `"FOO"`, ""},
		{"its own, and the topic is that of failed events", hashedFOO + "-dlt", `"FOO"`, ""},
		{"a number", topic.Of("-7"), `-7`, "-7"},
		{"a long one", topic.Of(strings.Repeat("x", 300)), `"` + strings.Repeat("x", 300) + `"`, strings.Repeat("x", 300)},
		{"one that shares the topic's name up to the cut", topic.Of(strings.Repeat("x", 300)), `"` + strings.Repeat("x", 301) + `"`, ""},
		{"one with dots", topic.Of("my.app"), `"my.app"`, "my.app"},
	} {
		for mode, r := range inBothModes(c.topic, c.application) {
			t.Run(c.name+", "+mode, func(t *testing.T) {
				// A configured application is no word of the event's: FOO is none either.
				converter := New("FOO")
				for range 2 { // the second time it is known already
					e, err := converter.Convert(r)
					if c.want == "" {
						wantReason(t, ReasonOtherApplication, e, err)
						continue
					}
					if err != nil || e.Application != c.want || e.Misnamed {
						t.Fatalf("got %.80q, misnamed %v, %v; want %.80q", e.Application, e.Misnamed, err, c.want)
					}
					checkOwner(t, r, "FOO", e)
				}
			})
		}
	}
}

func wantReason(t *testing.T, reason string, e Event, err error) {
	t.Helper()
	var m *Malformed
	if !errors.As(err, &m) || m.Reason != reason {
		t.Fatalf("got an event of %.80q, %v; want it refused as %s", e.Application, err, reason)
	}
}

func TestWhatIsKnownOfOneHashedTopicCountsForNoOther(t *testing.T) {
	c := New("")
	convert := func(topicName, application string) (Event, error) {
		return c.Convert(Record{Topic: topicName, Headers: minimal("ce_application", application)})
	}
	for range 3 {
		for _, own := range []string{"FOO", "BAR"} {
			if e, err := convert(topic.Of(own), own); err != nil || e.Application != own {
				t.Fatalf("got %q, %v; want %s", e.Application, err, own)
			}
			for _, other := range []string{"FOO", "BAR", "b"} {
				if other != own {
					e, err := convert(topic.Of(own), other)
					wantReason(t, ReasonOtherApplication, e, err)
				}
			}
		}
	}
}

// outside are topics of which the naming makes none an application's.
var outside = []string{
	"other", "", "events-", "events-A", "events-a_b", "events-a.dlt", "events-a-", "events--a", "events-é", "Events-a", "events",
	"events-" + strings.Repeat("a", 56), "events-" + strings.Repeat("a", 240),
	"evt-", "evt-a", "evt-901890a8e9c8cf6d5a1a542b229febf-foo", "evt-901890A8E9C8CF6D5A1A542B229FEBFF-foo",
	hashedFOO + "-", hashedFOO + ".dlt", hashedFOO + strings.Repeat("o", 30),
}

func TestOutsideTheNamingTheEventDecidesThenTheConfiguration(t *testing.T) {
	for _, topicName := range outside {
		for _, c := range []struct{ name, application, fallback, want string }{
			{"the event", `"event"`, "default", "event"},
			{"dots are allowed", `"my.app"`, "", "my.app"},
			{"a number", `5`, "", "5"},
			{"the configuration", `null`, "default", "default"},
			{"the configuration, since the event's is empty", `""`, "default", "default"},
			{"nobody", `null`, "", ""},
		} {
			for mode, r := range inBothModes(topicName, c.application) {
				if mode == "structured with headers" {
					continue
				}
				e, err := New(c.fallback).Convert(r)
				if c.want == "" {
					wantReason(t, ReasonNoApplication, e, err)
					continue
				}
				if err != nil || e.Application != c.want || e.Misnamed {
					t.Errorf("%q, %s, %s: got %q, misnamed %v, %v; want %q", topicName, c.name, mode, e.Application, e.Misnamed, err, c.want)
					continue
				}
				checkOwner(t, r, c.fallback, e)
			}
		}
	}
}

func TestOutsideTheNamingARecordThatNamesTwoApplicationsIsMalformed(t *testing.T) {
	for _, c := range []struct {
		name        string
		headers     []string
		application string
		want        string // "" for malformed
	}{
		{"the same", []string{"ce_application", "a"}, `"a"`, "a"},
		{"the same twice", []string{"ce_application", "a", "CE_APPLICATION", "a"}, `"a"`, "a"},
		{"the same as a number", []string{"ce_application", "5"}, `5`, "5"},
		{"an empty header names none", []string{"ce_application", ""}, `"a"`, "a"},
		{"other headers do not count", []string{"ce_device", "x", "application", "x", "ce_application2", "x"}, `"a"`, "a"},
		{"another one", []string{"ce_application", "b"}, `"a"`, ""},
		{"another one in capitals", []string{"CE_APPLICATION", "b"}, `"a"`, ""},
		{"another one behind the same", []string{"ce_application", "a", "Ce_Application", "b"}, `"a"`, ""},
		{"another one that is no text", []string{"ce_application", "\xff"}, `"a"`, ""},
		{"one beside none, which would be the configuration's", []string{"ce_application", "b"}, `null`, ""},
		{"one beside an empty one", []string{"ce_application", "b"}, `""`, ""},
		{"the configuration's beside none", []string{"ce_application", "default"}, `null`, "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := structured(startedWith + `"application":` + c.application + `}`)
			r.Topic = "other"
			r.Headers = append(headers(c.headers...), r.Headers...)
			r.Headers = append(r.Headers, Header{"ce_application", nil}) // absent
			e, err := New("default").Convert(r)
			if c.want == "" {
				wantReason(t, ReasonContradiction, e, err)
				return
			}
			if err != nil || e.Application != c.want {
				t.Fatalf("got %q, %v; want %q", e.Application, err, c.want)
			}
		})
	}
}

func TestAnApplicationThatIsGivenTwiceIsMalformedInEveryTopic(t *testing.T) {
	for _, topicName := range []string{"events-a", hashedFOO, "other"} {
		for name, r := range map[string]Record{
			"binary":               {Headers: minimal("ce_application", "FOO", "CE_Application", "FOO")},
			"structured":           structured(startedWith + `"application":"FOO","application":"b"}`),
			"structured, disguise": structured(startedWith + `"application":"FOO","\u0061pplication":"FOO"}`),
		} {
			r.Topic = topicName
			e, err := New("").Convert(r)
			t.Run(topicName+", "+name, func(t *testing.T) { wantReason(t, ReasonTwice, e, err) })
		}
	}
}
