package authz

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"canopy/edge/internal/authn"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

var (
	example = `applications:
  open:
    public: true
  closed:
    members:
      alice: [read, write]
      writer: [write]
      role:operators: [read]
  a/b c: {members: {alice: [read]}}
api_keys:
  - user: alice
    sha256: ` + hashed("alice's key") + `
  - user: bob
    sha256: ` + hashed("bob's key") + `
    expires: 2027-06-30T00:00:00Z
`
	// before is when bob's key still counts.
	before = time.Date(2027, 6, 29, 23, 59, 59, 0, time.UTC)
)

// write puts content where the file is.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open opens a file of that content, and what it logs. Its clock is the returned one.
func open(t testing.TB, content string) (*File, *observer.ObservedLogs, *time.Time) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "applications.yaml")
	write(t, path, content)
	return openPath(t, path)
}

func openPath(t testing.TB, path string) (*File, *observer.ObservedLogs, *time.Time) {
	t.Helper()
	core, logs := observer.New(zapcore.InfoLevel)
	f, err := OpenFile(path, zap.New(core), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	now := before
	f.now, f.checked = func() time.Time { return now }, now
	return f, logs, &now
}

// counted reads a counter.
func counted(t testing.TB, v *prometheus.CounterVec, outcome string) float64 {
	t.Helper()
	var m dto.Metric
	if err := v.WithLabelValues(outcome).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// may asks without the error that is always nil.
func may(t testing.TB, f *File, p authn.Principal, application string) bool {
	t.Helper()
	return access(t, f, p, application).Granted()
}

// access is may as what.
func access(t testing.TB, f *File, p authn.Principal, application string) Access {
	t.Helper()
	as, _, err := f.MayRead(t.Context(), p, application, nil)
	if err != nil {
		t.Fatal(err)
	}
	return as
}

// signIn returns the principal of a key that counts.
func signIn(t testing.TB, f *File, user, key string) authn.Principal {
	t.Helper()
	p, err := f.VerifyKey(t.Context(), user, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func token(user string, roles ...string) authn.Principal {
	return authn.Principal{Kind: authn.Token, User: user, Roles: roles}
}

func TestReadersAreTheMembersAndForPublicOnesEverybody(t *testing.T) {
	f, _, _ := open(t, example)
	alice, bob := signIn(t, f, "alice", "alice's key"), signIn(t, f, "bob", "bob's key")
	for _, c := range []struct {
		p           authn.Principal
		application string
		want        bool
	}{
		{authn.Principal{}, "open", true},
		{token("anybody"), "open", true},
		{bob, "open", true},
		{authn.Principal{}, "closed", false},
		{authn.Principal{}, "unknown", false},
		{authn.Principal{}, "", false},
		{authn.Principal{User: "alice", Roles: []string{"operators"}}, "closed", false},
		{token("alice"), "closed", true},
		{alice, "closed", true},
		{alice, "a/b c", true},
		{alice, "a", false},
		{alice, "Closed", false},
		{bob, "closed", false},
		{token("writer"), "closed", false},
		{token("carol", "operators"), "closed", true},
		{token("carol", "role:operators", "others"), "closed", false},
		{token("role:operators"), "closed", false},
		{token("operators"), "closed", false},
		{token("alice"), "unknown", false},
	} {
		if got := may(t, f, c.p, c.application); got != c.want {
			t.Errorf("%v with %q reads %q: %v", c.p, c.p.Roles, c.application, got)
		}
	}
	if pass, fail := counted(t, f.authorizations, "pass"), counted(t, f.authorizations, "fail"); pass != 7 || fail != 12 {
		t.Errorf("metric counts %v pass and %v fail", pass, fail)
	}
}

func TestMembersOfAPublicApplicationAreToldFromEverybodyElse(t *testing.T) {
	f, _, _ := open(t, strings.Replace(example, "public: true", `public: true
    members: {alice: [read, write], writer: [write], "role:operators": [read], "1/carol": [read]}`, 1))
	alice, bob := signIn(t, f, "alice", "alice's key"), signIn(t, f, "bob", "bob's key")
	for _, c := range []struct {
		p    authn.Principal
		want Access
	}{
		{alice, Member},
		{token("alice"), Member},
		{token("carol", "operators"), Member},
		{token("1/carol"), Member},
		{token("carol"), Public},
		{token("writer"), Public},
		{token("role:operators"), Public},
		{bob, Public},
		{token("anybody"), Public},
		{authn.Principal{}, Public},
		{authn.Principal{User: "alice", Roles: []string{"operators"}}, Public},
		{authn.Principal{Kind: authn.Key, User: "alice"}, None}, // no such key
	} {
		if got := access(t, f, c.p, "open"); got != c.want {
			t.Errorf("%v with %q reads it as %v, want %v", c.p, c.p.Roles, got, c.want)
		}
	}
}

func TestKeyCountsOnlyWithItsOwnUserAndUntilItExpires(t *testing.T) {
	f, _, now := open(t, example)
	bob := signIn(t, f, "bob", "bob's key")
	if bob.Kind != authn.Key || bob.User != "bob" || !bob.Expires.IsZero() {
		t.Errorf("bob signs in as %v until %v, want until the file says so", bob, bob.Expires)
	}
	for _, c := range [][2]string{
		{"alice", "bob's key"}, {"bob", "alice's key"}, {"alice", ""}, {"", ""}, {"", "alice's key"},
		{"", "nobody's key"}, {"Alice", "alice's key"}, {"alice", hashed("alice's key")},
	} {
		if p, err := f.VerifyKey(t.Context(), c[0], c[1], nil); !errors.Is(err, authn.ErrForbidden) || p.Kind != authn.Anonymous {
			t.Errorf("%q: got %v, %v", c, p, err)
		} else if c[1] != "" && strings.Contains(err.Error(), c[1]) {
			t.Errorf("error repeats the key: %v", err)
		}
	}
	*now = before.Add(time.Second)
	if _, err := f.VerifyKey(t.Context(), "bob", "bob's key", nil); !errors.Is(err, authn.ErrForbidden) {
		t.Errorf("expired key: %v", err)
	}
	if may(t, f, bob, "open") {
		t.Error("a session with an expired key still reads")
	}
}

func TestExpiryOfAKeyIsAnnounced(t *testing.T) {
	f, _, now := open(t, example)
	changed := f.Changed()
	f.poll()
	if isClosed(changed) {
		t.Fatal("announced without a change")
	}
	*now = before.Add(time.Second)
	f.poll()
	if !isClosed(changed) {
		t.Fatal("expiry was not announced")
	}
	changed = f.Changed()
	f.poll()
	if isClosed(changed) {
		t.Error("expiry was announced twice")
	}
}

func TestTheTimeOfExpiryThatStandsInTheFileNowCounts(t *testing.T) {
	f, _, now := open(t, example)
	bob := signIn(t, f, "bob", "bob's key")
	moveTo := func(expires string) {
		write(t, f.path, strings.Replace(example, "2027-06-30T00:00:00Z", expires, 1))
		f.poll()
		f.poll()
	}
	moveTo("2027-06-30T00:00:05Z")
	*now = before.Add(2 * time.Second)
	f.poll()
	if !may(t, f, bob, "open") {
		t.Fatal("a key ends when it was to end before the time was moved later")
	}
	moveTo("2027-06-30T00:00:03Z")
	changed := f.Changed()
	*now = before.Add(4 * time.Second)
	f.poll()
	if !isClosed(changed) || may(t, f, bob, "open") {
		t.Errorf("moved earlier: announced %v, reads %v", isClosed(changed), may(t, f, bob, "open"))
	}
}

func TestNewVersionCountsOnceItStandsStill(t *testing.T) {
	f, _, _ := open(t, example)
	alice, bob := signIn(t, f, "alice", "alice's key"), signIn(t, f, "bob", "bob's key")
	changed := f.Changed()
	write(t, f.path, "applications: {closed: ")
	f.poll()
	next := strings.Replace(example, "user: bob", "user: robert", 1)
	next = strings.Replace(next, "      alice: [read, write]\n", "", 1)
	next = strings.Replace(next, "  a/b c: {members: {alice: [read]}}\n", "", 1)
	write(t, f.path, next)
	f.poll()
	if isClosed(changed) || !may(t, f, alice, "closed") {
		t.Fatal("a version counts that was seen once only")
	}
	f.poll()
	if !isClosed(changed) {
		t.Error("the change was not announced")
	}
	if may(t, f, alice, "closed") {
		t.Error("a removed member reads")
	}
	if may(t, f, alice, "a/b c") {
		t.Error("a removed application is read")
	}
	if !may(t, f, alice, "open") {
		t.Error("alice, whose key is still there, does not read what is public")
	}
	if may(t, f, bob, "open") {
		t.Error("a session whose key has another user now reads")
	}
	if got := counted(t, f.reloads, "loaded"); got != 1 {
		t.Errorf("metric counts %v loaded", got)
	}
}

func TestBrokenVersionKeepsTheLastGoodOneAndIsReportedOnce(t *testing.T) {
	f, logs, _ := open(t, example)
	changed := f.Changed()
	for _, broken := range []string{"applications: {a: {publik: true}}\n", ""} {
		logs.TakeAll()
		write(t, f.path, broken)
		for range 5 {
			f.poll()
		}
		entries := logs.TakeAll()
		if len(entries) != 1 || entries[0].Level != zapcore.ErrorLevel {
			t.Fatalf("%q: logged %v, want one error", broken, entries)
		}
	}
	if isClosed(changed) || !may(t, f, token("alice"), "closed") {
		t.Error("the last good version is not in force")
	}
	if got := counted(t, f.reloads, "refused"); got != 2 {
		t.Errorf("metric counts %v refused", got)
	}
	write(t, f.path, example)
	f.poll()
	f.poll()
	if got := counted(t, f.reloads, "loaded"); got != 1 {
		t.Errorf("the repaired file was loaded %v times", got)
	}
}

func TestMissingFileKeepsTheLastGoodVersionAndIsReportedOnce(t *testing.T) {
	f, logs, _ := open(t, example)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.poll()
	}
	if n := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 1 {
		t.Errorf("%d errors logged", n)
	}
	if !may(t, f, token("alice"), "closed") {
		t.Error("the last good version is not in force")
	}
	write(t, f.path, "applications: {}\n")
	f.poll()
	f.poll()
	if may(t, f, token("alice"), "closed") {
		t.Error("the file that came back does not count")
	}
}

func TestSwappedLinkOfAConfigMapIsNoticed(t *testing.T) {
	dir := t.TempDir()
	// Kubernetes: applications.yaml → ..data/applications.yaml, ..data → ..2027_01
	for name, content := range map[string]string{"..2027_01": example, "..2027_02": "applications: {}\n"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name, "applications.yaml")
		write(t, path, content)
		// Long unchanged, and both equally old: only the link is new.
		if err := os.Chtimes(path, before.Add(-time.Hour), before.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, at string) {
		t.Helper()
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	link("..2027_01", filepath.Join(dir, "..data"))
	link(filepath.Join("..data", "applications.yaml"), filepath.Join(dir, "applications.yaml"))
	f, _, _ := openPath(t, filepath.Join(dir, "applications.yaml"))
	f.poll()
	if f.seen == nil {
		t.Fatal("the old version is not taken for known, so that the test proves nothing")
	}
	changed := f.Changed()
	link("..2027_02", filepath.Join(dir, "..data_tmp"))
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	f.poll()
	f.poll()
	if !isClosed(changed) || may(t, f, token("alice"), "closed") {
		t.Error("the new version does not count")
	}
}

func TestChangeOfSameSizeWithinTheClocksResolutionIsNoticed(t *testing.T) {
	f, _, now := open(t, "applications: {a: {}}\n")
	modified := *now
	if err := os.Chtimes(f.path, modified, modified); err != nil {
		t.Fatal(err)
	}
	f.poll()
	write(t, f.path, "applications: {b: {}}\n")
	if err := os.Chtimes(f.path, modified, modified); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		*now = now.Add(time.Second)
		f.poll()
	}
	if _, ok := f.current.Load().applications["b"]; !ok {
		t.Error("the second version was not read")
	}
}

func TestUnchangedFileIsNotReadAgain(t *testing.T) {
	f, _, now := open(t, example)
	if err := os.Chtimes(f.path, before, before); err != nil {
		t.Fatal(err)
	}
	f.poll()
	*now = before.Add(settled + time.Second)
	if content, _, err := f.read(); content != nil || err != nil {
		t.Errorf("read %d bytes, %v", len(content), err)
	}
}

func TestRunPutsANewVersionInForceWithinASecond(t *testing.T) {
	path := filepath.Join(t.TempDir(), "applications.yaml")
	write(t, path, example)
	synctest.Test(t, func(t *testing.T) {
		f, err := OpenFile(path, zap.NewNop(), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		changed, start := f.Changed(), time.Now()
		write(t, path, "applications: {}\n")
		<-changed
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
		if may(t, f, token("alice"), "closed") {
			t.Error("announced before it counts")
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func TestFirstVersionMustBeGood(t *testing.T) {
	dir := t.TempDir()
	wrong := filepath.Join(dir, "wrong.yaml")
	write(t, wrong, "applications:\n  a: {publik: true}\n")
	huge := filepath.Join(dir, "huge.yaml")
	write(t, huge, "")
	if err := os.Truncate(huge, fileBytes+1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		wrong:                             "line 2",
		huge:                              "16 MiB",
		filepath.Join(dir, "nothing.yml"): "no such file",
		dir:                               "directory",
	} {
		_, err := OpenFile(path, zap.NewNop(), prometheus.NewRegistry())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
