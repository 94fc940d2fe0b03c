// Package authz answers whether a principal may read an application. Its source is the
// applications file, which an operator may change while the edge runs.
package authz

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"canopy/edge/internal/authn"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// pollInterval is how often the file is looked at. A new version counts when two looks
	// in a row found it, after 1 s at most.
	pollInterval = 500 * time.Millisecond
	// fileBytes bounds the file. A ConfigMap holds 1 MiB.
	fileBytes = 16 << 20
	// settled is how old a file must be before its time and size vouch for its content: a
	// second change within the resolution of a file system's clock leaves both as they are.
	settled = 3 * time.Second
)

// File is the applications file: who may read what, and which API keys there are.
//
// Any goroutine may ask; Run alone reads the file again. Answers come from memory, from
// the last version that was good.
type File struct {
	path           string
	log            *zap.Logger
	reloads        *prometheus.CounterVec
	authorizations *prometheus.CounterVec
	now            func() time.Time

	current atomic.Pointer[snapshot]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when answers may have changed

	// What follows belongs to Run.

	handled   [sha256.Size]byte // hash of the content that was judged last
	candidate [sha256.Size]byte // hash of the content that the last look found, if it is another
	seen      os.FileInfo       // of the last look, nil if its content must not be taken for known
	trouble   string            // why the last look failed, "" if it did not
	checked   time.Time         // up to when expired keys were announced
}

// OpenFile reads the applications file at path. The error lists everything that is wrong
// with it.
func OpenFile(path string, log *zap.Logger, reg prometheus.Registerer) (*File, error) {
	f := &File{
		path: path,
		log:  log.With(zap.String("file", path)),
		now:  time.Now,
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "canopy_edge_applications_file_reload",
			Help: "New versions of the applications file: loaded, refused, or unreadable.",
		}, []string{"outcome"}),
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drogue_client_user_authorization",
			Help: "Questions whether somebody may read an application: pass or fail.",
		}, []string{"outcome"}),
		changed: make(chan struct{}),
	}
	content, _, err := f.read()
	if err != nil {
		return nil, fmt.Errorf("read applications file: %w", err)
	}
	first, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("read applications file %s: %w", path, err)
	}
	for _, c := range []prometheus.Collector{f.reloads, f.authorizations} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of the applications file: %w", err)
		}
	}
	f.handled = sha256.Sum256(content)
	f.checked = f.now()
	f.current.Store(first)
	return f, nil
}

// MayRead reports as what p may read an application: as a member with the permission read,
// be it by user or by role, and everybody else a public one. The permission write does not
// include read. A principal whose API key was removed or has expired may read nothing, not
// even what is public: its socket was opened with a key, and ends with it.
//
// The error is always nil, and nobody's consent is needed; the signature leaves room for
// sources that have to ask. The time is the present.
func (f *File) MayRead(_ context.Context, p authn.Principal, application string, _ func() bool) (Access, time.Time, error) {
	now := f.now()
	as := f.current.Load().access(p, application, now)
	outcome := "fail"
	if as.Granted() {
		outcome = "pass"
	}
	f.authorizations.WithLabelValues(outcome).Inc()
	return as, now, nil
}

// StillMayRead is MayRead for open sockets. What was known before does not matter.
func (f *File) StillMayRead(ctx context.Context, p authn.Principal, application string, _ time.Time) (Access, time.Time, error) {
	return f.MayRead(ctx, p, application, nil)
}

func (s *snapshot) access(p authn.Principal, application string, now time.Time) Access {
	if p.Kind == authn.Key {
		key, ok := s.keys[p.KeyID]
		if !ok || key.user != p.User || !key.valid(now) {
			return None
		}
	}
	switch g := s.applications[application]; {
	case p.Kind != authn.Anonymous && g.names(p):
		return Member
	case g.public:
		return Public
	default:
		return None
	}
}

// names reports whether p, who has signed in, is among the members that may read.
func (g grants) names(p authn.Principal) bool {
	if _, ok := g.users[p.User]; ok {
		return true
	}
	for _, role := range p.Roles {
		if _, ok := g.roles[role]; ok {
			return true
		}
	}
	return false
}

// VerifyKey returns the principal of an API key, or an error that wraps
// authn.ErrForbidden: the key is unknown, another user's, or has expired. It is found by
// its hash, so that the time that takes tells nothing about the keys there are. It never
// has to ask anybody.
func (f *File) VerifyKey(_ context.Context, user, key string, _ func() bool) (authn.Principal, error) {
	id := sha256.Sum256([]byte(key))
	stored, ok := f.current.Load().keys[id]
	// Hashes have one length, which ConstantTimeCompare needs to be of constant time.
	have, want := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(stored.user))
	if same := subtle.ConstantTimeCompare(have[:], want[:]) == 1; !ok || !same {
		return authn.Principal{}, fmt.Errorf("%w: unknown key or user", authn.ErrForbidden)
	}
	if !stored.valid(f.now()) {
		return authn.Principal{}, fmt.Errorf("%w: expired key", authn.ErrForbidden)
	}
	// The name as it stands in the file: the client's own would keep its whole request. When
	// the key expires is the file's to say, also while a socket is open: see poll.
	return authn.Principal{Kind: authn.Key, User: stored.user, KeyID: id}, nil
}

// Changed returns a channel that is closed when answers may have changed since the call:
// a new version of the file counts, or a key has expired. Take the channel first, then
// ask about all open sockets, then wait for it, and nothing is missed:
//
//	for {
//		changed := file.Changed()
//		askAgain()
//		<-changed
//	}
func (f *File) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// Run looks at the file twice a second until ctx ends, then returns nil. A version that is
// wrong or cannot be read is logged once, and the last good one stays in force. Looking
// beats being notified: a mounted ConfigMap changes by swapping a link in a directory
// above, and a network file system does not notify.
func (f *File) Run(ctx context.Context) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			f.poll()
		}
	}
}

// poll looks at the file and at the clock once.
func (f *File) poll() {
	changed := f.reload()
	now := f.now()
	for _, key := range f.current.Load().keys {
		if key.valid(f.checked) && !key.valid(now) {
			changed = true
		}
	}
	f.checked = now
	if !changed {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.changed)
	f.changed = make(chan struct{})
}

// reload puts a new version of the file in force and reports whether there was one.
func (f *File) reload() bool {
	content, info, err := f.read()
	if err != nil {
		f.seen = nil
		if f.trouble != err.Error() {
			f.trouble = err.Error()
			f.reloads.WithLabelValues("unreadable").Inc()
			f.log.Error("the applications file cannot be read, its last version stays in force", zap.Error(err))
		}
		return false
	}
	if f.trouble != "" {
		f.trouble = ""
		f.log.Info("the applications file can be read again")
	}
	if info == nil {
		return false
	}
	sum := sha256.Sum256(content)
	if sum == f.handled {
		f.candidate, f.seen = sum, info
		return false
	}
	// An editor may be in the middle of writing: half a file would lock users out.
	if sum != f.candidate {
		f.candidate, f.seen = sum, nil
		return false
	}
	f.handled, f.seen = sum, info
	next, err := parse(content)
	if err != nil {
		f.reloads.WithLabelValues("refused").Inc()
		f.log.Error("the new applications file is wrong, the last good one stays in force", zap.Error(err))
		return false
	}
	f.current.Store(next)
	f.reloads.WithLabelValues("loaded").Inc()
	f.log.Info("the applications file was loaded", zap.Int("applications", len(next.applications)), zap.Int("api keys", len(next.keys)))
	return true
}

// read returns the content of the file and what the file system says about it. Both are
// nil if that is the same as at the last look, so that the content must be, too.
func (f *File) read() (content []byte, info os.FileInfo, err error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = file.Close() }()
	if info, err = file.Stat(); err != nil {
		return nil, nil, err
	}
	if f.seen != nil && os.SameFile(f.seen, info) && f.seen.Size() == info.Size() &&
		f.seen.ModTime().Equal(info.ModTime()) && f.now().Sub(info.ModTime()) > settled {
		return nil, nil, nil
	}
	if content, err = io.ReadAll(io.LimitReader(file, fileBytes+1)); err != nil {
		return nil, nil, err
	}
	if len(content) > fileBytes {
		return nil, nil, fmt.Errorf("read %s: longer than 16 MiB", f.path)
	}
	return content, info, nil
}
