package oracle

import (
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const each = 12 // records of a lane

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func second(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }

// kafka is two lanes of an application a, whose records are made in turn, one a second, and a
// lane of another one.
func kafka(t *testing.T) *Truth {
	t.Helper()
	var all []Record
	for i := range 2 * each {
		all = append(all, Record{Application: "a", ID: fmt.Sprint("a", i), Lane: fmt.Sprint("a/", i%2), Offset: int64(i / 2), Sum: uint64(i), Made: second(i)})
	}
	for i := range each {
		all = append(all, Record{Application: "b", ID: fmt.Sprint("b", i), Lane: "b/0", Offset: int64(i), Made: second(i)})
	}
	truth, err := NewTruth(all)
	if err != nil {
		t.Fatal(err)
	}
	return truth
}

func place(i int) string { return fmt.Sprintf("log-%03d", i) }

// event is record i of a, as it comes in time.
func event(i int) Message {
	return Message{At: second(i), ID: fmt.Sprint("a", i), Application: "a", Cursor: place(i), Sum: uint64(i)}
}

// told is a gap event that comes behind record i was made.
func told(i int, reason, after, before string) Message {
	cursor := before
	if before != "" {
		cursor = strings.Replace(before, "log-", "log,", 1) // sorts before it
	}
	return Message{At: second(i).Add(time.Millisecond), ID: "gap", Application: "a", Cursor: cursor, Gap: &GapData{reason, after, before}}
}

// events are records from up to, without, to.
func events(from, to int) (list []Message) {
	for i := from; i < to; i++ {
		list = append(list, event(i))
	}
	return list
}

func faithful(messages []Message) Socket {
	return Socket{Name: "s", Application: "a", Opened: noon.Add(-time.Second), Open: true, Messages: messages}
}

// witness is a socket that had everything, by which places are known.
func witness() Socket { return faithful(events(0, 2*each)) }

func join(lists ...[]Message) []Message { return slices.Concat(lists...) }

func one(m Message) []Message { return []Message{m} }

func TestWhatCameOnceAndInOrderIsRight(t *testing.T) {
	truth := kafka(t)
	for seed := range uint64(50) {
		// Lanes may come in any mixture.
		random, next := rand.New(rand.NewPCG(seed, 0)), [2]int{0, 1}
		var list []Message
		for len(list) < 2*each {
			if lane := random.IntN(2); next[lane] < 2*each {
				m := event(next[lane])
				m.Cursor = place(len(list))
				list, next[lane] = append(list, m), next[lane]+2
			}
		}
		if v := truth.Judge([]Socket{faithful(list)}, nil); v.Broken() || v.Events != 2*each {
			t.Fatalf("seed %d: %v %v", seed, v, v.Faults)
		}
	}
}

func TestEverySingleMistakeIsNoticed(t *testing.T) {
	truth := kafka(t)
	whole := events(0, 2*each)
	for i := range whole {
		for kind, list := range map[string][]Message{
			Hole:    join(whole[:i], whole[i+1:]),
			Repeat:  join(whole[:i+1], one(event(i)), whole[i+1:]),
			Unknown: join(whole[:i], one(Message{At: second(i), ID: "x", Application: "a", Cursor: place(i)}), whole[i:]),
			Foreign: join(whole[:i], one(Message{At: second(i), ID: "b1", Application: "b", Cursor: place(i)}), whole[i:]),
			Text:    join(whole[:i], one(Parse(second(i), []byte("{}"))), whole[i:]),
		} {
			v := truth.Judge([]Socket{faithful(list)}, nil)
			if v.Counts[kind] != 1 {
				t.Errorf("%s at %d: %v %v", kind, i, v, v.Faults)
			}
		}
		changed := slices.Clone(whole)
		changed[i].Sum++
		if v := truth.Judge([]Socket{faithful(changed)}, nil); v.Counts[Altered] != 1 {
			t.Errorf("altered at %d: %v", i, v)
		}
		if i+2 < len(whole) {
			swapped := slices.Clone(whole)
			swapped[i], swapped[i+2] = swapped[i+2], swapped[i]
			if v := truth.Judge([]Socket{faithful(swapped)}, nil); v.Counts[Order] != 1 || v.Counts[Hole] != 0 {
				t.Errorf("order at %d: %v %v", i, v, v.Faults)
			}
		}
	}
}

func TestWhatIsMissingMustBeNamedByAGapEventInItsPlace(t *testing.T) {
	truth := kafka(t)
	for name, c := range map[string]struct {
		came  []Message
		named int
		kinds []string
	}{
		"a gap event between":                  {join(events(0, 6), one(told(9, Retention, place(5), place(9))), events(9, 24)), 3, nil},
		"one that knows no last event":         {join(events(0, 6), one(told(9, Skipped, "", place(9))), events(9, 24)), 3, nil},
		"the end of what came":                 {join(events(0, 20), one(told(23, Skipped, place(19), ""))), 4, nil},
		"one that tells of nothing":            {join(events(0, 6), one(told(6, Retention, place(5), place(6))), events(6, 24)), 0, nil},
		"one before the hole":                  {join(events(0, 3), one(told(3, Retention, place(2), place(3))), events(3, 6), events(9, 24)), 0, []string{Hole}},
		"one behind the hole":                  {join(events(0, 6), events(9, 24), one(told(24, Retention, place(23), place(24)))), 0, []string{Hole}},
		"one that names less":                  {join(events(0, 6), one(told(9, Retention, place(5), place(8))), events(9, 24)), 2, []string{Hole}},
		"one that came before they were made":  {join(events(0, 6), one(told(7, Retention, place(5), place(9))), events(9, 24)), 2, []string{Hole}},
		"one that says more was received":      {join(events(0, 6), one(told(9, Retention, place(6), place(9))), events(9, 24)), 2, []string{Gap, Hole}},
		"events before where it goes on":       {join(events(0, 6), one(told(9, Retention, place(5), place(10))), events(9, 24)), 3, []string{Gap}},
		"a reason that there is not":           {join(events(0, 6), one(told(6, "bad luck", place(5), place(6))), events(6, 24)), 0, []string{Gap}},
		"a place that is not before":           {join(events(0, 6), one(Message{At: second(6), ID: "gap", Application: "a", Cursor: place(6), Gap: &GapData{Skipped, place(5), place(6)}}), events(6, 24)), 0, []string{Gap}},
		"a range that is none":                 {join(events(0, 6), one(told(6, Skipped, place(5), place(4))), events(6, 24)), 0, []string{Gap}},
		"a gap event of another application":   {join(events(0, 6), one(Message{At: second(6), ID: "gap", Application: "b", Cursor: "log,006", Gap: &GapData{Skipped, place(5), place(6)}}), events(6, 24)), 0, []string{Foreign}},
		"another log, which begins again":      {join(events(0, 6), one(told(6, Log, place(5), "")), moved(events(2, 24))), 0, nil},
		"another log, which lacks something":   {join(events(0, 6), one(told(9, Log, place(5), "")), moved(events(9, 24))), 3, nil},
		"another log, which repeats by itself": {join(events(0, 6), one(told(6, Log, place(5), "")), moved(events(6, 10)), events(8, 24)), 0, []string{Repeat, Cursor}},
		"events again behind an ordinary gap":  {join(events(0, 6), one(told(6, Retention, place(5), "")), moved(events(4, 24))), 0, []string{Repeat}},
	} {
		v := truth.Judge([]Socket{faithful(c.came), witness()}, nil)
		if got := slices.Sorted(maps.Keys(v.Counts)); !slices.Equal(got, slices.Sorted(slices.Values(c.kinds))) || v.Named != c.named {
			t.Errorf("%s: %v %v, want faults %v and %d named", name, v, v.Faults, c.kinds, c.named)
		}
	}
}

// moved are the same events at the places of another log.
func moved(list []Message) []Message {
	for i := range list {
		list[i].Cursor = "new-" + list[i].Cursor
	}
	return list
}

func TestACursorNamesOneEventForEverAndCursorsSort(t *testing.T) {
	truth := kafka(t)
	taken := events(0, 24)
	taken[7].Cursor = place(100)
	other := events(0, 24)
	other[9].Cursor = place(100)
	v := truth.Judge([]Socket{faithful(taken), faithful(other)}, nil)
	if !slices.ContainsFunc(v.Faults, func(f Fault) bool { return f.Kind == Cursor && strings.Contains(f.Text, "names a7, and a9") }) {
		t.Errorf("two events of one cursor: %v", v.Faults)
	}
	if v := truth.Judge([]Socket{faithful(taken)}, nil); v.Counts[Cursor] != 1 {
		t.Errorf("a cursor that does not sort: %v %v", v, v.Faults)
	}
}

func TestASocketMustHaveWhatWasMadeBetweenItsHandshakeAndItsClose(t *testing.T) {
	truth := kafka(t)
	opened := second(7).Add(time.Millisecond)
	for name, c := range map[string]struct {
		came  []Message
		open  bool
		holes int
	}{
		"all from then on":              {events(8, 24), true, 0},
		"some of what was made before":  {events(5, 24), true, 0},
		"the first is missing":          {events(9, 24), true, 1},
		"the last two are missing":      {events(8, 22), true, 2},
		"closed before the last two":    {events(8, 22), false, 0},
		"nothing":                       {nil, true, 16},
		"nothing, and closed":           {nil, false, 0},
		"a hole in what was before":     {join(events(2, 4), events(6, 24)), true, 2},
		"closed, with a hole before it": {join(events(8, 12), events(14, 20)), false, 2},
	} {
		s := Socket{Name: "s", Application: "a", Opened: opened, Open: c.open, Messages: c.came}
		if v := truth.Judge([]Socket{s}, nil); v.Counts[Hole] != c.holes || len(v.Counts) > 1 {
			t.Errorf("%s: %v %v, want %d holes", name, v, v.Faults, c.holes)
		}
	}
}

func TestAGroupMustHaveEverythingAtLeastOnce(t *testing.T) {
	truth := kafka(t)
	opened := second(3).Add(time.Millisecond)
	for name, c := range map[string]struct {
		one, other          []Message
		holes, again, named int
	}{
		"in turn":                      {events(4, 14), events(14, 24), 0, 0, 0},
		"one handed over":              {events(4, 15), events(14, 24), 0, 1, 0},
		"in any order":                 {events(14, 24), events(4, 14), 0, 0, 0},
		"one is missing":               {events(4, 13), events(14, 24), 1, 0, 0},
		"the last is missing":          {events(4, 14), events(14, 23), 1, 0, 0},
		"two are missing and told":     {events(4, 12), join(one(told(20, Retention, place(11), place(14))), events(14, 24)), 0, 0, 2},
		"two are missing and one told": {events(4, 12), join(one(told(20, Retention, place(12), place(14))), events(14, 24)), 1, 0, 1},
		"told too early":               {events(4, 12), join(one(told(2, Retention, "", place(14))), events(14, 24)), 2, 0, 0},
	} {
		g := Group{Name: "g", Application: "a", Opened: opened, Members: []Socket{
			{Name: "g/0", Application: "a", Messages: c.one}, {Name: "g/1", Application: "a", Messages: c.other},
		}}
		v := truth.Judge([]Socket{witness()}, []Group{g})
		if v.Counts[Hole] != c.holes || v.Shared != c.again || v.Named != c.named || len(v.Counts) > 1 {
			t.Errorf("%s: %v %v, want %d holes, %d again, %d named", name, v, v.Faults, c.holes, c.again, c.named)
		}
	}
}

func TestMessagesAreReadAsTheyCome(t *testing.T) {
	m := Parse(noon, []byte(`{"specversion":"1.0","id":"i","type":"t","source":"s","data":{"n":1},"application":"a","cursor":"c"}`))
	if m.Err != nil || m.ID != "i" || m.Application != "a" || m.Cursor != "c" || m.Gap != nil || m.Sum != Sum([]byte(` { "n": 1 } `)) || m.Sum == Sum([]byte(`{"n":2}`)) {
		t.Errorf("got %+v", m)
	}
	m = Parse(noon, []byte(`{"specversion":"1.0","id":"gap/x/y","type":"io.drogue.canopy.gap.v1","source":"canopy:edge","data":{"reason":"log","after":"x","before":"y","message":"…"},"application":"a","cursor":"w"}`))
	if m.Err != nil || m.Gap == nil || *m.Gap != (GapData{Log, "x", "y"}) {
		t.Errorf("got %+v", m)
	}
	for _, text := range []string{``, `[]`, `{"specversion":"1.0","id":"i","type":"t","source":"s","data":1,"application":"a"}`} {
		if m := Parse(noon, []byte(text)); m.Err == nil {
			t.Errorf("%q is an event: %+v", text, m)
		}
	}
}

func TestTwoRecordsOfOneIDAreNoTruth(t *testing.T) {
	if _, err := NewTruth([]Record{{ID: "x"}, {ID: "x", Offset: 1}}); err == nil {
		t.Error("no error")
	}
}

// TestOracleKnowsNothingOfCanopy: what it imported it would believe.
func TestOracleKnowsNothingOfCanopy(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if strings.HasPrefix(i.Path.Value, `"canopy`) || strings.Contains(i.Path.Value, ".") {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
	}
}
