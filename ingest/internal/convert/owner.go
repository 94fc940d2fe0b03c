package convert

import (
	"bytes"
	"strings"

	"canopy/shared/topic"
)

// owner is the application that an event belongs to: ready as a string, or as bytes of the
// record that are to be copied.
type owner struct {
	application string
	copied      []byte
	misnamed    bool // the event names another one
}

// hashedTopic is a topic of the hashed form and the application that it was found to be of.
type hashedTopic struct{ topic, application string }

// ownerOf finds out whose event e is: its topic's, where the cloud's naming gives the topic
// to an application; else that of the event's extension; else the default.
func (c *Converter) ownerOf(e *envelope, r *Record) (owner, error) {
	own, _ := e.extension("application")
	if application, ok := topic.Application(r.Topic); ok {
		return owner{application: application, misnamed: len(own) > 0 && string(own) != application}, nil
	}
	if topic.Hashed(r.Topic) {
		return c.ownerOfHashed(r.Topic, own)
	}
	o := owner{copied: own}
	if len(own) == 0 {
		o = owner{application: c.defaultApplication}
	}
	switch {
	case len(own) == 0 && c.defaultApplication == "":
		return owner{}, errNoApplication
	case e.structured && contradicts(r.Headers, &o):
		return owner{}, errContradiction
	}
	return o, nil
}

// ownerOfHashed is the application own, if topicName is its topic.
func (c *Converter) ownerOfHashed(topicName string, own []byte) (owner, error) {
	if last := c.lastHashed.Load(); last != nil && last.topic == topicName && last.application == string(own) {
		return owner{application: last.application}, nil
	}
	application := string(own)
	if application == "" || topic.Of(application) != topicName {
		return owner{}, errOtherApplication
	}
	c.lastHashed.Store(&hashedTopic{topicName, application})
	return owner{application: application}, nil
}

// contradicts says whether a header ce_application names another application than o. An
// empty one names none.
func contradicts(headers []Header, o *owner) bool {
	for i := range headers {
		h := &headers[i]
		if len(h.Value) > 0 && strings.EqualFold(h.Key, headerPrefix+"application") && !o.is(h.Value) {
			return true
		}
	}
	return false
}

func (o *owner) is(name []byte) bool {
	if len(o.copied) > 0 {
		return bytes.Equal(o.copied, name)
	}
	return o.application == string(name)
}
