package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Keys in a stream's metadata, which ingest writes before it takes the oldest events of an
// application out of its stream because the application holds its share. Neither the
// stream's first sequence nor the number of events says afterwards that they are gone, and
// JetStream moves consumers over them without a word.
const (
	metadataEvicted    = "canopy.evicted."    // with an application's hash: when it was noted
	metadataEvictedAny = "canopy.evicted_any" // more than can be noted: when it was last noted

	maxEvicted = 64
)

// Evicted says whether events of the application may have been taken out of the stream that
// has these metadata. It may be true of others as well.
func Evicted(metadata map[string]string, application string) bool {
	if _, any := metadata[metadataEvictedAny]; any {
		return true
	}
	_, noted := metadata[evictedKey(application)]
	return noted
}

// NoteEvicted gives c with the note that the application's events are taken out, and says
// whether it lacked that. Notes are kept for at least as long as the stream keeps events: a
// place before what is gone is then one that the stream as a whole has passed.
func NoteEvicted(c jetstream.StreamConfig, application string, now time.Time) (noted jetstream.StreamConfig, changed bool) {
	key := evictedKey(application)
	if isFresh(c, key, now) {
		return c, false
	}
	notes := 0
	c.Metadata = maps.Clone(c.Metadata)
	if c.Metadata == nil {
		c.Metadata = make(map[string]string, 1)
	}
	for k, text := range c.Metadata {
		if !strings.HasPrefix(k, metadataEvicted) && k != metadataEvictedAny || k == key {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || c.MaxAge > 0 && now.Sub(at) > 2*c.MaxAge+time.Minute {
			delete(c.Metadata, k)
			continue
		}
		if k != metadataEvictedAny {
			notes++
		}
	}
	if notes >= maxEvicted {
		key = metadataEvictedAny
		if isFresh(c, key, now) {
			return c, false
		}
	}
	c.Metadata[key] = now.UTC().Format(time.RFC3339)
	return c, true
}

// isFresh says whether what key notes is young enough to stay for as long as it has to.
func isFresh(c jetstream.StreamConfig, key string, now time.Time) bool {
	at, err := time.Parse(time.RFC3339, c.Metadata[key])
	return err == nil && (c.MaxAge <= 0 || now.Sub(at) < c.MaxAge/2)
}

func evictedKey(application string) string {
	sum := sha256.Sum256([]byte(application))
	return metadataEvicted + hex.EncodeToString(sum[:8])
}
