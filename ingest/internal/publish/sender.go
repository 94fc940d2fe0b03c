package publish

import (
	"fmt"

	"github.com/nats-io/nats.go"
)

// sender puts one lane's messages on the wire. It is for one goroutine.
type sender struct {
	nc     *nats.Conn
	prefix string // of every attempt's reply subject

	id    string // of the attempt that reply is for
	reply string

	subject string   // of the last message, for pings and ends
	msg     nats.Msg // reused: nats.go keeps nothing of it
}

// neverError is returned for a message that NATS cannot carry.
type neverError struct{ reason string }

func (e *neverError) Error() string { return "message can never be sent: " + e.reason }

// send sends t. After an error nothing more of t is sent.
func (s *sender) send(t todo, maxPayload int64) error {
	if t.id != s.id {
		s.id, s.reply = t.id, s.prefix+t.id
	}
	for i, m := range t.messages {
		if reason, no := refusedHere(m, maxPayload); no {
			return &neverError{reason}
		}
		reply := s.reply
		if !t.alone {
			reply = replyTo(s.reply, t.seq+uint64(i), operation(t, i))
		}
		if err := s.publish(m, reply); err != nil {
			return err
		}
	}
	switch {
	case t.ping:
		return s.control(replyTo(s.reply, t.seq, opPing))
	case t.end && len(t.messages) == 0:
		return s.control(replyTo(s.reply, t.seq, opEnd))
	}
	return nil
}

func operation(t todo, i int) int {
	switch {
	case t.end && i == len(t.messages)-1:
		return opCommit
	case t.seq+uint64(i) == 1:
		return opStart
	}
	return opAppend
}

func (s *sender) publish(m *Message, reply string) error {
	s.subject = m.Subject
	s.msg = nats.Msg{Subject: m.Subject, Reply: reply, Header: m.Header, Data: m.Data}
	if err := s.nc.PublishMsg(&s.msg); err != nil {
		return fmt.Errorf("publish %s: %w", m.Subject, err)
	}
	return nil
}

func (s *sender) control(reply string) error {
	if err := s.nc.PublishRequest(s.subject, reply, nil); err != nil {
		return fmt.Errorf("publish %s: %w", s.subject, err)
	}
	return nil
}
