package publish

import (
	"fmt"
	"testing"
)

func TestAnAccountCostsLittleMemoryHoweverManyEventsAndBatchesThereAre(t *testing.T) {
	g := newLedger(1<<20, 100)
	m := &Message{Application: "app", Subject: "in.0.app", Data: make([]byte, 100)}
	for i := range uint64(100_000) {
		if g.inBatch(start, m, i+1, 1); i%3 == 0 {
			g.ended(0, 0, false)
		} else {
			g.ended(i+1, 1, i%2 == 0)
		}
		g.accounts["app"].begin()
		g.accounts["app"].holds(1000) // as an audit does
	}
	a := g.accounts["app"]
	if n := len(a.own.parts); n > 2*stepsOfShare*grainsOfStep {
		t.Errorf("%d parts for %d bytes", n, a.own.bytes)
	}
	if a.events() != 1000 || a.bytes() != a.events()*int64(len(m.Subject)+recordOverhead+100) {
		t.Errorf("%d events of %d bytes are left", a.events(), a.bytes())
	}
}

func TestWhatIsEvictedEndsAtAPlaceThatIsKnown(t *testing.T) {
	const grain = 100
	a := &account{}
	put := func(attempt uint64, places int, bytes int64) {
		a.attempt = attempt
		for place := 1; place <= places; place++ {
			a.stored(bytes, grain, uint64(place))
		}
	}
	put(1, 4, 100)
	a.ended(104, 4, true, grain) // at 101 to 104
	put(2, 2, 100)
	a.ended(0, 0, false, grain) // nobody knows where
	put(3, 2, 100)
	a.ended(110, 2, false, grain) // the last one at 110
	put(4, 1, 100)                // open
	for target, want := range map[int64]string{
		900: "0 0", 899: "0 0", 800: "1 101", 500: "4 104", 350: "4 104", 101: "4 104", 100: "8 110", 1: "8 110",
	} {
		if events, upTo := a.excess(target); fmt.Sprint(events, upTo) != want {
			t.Errorf("to keep %d bytes of %d, %d events up to %d may go, want %s", target, a.bytes(), events, upTo, want)
		}
	}
	a.drop(5)
	if a.events() != 4 || a.bytes() != 400 {
		t.Errorf("%d events of %d bytes are left", a.events(), a.bytes())
	}
}

// publishing counts n events of 1,000 bytes and more of an application of ours, each alone.
func publishing(g *ledger, application string, n int) *account {
	m := &Message{Application: application, Subject: "in.0." + application, Data: make([]byte, 1000)}
	for range n {
		g.alone(start, m, 1)
	}
	return g.accounts[application]
}

func TestNobodyWaitsForAnAuditInAStreamThatHoldsLessThanAShare(t *testing.T) {
	g := newLedger(40<<20, 100)
	a := publishing(g, "app", 2000)
	if !a.auditing || a.held {
		t.Fatalf("audited: %v, held: %v", a.auditing, a.held)
	}
	g.asked(2 << 20)
	if publishing(g, "app", 10_000); a.held {
		t.Error("held, with 12 MB of a share of 40 MiB in the whole stream")
	}
	g.asked(160 << 20) // nobody has counted what the application holds
	if publishing(g, "app", 1); !a.held {
		t.Error("not held in a full stream")
	}
}

func TestAnEmptyStreamIsAuditedSeldom(t *testing.T) {
	g := newLedger(40<<20, 100)
	audits, inStream := 0, int64(0)
	for inStream < g.target() {
		a := publishing(g, "app", 100)
		if inStream = a.bytes(); a.auditing {
			audits++
			g.take()
			grown := a.begin()
			g.asked(inStream)
			g.end(start, a, grown, inStream, inStream)
		}
	}
	if audits > 9 {
		t.Errorf("%d audits until the share was reached", audits)
	}
}

func TestWhatAnApplicationHeldBeforeDoesNotCountAsGrowth(t *testing.T) {
	g := newLedger(40<<20, 100)
	a := publishing(g, "app", 2000)
	grown := a.begin()
	g.asked(20 << 20)
	g.end(start, a, grown, 20<<20, 20<<20)
	if a.due < g.step {
		t.Errorf("the first audit makes the next one due with %d bytes", a.due)
	}
}
