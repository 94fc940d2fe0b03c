package session

import "time"

// leap is how much the wall clock may move by itself, as when it is slewed, between looks.
const leap = 500 * time.Millisecond

// clockWatch tells when the wall clock was set. Times of expiry are the wall clock's, and
// the wheel goes by the steady one: after a leap its dates may be wrong.
type clockWatch struct {
	started time.Time     // with its steady reading
	ahead   time.Duration // of the wall clock, when it was last looked at
}

// set says whether the wall clock has leapt since the last look. wall is its time now, and
// steady the time since started.
func (w *clockWatch) set(wall time.Time, steady time.Duration) bool {
	ahead := wall.Round(0).Sub(w.started.Round(0)) - steady
	moved := (ahead - w.ahead).Abs() > leap
	w.ahead = ahead
	return moved
}
