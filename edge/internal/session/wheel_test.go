package session

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

func TestWheelTakesEverySessionInItsSecond(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := &wheel{spun: 1000}
		due := map[*Session]uint32{}
		for now := uint32(1001); now < 1300; now++ {
			for range rng.IntN(4) {
				s := &Session{}
				due[s] = now + rng.Uint32N(maxDelay-1)
				w.add(s, due[s], 1000)
			}
			for s, at := range due {
				switch rng.IntN(40) {
				case 0:
					if !w.remove(s) || w.remove(s) {
						t.Fatalf("seed %d: removed not exactly once", seed)
					}
					delete(due, s)
				case 1:
					w.hasten(s, 5)
					due[s] = min(at, w.spun+5)
				}
			}
			into := make([]*Session, 3)
			for {
				n := w.take(now, into)
				if n == 0 {
					break
				}
				for _, s := range into[:n] {
					if due[s] != now {
						t.Fatalf("seed %d: taken at %d, due at %d", seed, now, due[s])
					}
					due[s] = now + 1 + rng.Uint32N(maxDelay-1)
					w.put(s, due[s])
				}
			}
			if w.len() != len(due) || len(w.all()) != len(due) {
				t.Fatalf("seed %d: %d sessions, %d listed, want %d", seed, w.len(), len(w.all()), len(due))
			}
			for _, at := range due {
				if at <= now {
					t.Fatalf("seed %d: at %d one is left that was due at %d", seed, now, at)
				}
			}
		}
	}
}

func TestASessionThatWasRemovedWhileItWasLookedAtStaysOut(t *testing.T) {
	w := &wheel{}
	s := &Session{}
	w.add(s, 1, 1)
	into := make([]*Session, 1)
	if w.take(1, into) != 1 {
		t.Fatal("not taken")
	}
	w.remove(s)
	w.put(s, 2)
	if w.len() != 0 || len(w.all()) != 0 || w.take(2, into) != 0 {
		t.Error("it is back")
	}
}

func TestASessionThatIsHastenedWhileItIsLookedAtIsLookedAtSoon(t *testing.T) {
	w := &wheel{}
	s := &Session{}
	w.add(s, 1, 1)
	into := make([]*Session, 1)
	if w.take(1, into) != 1 || w.take(1, into) != 0 {
		t.Fatal("not taken")
	}
	w.hasten(s, 1)
	w.put(s, 60)
	if w.take(2, into) != 1 {
		t.Error("it is not looked at in the next second")
	}
}

func TestOnlySessionsThatWereAddedAreCountedAndNoMoreThanTheLimit(t *testing.T) {
	w := &wheel{}
	first, second := &Session{}, &Session{}
	if !w.add(first, 1, 1) || w.add(second, 1, 1) {
		t.Error("the limit of one was not kept")
	}
	if w.remove(second) || w.len() != 1 || len(w.all()) != 1 {
		t.Errorf("after removing one that was not in, %d are in, want 1", w.len())
	}
	if !w.remove(first) || w.len() != 0 {
		t.Errorf("%d are in, want none", w.len())
	}
}

func TestASocketThatIsNotAdoptedYetIsNotPinged(t *testing.T) {
	ping := config.Ping{Interval: time.Second, Timeout: time.Second}
	s := &Session{registry: NewRegistry(ws.NewEngine(ws.Config{}), nil, nil, ping, zap.NewNop(), prometheus.NewRegistry())}
	if next := s.ping(100); next != 101 {
		t.Errorf("the next look is at %d, want 101", next)
	}
	if n := s.Reader.Owed(); n != 0 {
		t.Errorf("%d bytes are owed that will never be sent, so no event ever will", n)
	}
}

func TestParseMessage(t *testing.T) {
	for _, c := range []struct {
		payload, token string
		ok             bool
	}{
		{`{"RefreshAccessToken":"abc"}`, "abc", true},
		{` { "RefreshAccessToken" : "a\u0062c" } `, "abc", true},
		{`{"RefreshAccessToken":""}`, "", true},
		{`{"RefreshAccessToken":null}`, "", false},
		{`{"RefreshAccessToken":1}`, "", false},
		{`{"refreshaccesstoken":"abc"}`, "", false},
		{`{"RefreshAccessToken":"abc","x":1}`, "", false},
		{`"RefreshAccessToken"`, "", false},
		{`{}`, "", false},
		{``, "", false},
		{`{"RefreshAccessToken":"abc"}x`, "", false},
	} {
		token, err := parseMessage([]byte(c.payload))
		if (err == nil) != c.ok || token != c.token {
			t.Errorf("parseMessage(%q) = %q, %v", c.payload, token, err)
		}
	}
}
