package group

import (
	"encoding/json"
	"net/http"
	"sort"
	"time"
)

// maxShown bounds the groups that one answer lists.
const maxShown = 1000

// Status is a group on this edge at one moment.
type Status struct {
	Application string  `json:"application"`
	Channel     *string `json:"channel,omitempty"`
	Group       string  `json:"group"`
	Public      bool    `json:"public"` // of those who read the application only because it is public
	Stream      string  `json:"stream"`
	Consumer    string  `json:"consumer"` // as the nats command line knows it
	Members     int     `json:"members"`
	Slow        int     `json:"slow"`
	InFlight    int     `json:"in_flight"`
	Waiting     int     `json:"waiting"`
	Given       uint64  `json:"given"`
	Repeated    uint64  `json:"repeated"`    // given to a second member
	Redelivered uint64  `json:"redelivered"` // sent again by JetStream while they were here
	Suspect     int     `json:"suspect"`     // of those that wait, to be tried alone
	Expired     uint64  `json:"expired"`     // waited too long and were left to JetStream
	AckFloor    uint64  `json:"ack_floor"`   // when the consumer was looked at last
	Oldest      float64 `json:"oldest_unacknowledged_seconds"`

	oldest time.Duration
}

func (g *Group) status(now time.Duration) Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &g.rotation
	s := Status{
		Application: g.key.Application, Group: g.key.Name, Public: g.key.Public,
		Stream: g.subject.stream, Consumer: g.subject.consumer,
		Members: r.members, Waiting: len(r.back) + r.fresh.len() + len(r.suspects), Suspect: len(r.suspects),
		Given: r.stats.given, Repeated: r.stats.returned, Redelivered: r.stats.repeated, Expired: r.stats.expired,
		AckFloor: g.seen.floor,
	}
	if g.key.ByChannel {
		s.Channel = &g.key.Channel
	}
	for _, m := range r.busy {
		s.InFlight += m.flight.len()
		if m.state == slow {
			s.Slow++
		}
	}
	for _, d := range r.held {
		s.oldest = max(s.oldest, now-d.came)
	}
	s.Oldest = s.oldest.Seconds()
	return s
}

// ServeHTTP lists the groups on this edge: those of ?application= and ?group= if these are
// given, sorted, at most a thousand.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	list := []Status{}
	now := h.now()
	for _, g := range h.all() {
		if q.Has("application") && g.key.Application != q.Get("application") || q.Has("group") && g.key.Name != q.Get("group") {
			continue
		}
		list = append(list, g.status(now))
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Consumer < list[j].Consumer })
	answer := struct {
		Total  int      `json:"total"`
		Groups []Status `json:"groups"`
	}{len(list), list[:min(len(list), maxShown)]}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}
