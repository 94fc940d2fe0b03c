// Package stream is what a shard's JetStream stream must be for the tiers to understand each
// other. How long it keeps how much is for ingest to say.
package stream

import (
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/subject"
)

// Config is has, which may be empty, with everything that both tiers rely on: name and
// subjects, what it republishes and to where, direct reads, fast batches, and its place
// among shards in the metadata. Replicas and limits stay as they are.
func Config(has jetstream.StreamConfig, shard, shards int) jetstream.StreamConfig {
	c := has
	c.Name = subject.Stream(shard)
	c.Subjects = []string{subject.StreamSubjects(shard)}
	c.Storage = jetstream.FileStorage
	c.Retention = jetstream.LimitsPolicy
	c.Discard = jetstream.DiscardOld
	c.AllowDirect = true
	c.AllowBatchPublish = true
	c.RePublish = &jetstream.RePublish{
		Source:      subject.StreamSubjects(shard),
		Destination: subject.Republish(shard),
	}
	c.Metadata = make(map[string]string, len(has.Metadata)+2)
	for key, value := range has.Metadata {
		c.Metadata[key] = value // the server keeps notes of its own there
	}
	c.Metadata[subject.MetadataShards] = strconv.Itoa(shards)
	c.Metadata[subject.MetadataShard] = strconv.Itoa(shard)
	return c
}
