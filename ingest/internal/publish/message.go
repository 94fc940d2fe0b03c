// Package publish brings messages into the JetStream streams of the shards: in order,
// each until it is stored, whatever happens to NATS in between.
//
// A message goes to the lane of its shard. A lane sends what waits in it as a fast batch,
// which the server stores in order or not at all beyond some point; after any failure it
// sends what was not acknowledged again, one message at a time, until it is past
// everything that may be stored already. A message is therefore never stored before an
// earlier one of its lane.
//
//	Publish, Flush ─► lane 0 ─┐                      ┌─► stream EVENTS_0
//	                  lane 1 ─┼─ one NATS connection ┼─► stream EVENTS_1
//	                  …       ┘                      └─► …
//	Owner.Settled ◄── lanes ◄── one inbox for all acknowledgements
package publish

import (
	"github.com/nats-io/nats.go"
)

// Message is one event on its way into its stream. From Publish until it is settled it
// belongs to the publisher.
type Message struct {
	// Shard chooses the lane: 0 up to the publisher's number of shards, less one.
	Shard int

	// Subject is one of the subjects of the shard's stream: that of Application.
	Subject string

	// Application is whose event it is. When it falls quiet, edges are told of its last
	// sequence, unless it is empty.
	Application string

	// ID is the Nats-Msg-Id, by which the stream recognises a repeat.
	ID string

	// Header holds further headers; Publish adds Nats-Msg-Id. It may be nil.
	Header nats.Header

	// Data is the body.
	Data []byte

	// Owner is told what became of the message. Messages of one owner are published
	// in the order in which they are handed over.
	Owner Owner

	// Index is the owner's own name for the message.
	Index uint64

	headerLen int // bytes of the header block as NATS counts it
}

// Owner hands messages over and learns, exactly once for each, what became of it. Owners
// are compared by identity: a partition that is assigned anew is a new owner.
type Owner interface {
	// Settled is called from the publisher's goroutines, with a lane's lock held: it
	// must not block and must not call the publisher.
	Settled(index uint64, o Outcome)
}

// Outcome is what became of a message.
type Outcome int

const (
	// Stored means that the stream holds the message, on a majority of its replicas.
	Stored Outcome = iota

	// Refused means that the stream can never take the message; it was logged and counted.
	Refused

	// Dropped means that the owner's messages were forgotten before this one was
	// acknowledged. It may be stored nevertheless.
	Dropped
)

// prepare completes the header and measures it.
func (m *Message) prepare() {
	if m.Header == nil {
		m.Header = make(nats.Header, 1)
	}
	m.Header[nats.MsgIdHdr] = []string{m.ID}
	m.headerLen = len("NATS/1.0\r\n") + len("\r\n")
	for k, vs := range m.Header {
		for _, v := range vs {
			m.headerLen += len(k) + len(": \r\n") + len(v)
		}
	}
}

// size is the number of bytes that NATS counts the message with.
func (m *Message) size() int { return len(m.Data) + m.headerLen }
