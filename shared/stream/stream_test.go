package stream

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/subject"
)

func TestConfigKeepsWhatIsNotForBothTiersToSay(t *testing.T) {
	has := jetstream.StreamConfig{
		Name: "x", Replicas: 3, MaxAge: time.Hour, Discard: jetstream.DiscardNew,
		Metadata: map[string]string{"_nats.ver": "2", subject.MetadataShards: "1"},
	}
	c := Config(has, 2, 4)
	if c.Replicas != 3 || c.MaxAge != time.Hour || c.Metadata["_nats.ver"] != "2" {
		t.Errorf("changed: %+v", c)
	}
	if c.Name != "EVENTS_2" || c.Discard != jetstream.DiscardOld || c.RePublish.Destination != subject.Republish(2) ||
		c.Metadata[subject.MetadataShards] != "4" || c.Metadata[subject.MetadataShard] != "2" {
		t.Errorf("not changed: %+v", c)
	}
	if has.Metadata[subject.MetadataShards] != "1" {
		t.Error("the old metadata was written to")
	}
}
