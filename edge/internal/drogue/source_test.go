package drogue

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/shared/config"
)

// later makes the source's clock for answers go ahead by what it returns a setter for.
func later(s *Source) (add func(time.Duration)) {
	var mu sync.Mutex
	var ahead time.Duration
	now := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return time.Now().Add(ahead)
	}
	s.now, s.keys.now, s.reads.now, s.exists.now = now, now, now, now
	return func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		ahead += d
	}
}

func TestKeysThatCannotBeDroguesAreRefusedWithoutACall(t *testing.T) {
	s := newStub(t)
	source, _, _ := s.source(nil)
	for _, key := range []string{
		"", "drg_", "secret", aliceKey[:len(aliceKey)-1], aliceKey + "F",
		"drg_012345_01234567890123456789012345678920BetE", // the last digit of the checksum
		"drg_012346_01234567890123456789012345678920BetF", // a digit of the name
		"abc_012345_01234567890123456789012345678920BetF",
		"drg_012345x01234567890123456789012345678920BetF",
		"drg_012345_01234567890123456789012345678920bETf",
	} {
		if _, err := source.VerifyKey(t.Context(), "alice", key, nil); !errors.Is(err, authn.ErrForbidden) {
			t.Errorf("%q: got %v, want ErrForbidden", key, err)
		}
	}
	if n := s.count("POST /api/user"); n != 0 {
		t.Errorf("%d calls", n)
	}
	if !wellFormed(aliceKey) {
		t.Errorf("%s is refused", aliceKey)
	}
}

func TestAKeySignsInAsTheUserThatDrogueNamesWithItsRoles(t *testing.T) {
	s := newStub(t)
	s.key("alice", aliceKey, `{"Known":{"user_id":"4b6e-1","roles":["ops","1/ops","admin","ops"]}}`)
	s.key("bob<&>", aliceKey, `"Unknown"`)
	s.key("carol", aliceKey, `{"Known":{"user_id":"role:admin","roles":[]}}`)
	s.key("dave", aliceKey, `{"Known":{"user_id":"1/dave","roles":[]}}`)
	s.key("erin", aliceKey, `{"Known":{"user_id":"","roles":[]}}`)
	source, _, _ := s.source(nil)
	p, err := source.VerifyKey(t.Context(), "alice", aliceKey, nil)
	if err != nil || p.Kind != authn.Key || p.User != "4b6e-1" || !reflect.DeepEqual(p.Roles, []string{"admin", "ops"}) {
		t.Errorf("got %v %q, %v", p, p.Roles, err)
	}
	for _, user := range []string{"bob<&>", "carol", "dave", "erin"} {
		if p, err := source.VerifyKey(t.Context(), user, aliceKey, nil); !errors.Is(err, authn.ErrForbidden) {
			t.Errorf("%s: got %v, %v, want ErrForbidden", user, p, err)
		}
	}
}

func TestAccessIsAskedByteForByte(t *testing.T) {
	s := newStub(t)
	s.read("open", `null`, `[]`, "allow")
	s.read("app", `null`, `[]`, "deny")
	s.read("app", `"alice"`, `["<ops>","x&y"]`, "allow")
	s.read("app", `"1/alice"`, `["1/ops"]`, "deny")
	source, _, _ := s.source(nil)
	alice := authn.Principal{Kind: authn.Token, User: "alice", Roles: []string{"<ops>", "x&y"}}
	for _, c := range []struct {
		p           authn.Principal
		application string
		want        authz.Access
	}{
		{authn.Principal{}, "open", authz.Public},
		{authn.Principal{}, "app", authz.None},
		{alice, "app", authz.Member},
		{authn.Principal{Kind: authn.Token, User: "1/alice", Roles: []string{"1/ops"}}, "app", authz.None},
		{alice, "a\x00b", authz.None},
		{alice, "a\xffb", authz.None},
		{alice, strings.Repeat("a", 256), authz.None},
	} {
		if as, _, err := source.MayRead(t.Context(), c.p, c.application, nil); as != c.want || err != nil {
			t.Errorf("%v reads %.20q: %v, %v", c.p, c.application, as, err)
		}
	}
}

func TestAnApplicationThatTheRegistryDoesNotHaveCannotBeRead(t *testing.T) {
	s := newStub(t)
	s.read("here", `null`, `[]`, "allow")
	s.read("g/one", `null`, `[]`, "allow")
	s.set(func(s *stub) {
		s.answers["GET /api/registry/v1alpha1/apps/here "] = `{"metadata":{"name":"here","uid":"1"},"spec":{},"status":{}}`
		s.answers["GET /api/registry/v1alpha1/apps/g%2Fone "] = ""
	})
	source, _, _ := s.source(func(c *config.Config) { c.Registry = c.UserAuth })
	for application, want := range map[string]bool{"here": true, "g/one": false} {
		if as, _, err := source.MayRead(t.Context(), authn.Principal{}, application, nil); as.Granted() != want || err != nil {
			t.Errorf("%s: %v, %v", application, as, err)
		}
	}
}

func TestAThousandQuestionsAtOnceAreOneCallAndOneToken(t *testing.T) {
	s := newStub(t)
	s.read("app", `"alice"`, `[]`, "allow")
	source, _, _ := s.source(nil)
	add := later(source)
	ask := func() {
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if as, _, err := source.MayRead(t.Context(), authn.Principal{Kind: authn.Token, User: "alice"}, "app", nil); !as.Granted() || err != nil {
					t.Errorf("got %v, %v", as, err)
				}
			})
		}
		all.Wait()
	}
	const question = `POST /api/v1/user/authz {"application":"app"`
	for lifetimes := 1; lifetimes <= 3; lifetimes++ {
		ask()
		ask()
		if n := s.count(question); n != lifetimes {
			t.Errorf("%d calls in %d lifetimes", n, lifetimes)
		}
		add(24 * time.Second) // the part of 30 s after which every answer is asked for again
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens != 1 {
		t.Errorf("%d tokens were asked for, want 1", s.tokens)
	}
}

func TestWithdrawnAccessAndRevokedKeysEndWithTheLifeOfTheAnswer(t *testing.T) {
	s := newStub(t)
	s.key("alice", aliceKey, `{"Known":{"user_id":"a1","roles":["ops"]}}`)
	s.read("app", `"a1"`, `["ops"]`, "allow")
	s.read("app", `"bob"`, `[]`, "allow")
	source, _, _ := s.source(nil)
	add := later(source)
	alice, err := source.VerifyKey(t.Context(), "alice", aliceKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	bob := authn.Principal{Kind: authn.Token, User: "bob"}
	may := func(p authn.Principal) bool {
		t.Helper()
		as, _, err := source.MayRead(t.Context(), p, "app", nil)
		if err != nil {
			t.Fatal(err)
		}
		return as.Granted()
	}
	if !may(alice) || !may(bob) {
		t.Fatal("no access to begin with")
	}
	s.key("alice", aliceKey, `"Unknown"`)
	s.read("app", `"bob"`, `[]`, "deny")
	if !may(alice) || !may(bob) {
		t.Error("answers do not hold at all")
	}
	add(24 * time.Second)
	if may(alice) {
		t.Error("a revoked key still reads")
	}
	if may(bob) {
		t.Error("withdrawn access still reads")
	}
	s.key("alice", aliceKey, `{"Known":{"user_id":"somebody else","roles":["ops"]}}`)
	add(24 * time.Second)
	if may(alice) {
		t.Error("a key that belongs to somebody else now still reads")
	}
}

func TestAnswersOutliveAnOutageForTheStaleTimeAndNoLonger(t *testing.T) {
	for name, broken := range map[string]func(*stub){
		"errors of its own": func(s *stub) { s.fail = http.StatusInternalServerError },
		"away":              func(s *stub) { s.fail = http.StatusServiceUnavailable },
		"no tokens for it":  func(s *stub) { s.token, s.issuer = "another", http.StatusUnauthorized },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStub(t)
			s.key("alice", aliceKey, `{"Known":{"user_id":"a1","roles":[]}}`)
			s.read("app", `"a1"`, `[]`, "allow")
			source, _, _ := s.source(nil)
			waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
			add := later(source)
			alice, err := source.VerifyKey(t.Context(), "alice", aliceKey, nil)
			if err != nil {
				t.Fatal(err)
			}
			if as, _, err := source.MayRead(t.Context(), alice, "app", nil); !as.Granted() || err != nil {
				t.Fatalf("before: %v, %v", as, err)
			}
			before := s.count("POST")
			s.set(broken)
			add(30*time.Second + 5*time.Minute - 10*time.Second)
			if as, _, err := source.MayRead(t.Context(), alice, "app", nil); !as.Granted() || err != nil {
				t.Errorf("within the stale time: %v, %v", as, err)
			}
			if s.count("POST") == before {
				t.Error("the service was not asked, so nothing failed")
			}
			if _, _, err := source.MayRead(t.Context(), alice, "other", nil); err == nil {
				t.Error("an application that was not asked about before: no error")
			}
			add(11 * time.Second)
			if as, _, err := source.MayRead(t.Context(), alice, "app", nil); as.Granted() || err == nil || errors.Is(err, authn.ErrForbidden) {
				t.Errorf("after the stale time: %v, %v", as, err)
			}
			if err := source.users.ready(); err != nil {
				t.Errorf("not ready in an outage: %v", err)
			}
		})
	}
}

func TestAServiceThatHangsHoldsUpAFewQuestionsAndNotTheNext(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	hang := make(chan struct{})
	defer close(hang)
	s.set(func(s *stub) { s.hang = hang })
	start := time.Now()
	var held sync.WaitGroup
	for n := range doubts {
		held.Go(func() {
			if _, _, err := source.MayRead(t.Context(), authn.Principal{}, fmt.Sprint("held-", n), nil); err == nil {
				t.Error("a service that hangs has answered")
			}
		})
	}
	held.Wait()
	if first := time.Since(start); first < attemptTimeout {
		t.Errorf("given up after %v", first)
	}
	start = time.Now()
	for n := range 100 {
		if _, _, err := source.MayRead(t.Context(), authn.Principal{}, fmt.Sprint("app-", n), nil); !errors.Is(err, errRests) {
			t.Fatalf("got %v, want errRests", err)
		}
	}
	if waited := time.Since(start); waited > rest {
		t.Errorf("100 more questions waited for %v", waited)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := source.MayRead(ctx, authn.Principal{}, "app", nil); err == nil {
		t.Error("a question that nobody waits for any more has no error")
	}
}

func TestAServiceThatIsNotThereIsLeftAloneAfterOneQuestion(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	source.users.url = down.URL
	if _, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", nil); err == nil {
		t.Fatal("a service that is not there has answered")
	}
	for from := range lanes {
		if !source.users.rests(from) {
			t.Errorf("lane %d asks on", from)
		}
	}
}

func TestAFloodOfStrangersHoldsUpNeitherWhoSignsInNorOpenSockets(t *testing.T) {
	s := newStub(t)
	s.read("app", `"alice"`, `[]`, "allow")
	s.read("open", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	hang := make(chan struct{})
	s.set(func(s *stub) { s.hang, s.hangOn = hang, `"made-up-` })
	var flood sync.WaitGroup
	for n := range 2000 {
		flood.Go(func() { _, _, _ = source.MayRead(t.Context(), authn.Principal{}, fmt.Sprint("made-up-", n), nil) })
	}
	const made = `POST /api/v1/user/authz {"application":"made-up-`
	waitFor(t, "flood", func() bool { return s.count(made) >= concurrency[strangers] })
	if as, _, err := source.MayRead(t.Context(), authn.Principal{Kind: authn.Token, User: "alice"}, "app", nil); !as.Granted() || err != nil {
		t.Errorf("a user who signs in: %v, %v", as, err)
	}
	if as, _, err := source.StillMayRead(t.Context(), authn.Principal{}, "open", time.Time{}); !as.Granted() || err != nil {
		t.Errorf("an open socket: %v, %v", as, err)
	}
	waitFor(t, "rest from strangers", func() bool { return source.users.rests(strangers) })
	if source.users.rests(users) || source.users.rests(sockets) {
		t.Error("what strangers ask has made others rest")
	}
	close(hang)
	flood.Wait()
}

func TestAQueueSaysNothingAboutTheService(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	for range concurrency[strangers] {
		source.users.slots[strangers] <- struct{}{}
	}
	var waiting sync.WaitGroup
	for n := range doubts {
		waiting.Go(func() {
			if _, _, err := source.MayRead(t.Context(), authn.Principal{}, fmt.Sprint("app-", n), nil); !errors.Is(err, authn.ErrBusy) {
				t.Errorf("got %v, want ErrBusy", err)
			}
		})
	}
	waiting.Wait()
	<-source.users.slots[strangers]
	if as, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", nil); !as.Granted() || err != nil {
		t.Errorf("once there is a slot: %v, %v", as, err)
	}
}

func TestConsentIsAskedForACallAndNotForWhatIsKnownOrUnderWay(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	never := func() bool { return false }
	if _, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", never); !errors.Is(err, authn.ErrNotAsked) {
		t.Errorf("unknown, without consent: %v, want ErrNotAsked", err)
	}
	hang := make(chan struct{})
	s.set(func(s *stub) { s.hang, s.hangOn = hang, `"app"` })
	var asked sync.WaitGroup
	asked.Go(func() {
		if as, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", func() bool { return true }); !as.Granted() || err != nil {
			t.Errorf("with consent: %v, %v", as, err)
		}
	})
	waitFor(t, "call", func() bool { return s.count(`POST /api/v1/user/authz {"application":"app"`) > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := source.MayRead(ctx, authn.Principal{}, "app", never); !errors.Is(err, context.Canceled) {
		t.Errorf("under way: %v, want to wait for it", err)
	}
	s.set(func(s *stub) { s.hang = nil })
	close(hang)
	asked.Wait()
	if as, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", never); !as.Granted() || err != nil {
		t.Errorf("known: %v, %v", as, err)
	}
}

func TestAQuestionThatBreaksTheConnectionStopsNoOther(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	s.read("garbage", `null`, `[]`, `","`) // no JSON
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	s.set(func(s *stub) { s.poison = `"poison"` })
	for range doubts {
		for _, name := range []string{"poison", "garbage"} {
			if _, _, err := source.MayRead(t.Context(), authn.Principal{}, name, nil); err == nil || errors.Is(err, errRests) {
				t.Fatalf("%s: got %v", name, err)
			}
		}
	}
	if s.count(`POST /api/v1/user/authz {"application":"poison"`) == 0 {
		t.Fatal("no connection was broken")
	}
	if as, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", nil); !as.Granted() || err != nil {
		t.Errorf("the next question: %v, %v", as, err)
	}
}

func TestAQuestionThatMakesTheServiceFailStopsNoOther(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	s.set(func(s *stub) { s.fail = http.StatusInternalServerError })
	if _, _, err := source.MayRead(t.Context(), authn.Principal{}, "poison", nil); err == nil {
		t.Fatal("no failure")
	}
	if n := s.count(`POST /api/v1/user/authz {"application":"poison"`); n != attempts {
		t.Errorf("%d attempts, want %d", n, attempts)
	}
	s.set(func(s *stub) { s.fail = 0 })
	if as, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", nil); !as.Granted() || err != nil {
		t.Errorf("the next question: %v, %v", as, err)
	}
}

func TestATokenThatIsNotTakenAnyMoreIsReplaced(t *testing.T) {
	s := newStub(t)
	s.read("app", `null`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	s.set(func(s *stub) { s.token = "of another issuer" })
	if as, _, err := source.MayRead(t.Context(), authn.Principal{}, "app", nil); !as.Granted() || err != nil {
		t.Errorf("got %v, %v", as, err)
	}
}

func TestWithoutAskingOnlyWhatIsKnownCounts(t *testing.T) {
	s := newStub(t)
	s.key("alice", aliceKey, `{"Known":{"user_id":"alice","roles":[]}}`)
	source, _, _ := s.source(nil)
	if _, err := source.VerifyKey(t.Context(), "alice", aliceKey, func() bool { return false }); !errors.Is(err, authn.ErrNotAsked) {
		t.Errorf("unknown: got %v, want ErrNotAsked", err)
	}
	if _, err := source.VerifyKey(t.Context(), "alice", aliceKey, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := source.VerifyKey(t.Context(), "alice", aliceKey, func() bool { return false }); err != nil {
		t.Errorf("known: %v", err)
	}
}

func TestChangedTicksManyTimesInTheLifeOfAnAnswer(t *testing.T) {
	s := newStub(t)
	source, _, _ := s.source(func(c *config.Config) { c.Edge.AccessCache = time.Second })
	for range 3 {
		select {
		case <-source.Changed():
		case <-time.After(20 * time.Second):
			t.Fatal("no tick")
		}
	}
}

func TestOpenSocketsKeepTheirStaleTimeWhateverIsForgotten(t *testing.T) {
	s := newStub(t)
	s.read("app", `"alice"`, `[]`, "allow")
	source, _, _ := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	add := later(source)
	alice := authn.Principal{Kind: authn.Token, User: "alice"}
	as, known, err := source.MayRead(t.Context(), alice, "app", nil)
	if !as.Granted() || err != nil {
		t.Fatalf("before: %v, %v", as, err)
	}
	still := func() (bool, error) {
		t.Helper()
		as, asked, err := source.StillMayRead(t.Context(), alice, "app", known)
		if as.Granted() && err == nil && !asked.Equal(known) {
			t.Errorf("access that nobody confirmed is known %v later", asked.Sub(known))
		}
		return as == authz.Member, err
	}
	source.reads.kept.InvalidateAll()
	s.set(func(s *stub) { s.fail = http.StatusInternalServerError })
	if ok, err := still(); !ok || err != nil {
		t.Errorf("right after: %v, %v", ok, err)
	}
	const question = `POST /api/v1/user/authz {"application":"app"`
	if n := s.count(question); n != 1 {
		t.Errorf("%d calls for an answer that holds, want 1", n)
	}
	add(30*time.Second + 5*time.Minute - 10*time.Second)
	if ok, err := still(); !ok || err != nil {
		t.Errorf("within the stale time: %v, %v", ok, err)
	}
	if s.count(question) == 1 {
		t.Fatal("the service was not asked, so nothing failed")
	}
	add(11 * time.Second)
	if ok, err := still(); ok || err == nil {
		t.Errorf("after the stale time: %v, %v", ok, err)
	}
}

func TestDenialsPushOutNoOtherAnswers(t *testing.T) {
	a := newAnswers(t.Context(), time.Hour, time.Hour, func(yes bool) bool { return !yes })
	loads := 0
	get := func(question string, yes bool) {
		if _, _, err := a.get(t.Context(), question, strangers, nil, func(context.Context) (bool, error) {
			loads++
			return yes, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	const answers = 1000
	for n := range answers {
		get(fmt.Sprint("user-", n), true)
	}
	for n := range 3 * maxDenials {
		get(fmt.Sprint("made-up-", n), false)
	}
	a.denials.CleanUp()
	if n := a.denials.EstimatedSize(); n > maxDenials {
		t.Errorf("%d denials are kept, want %d at most", n, maxDenials)
	}
	loads = 0
	for n := range answers {
		get(fmt.Sprint("user-", n), true)
	}
	if loads != 0 {
		t.Errorf("%d of %d answers were asked for again", loads, answers)
	}
}

func TestAnswersToLongQuestionsHoldNoMemory(t *testing.T) {
	const questions, length, most = 4000, 20 << 10, 8 << 20
	a := newAnswers(t.Context(), time.Hour, time.Hour, func(yes bool) bool { return !yes })
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for n := range questions {
		question := fmt.Sprint(n, strings.Repeat("x", length))
		if _, _, err := a.get(t.Context(), question, strangers, nil, func(context.Context) (bool, error) {
			return n%2 == 0, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if held := heap() - before; held > most {
		t.Errorf("%d answers hold %d bytes, want %d at most", questions, held, most)
	}
	runtime.KeepAlive(a)
}
