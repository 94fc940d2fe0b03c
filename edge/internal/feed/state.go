package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/shared/event"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

// streamState is what a stream's leader says about it and one application.
type streamState struct {
	leader
	shards    int
	firstTime time.Time // when first was stored
	lastTime  time.Time // when last was stored, which may be forgotten
	count     int64     // the application's events
	most      int64     // that the stream keeps of each application; not positive: any number
	former    stream.FormerLimit
	evicted   bool // the application's events may have been taken out because of its share
}

// keeps says whether the stream surely holds every event of the application behind
// sequence after: it forgets its own oldest events, or an application's.
func (s streamState) keeps(after uint64) bool {
	return s.first <= after+1 && s.keepsAll() && (s.keptAll() || after >= s.former.Sequence)
}

// keepsSince says the same of what was stored at that time or later.
func (s streamState) keepsSince(at time.Time) bool {
	return s.holdsSince(at) && s.keepsAll() && (s.keptAll() || at.After(s.former.Time))
}

// holdsSince says the same, but for limits of single applications.
func (s streamState) holdsSince(at time.Time) bool {
	switch {
	case s.first <= 1:
		return true
	case s.first > s.last: // it is empty
		return !s.lastTime.IsZero() && s.lastTime.Before(at)
	default:
		return !s.firstTime.After(at)
	}
}

// keepsAll says whether the application is below its limits: only who has reached them has
// lost events to them, since those that the stream itself forgets are the oldest of all.
func (s streamState) keepsAll() bool { return !s.evicted && (s.most <= 0 || s.count < s.most) }

// keptAll says the same of the smaller limit that the stream once had.
func (s streamState) keptAll() bool { return s.former.Events <= 0 || s.count < s.former.Events }

// state asks the leader of shard's stream about it, and with a name about an application.
// A leader that may have been replaced without knowing it is an error.
func (h *history) state(ctx context.Context, shard int, application string) (streamState, error) {
	asked := time.Now()
	if _, err, ok := h.leaders.recall(shard, asked); ok && err != nil {
		return streamState{}, err
	}
	s, err := h.info(ctx, shard, application)
	s.asked = asked
	if ctx.Err() == nil {
		h.leaders.note(shard, s.leader, err)
	}
	return s, err
}

// info does so without a look at what was said before.
func (h *history) info(ctx context.Context, shard int, application string) (streamState, error) {
	var info struct {
		Created time.Time   `json:"created"`
		Cluster clusterInfo `json:"cluster"`
		Config  struct {
			Metadata          map[string]string `json:"metadata"`
			Replicas          int               `json:"num_replicas"`
			MaxMsgsPerSubject int64             `json:"max_msgs_per_subject"`
		} `json:"config"`
		State struct {
			First     uint64           `json:"first_seq"`
			FirstTime time.Time        `json:"first_ts"`
			Last      uint64           `json:"last_seq"`
			LastTime  time.Time        `json:"last_ts"`
			Deleted   uint64           `json:"num_deleted"` // between the two
			Subjects  map[string]int64 `json:"subjects"`
		} `json:"state"`
		Error *apiError `json:"error"`
	}
	name := subject.Stream(shard)
	var query any
	if application != "" { // of all subjects it would cost the server hundreds of milliseconds
		query = map[string]any{"subjects_filter": subject.In(shard, application)}
	}
	if err := h.request(ctx, "$JS.API.STREAM.INFO."+name, query, &info); err != nil {
		return streamState{}, fmt.Errorf("ask for stream %s: %w", name, err)
	}
	if info.Error != nil {
		return streamState{}, fmt.Errorf("ask for stream %s: %w", name, info.Error)
	}
	shards, err := strconv.Atoi(info.Config.Metadata[subject.MetadataShards])
	if err != nil || shards < 1 {
		return streamState{}, fmt.Errorf("stream %s: metadata %s is %q, want a number", name,
			subject.MetadataShards, info.Config.Metadata[subject.MetadataShards])
	}
	if !info.Cluster.live(info.Config.Replicas) {
		return streamState{}, fmt.Errorf("ask for stream %s: %w", name, errNoMajority)
	}
	by := leader{
		log: event.LogOf(info.Created), first: info.State.First, last: info.State.Last, whole: info.State.Deleted == 0,
		name: info.Cluster.Leader, since: info.Cluster.Since,
	}
	return streamState{
		leader: by, shards: shards,
		firstTime: info.State.FirstTime, lastTime: info.State.LastTime,
		count: info.State.Subjects[subject.In(shard, application)], most: info.Config.MaxMsgsPerSubject,
		former:  stream.FormerLimitOf(info.Config.Metadata),
		evicted: stream.Evicted(info.Config.Metadata, application),
	}, nil
}

// oldest gives the sequence of application's oldest event, or errNone. The leader answers.
func (h *history) oldest(ctx context.Context, shard int, application string) (uint64, error) {
	m, _, err := h.ask(ctx, shard, map[string]any{"seq": 1, "next_by_subj": subject.In(shard, application)}, false)
	return m.sequence, err
}

// firstSince gives the sequence of application's first event that was stored at that time
// or later, or errNone. The leader answers.
func (h *history) firstSince(ctx context.Context, shard int, application string, at time.Time) (uint64, error) {
	m, _, err := h.ask(ctx, shard, map[string]any{"start_time": at.UTC(), "next_by_subj": subject.In(shard, application)}, false)
	return m.sequence, err
}

// apiError is what JetStream's API answers instead.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s (code %d, error %d)", e.Description, e.Code, e.ErrCode)
}

func (h *history) request(ctx context.Context, to string, query, answer any) error {
	var body []byte
	if query != nil {
		var err error
		if body, err = json.Marshal(query); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	h.requests.Inc()
	msg, err := h.nc.RequestWithContext(ctx, to, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(msg.Data, answer)
}

// parseMessage reads a republished message, or one that a direct get brought.
func parseMessage(msg *nats.Msg) (message, error) {
	seq, err := strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return message{}, fmt.Errorf("read Nats-Sequence: %w", err)
	}
	m := message{sequence: seq, json: msg.Data}
	// nats.go has them twice: as text, of which labels are parts, and in front of the data.
	m.headers = 2 * (msg.Size() - len(msg.Subject) - len(msg.Reply) - len(msg.Data))
	m.previous, _ = strconv.ParseUint(msg.Header.Get("Nats-Last-Sequence"), 10, 64)
	m.fault = m.readLabels(msg.Header)
	return m, nil
}
