package feed

import "time"

// trim drops what is too old or too much and has the sweep look for sockets that fell off.
func (f *Feed) trim(now time.Time) {
	f.trimRing(f.ring, now)
}

// trimRing drops nothing for its age while the sweep is behind: sockets that were not visited yet
// are not slow, the edge is.
func (f *Feed) trimRing(r *ring, now time.Time) {
	then := now.Add(-f.hub.config.Buffers.FeedAge)
	if r.expires(then) && !f.calm() {
		then = time.Time{}
	}
	if r.trim(then, f.hub.config.Buffers.FeedBytes) {
		f.fell()
	}
}

// fell has every reader visited after chunks were dropped, also those that are stalled.
// Of the filtered ones only those of tracks that have lost events: there may be many.
func (f *Feed) fell() {
	tail, packedTail := f.ring.view().tail(), f.packed.ring.view().tail()
	f.whole.wake()
	f.packed.whole.wake()
	f.tracksMu.Lock()
	defer f.tracksMu.Unlock()
	for _, t := range f.tracks {
		if t.packed && t.forget(packedTail) || !t.packed && t.forget(tail) {
			t.wake()
		}
	}
}

// rested is called by the sweep when a bucket of this feed has nothing left to do.
func (f *Feed) rested() {
	select {
	case f.calmed <- struct{}{}:
	default:
	}
}

// calm says whether every socket that can take events has had them all.
func (f *Feed) calm() bool {
	if !f.whole.calm() || !f.packed.whole.calm() {
		return false
	}
	f.tracksMu.Lock()
	defer f.tracksMu.Unlock()
	for _, t := range f.tracks {
		if !t.calm() {
			return false
		}
	}
	return true
}
