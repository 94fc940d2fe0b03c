package group

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

// pingBytes is the payload of a Ping that asks for events: the member's tag and a counter.
const pingBytes = 16

// Socket is what a group needs of a session. Its methods are called by the hub's workers
// and must not block.
type Socket interface {
	// Send hands whole frames to the connection, which keeps what the kernel does not
	// take and copies it. With asks the last one is a Ping.
	Send(frames []byte, asks bool)

	// Owed is the number of bytes that the kernel has not taken yet.
	Owed() int64

	// Unanswering says that the client has not acknowledged anything for too long. What it
	// had goes to other members; it must be closed.
	Unanswering()

	// Detached says that the group will never write to the socket again. It is called
	// once, after Leave, in whichever goroutine then knows it.
	Detached()
}

// states of a member
const (
	joining = iota // its socket is not open yet
	early          // nor is this one's, which was closed already: a close frame can be written once it opens
	ready
	slow    // it owes an answer for too long, and is passed over until it gives one
	leaving // it gets nothing more, and may still acknowledge what it has
	left
)

// Member is one socket's place in a group. Its methods may be called from any goroutine
// that holds no lock of a group.
type Member struct {
	group  *Group
	socket Socket
	tag    uint64 // random, so that only a Pong to our own Ping acknowledges
	packs  bool   // its client takes compressed events; constant from Open on

	// guarded by Group.mu from here on
	gone       bool // Leave was called
	state      int
	next, prev *Member // in the ring of ready members
	busy       bool    // among those that the clock looks at
	dirty      bool    // among those that have something to be written

	flight queue[*delivery] // given and not acknowledged, oldest first
	bytes  int              // of these
	out    []*delivery      // the last ones of flight, not written yet

	outBytes int // of out

	pings    queue[ping] // not answered, oldest first
	counter  uint64      // of the latest Ping
	unasked  int         // events written since then
	askedFor time.Duration
	heard    time.Duration // when it acknowledged last
	stalled  time.Duration // since when the kernel takes no more for it; 0 if it does
	window   int           // events that it may have and not have acknowledged
	leaveBy  time.Duration
	askNow   bool // a Ping is to go out now

	trial    *delivery // the one event that it is kept for, or has and nothing else; nil mostly
	answered bool      // it has answered a Ping since it was kept for that
}

// ping is one that was sent.
type ping struct {
	counter uint64
	at      time.Duration
}

func newMember(g *Group, s Socket) *Member {
	var tag [8]byte
	_, _ = rand.Read(tag[:]) // never fails
	return &Member{group: g, socket: s, tag: binary.BigEndian.Uint64(tag[:]), window: firstWindow}
}

// OfMembers says whether the group is one of the application's members.
func (m *Member) OfMembers() bool { return !m.group.key.Public }

// Deflate has the member's events compressed. It is called before Open.
func (m *Member) Deflate() { m.packs = true }

// Open lets the group give events to the member: its socket can be written to.
func (m *Member) Open() {
	g := m.group
	g.mu.Lock()
	g.rotation.open(m)
	g.schedule()
}

// Pong takes the payload of a Pong. One that answers none of our Pings is ignored.
func (m *Member) Pong(payload []byte) {
	if len(payload) != pingBytes || binary.BigEndian.Uint64(payload) != m.tag {
		return
	}
	g := m.group
	g.mu.Lock()
	g.rotation.pong(m, binary.BigEndian.Uint64(payload[8:]), g.hub.now())
	g.schedule()
}

// Drained says that the kernel has taken everything. It may be called under a lock of the
// connection.
func (m *Member) Drained() {
	g := m.group
	g.mu.Lock()
	g.schedule()
}

// Leave ends the membership. One that is Dismissed has a moment to acknowledge what it was
// given; the rest goes to other members. Detached follows when nothing is written any
// more. It may be called more than once: the first call says why, and any other way than
// Dismissed ends the moment.
func (m *Member) Leave(how Departure) {
	g := m.group
	g.mu.Lock()
	now := g.hub.now()
	g.rotation.leave(m, how, now)
	if !m.gone {
		m.gone = true
		g.sockets--
		if g.idle = now; g.sockets == 0 {
			g.left = now
		}
	}
	g.schedule()
}
