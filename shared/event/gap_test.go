package event

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestAGapIsACompactEventThatTakesACursor(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.FixedZone("", 3600))
	after, before := Cursor{7, 3}, Cursor{8, 10}
	b := Gap{Application: "a\"b\n", Reason: GapLog, After: after, Before: before, At: at}.JSON()
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil || !bytes.Equal(compact.Bytes(), b) {
		t.Fatalf("%s is not compact JSON: %v", b, err)
	}
	var got struct {
		SpecVersion, ID, Type, Source, Time, Application, Cursor string
		Data                                                     struct{ Reason, After, Before, Message string }
	}
	if err := json.Unmarshal(AppendCursor(nil, b, Cursor{8, 9}), &got); err != nil {
		t.Fatal(err)
	}
	if got.SpecVersion != "1.0" || got.ID == "" || got.Source == "" || got.Type != GapType || got.Time != "2026-01-02T02:04:05.0000006Z" ||
		got.Application != "a\"b\n" || got.Cursor != (Cursor{8, 9}).String() {
		t.Errorf("got %+v", got)
	}
	if d := got.Data; d.Reason != GapLog || d.After != after.String() || d.Before != before.String() || d.Message == "" {
		t.Errorf("got data %+v", d)
	}
}

func TestAGapLeavesOutWhatIsNotKnown(t *testing.T) {
	for _, reason := range []string{GapRetention, GapLog, GapFuture, GapSkipped} {
		b := string(Gap{Reason: reason, At: time.Now()}.JSON())
		if strings.Contains(b, "after") || strings.Contains(b, "before") || strings.Contains(b, `"message":""`) {
			t.Errorf("%s: %s", reason, b)
		}
	}
}

func TestAGapOfOneEventNamesIt(t *testing.T) {
	g := Gap{Reason: GapUndeliverable, After: Cursor{Log: 7, Sequence: 3}, Before: Cursor{Log: 7, Sequence: 5}, Event: Cursor{Log: 7, Sequence: 4}, Bytes: 12}
	b := string(g.JSON())
	if !strings.Contains(b, `"event":"`+g.Event.String()+`","bytes":12`) || strings.Contains(b, `"message":""`) {
		t.Errorf("got %s", b)
	}
	if b := string(Gap{Reason: GapSkipped}.JSON()); strings.Contains(b, `"event"`) || strings.Contains(b, `"bytes"`) {
		t.Errorf("of any number of events: %s", b)
	}
}
