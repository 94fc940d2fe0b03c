package group

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"canopy/shared/event"
	"canopy/shared/subject"
)

// MaxName is the length in bytes of the longest group_id.
const MaxName = 128

// Key says which group: no two that differ in anything ever share an event.
type Key struct {
	Application string
	Channel     string // the events' subject attribute, if ByChannel
	ByChannel   bool
	Public      bool // of those who read the application only because it is public; its members' are others
	Name        string
}

// wants says whether an event with this header is for the group. Others are acknowledged
// without being sent to anybody.
func (k Key) wants(header nats.Header) bool {
	if !k.ByChannel {
		return true
	}
	values := header[event.HeaderChannel]
	return len(values) > 0 && values[0] == event.EscapeHeader(k.Channel)
}

const (
	// ofApplication is the number of hexadecimal digits that all consumers of one
	// application begin with.
	ofApplication = 16
	ofKey         = 32
	readable      = 48 // bytes of each name that a consumer's name shows
)

// Consumer is the name of the group's consumer in its stream:
// "<application hash>-<key hash>-<s or a>-<application>-<group>", where the last two are
// encoded as in subjects and cut, for people to read. The hashes are of SHA-256. The letter
// says whose the group is: s stands for the application's members, who have signed in, and a
// for anybody. What JetStream does not allow to be changed must be part of the key.
func (k Key) Consumer() string {
	return prefix(k.Application) + "-" + k.hash() + "-" + k.kind() + "-" + short(k.Application) + "-" + short(k.Name)
}

const (
	kindMembers = "s"
	kindPublic  = "a"

	kindAt = ofApplication + 1 + ofKey + 1 // where a consumer's name says it
)

// kind tells the groups of members from those of public readers.
func (k Key) kind() string {
	if k.Public {
		return kindPublic
	}
	return kindMembers
}

// account is what a group counts for: the public readers of an application are one, and its
// members another.
func (k Key) account() string { return k.kind() + prefix(k.Application) }

// accountOf is the account of the group that a consumer is of. It is false for a consumer
// that is no group's.
func accountOf(consumer string) (account string, public, ok bool) {
	if len(consumer) <= kindAt || consumer[ofApplication] != '-' || consumer[kindAt-1] != '-' {
		return "", false, false
	}
	kind := consumer[kindAt : kindAt+1]
	return kind + consumer[:ofApplication], kind == kindPublic, true
}

// prefix begins the names of all consumers of an application.
func prefix(application string) string {
	sum := sha256.Sum256([]byte(application))
	return hex.EncodeToString(sum[:ofApplication/2])
}

func (k Key) hash() string {
	h := sha256.New()
	for _, part := range []string{k.Application, strconv.FormatBool(k.ByChannel), k.Channel, strconv.FormatBool(k.Public), k.Name} {
		// The length before each part, so that no two keys run together.
		h.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
	}
	return hex.EncodeToString(h.Sum(nil)[:ofKey/2])
}

func short(name string) string {
	token := subject.Encode(name)
	return token[:min(len(token), readable)]
}

func (k Key) subjects(shards int) subjects {
	shard := subject.Shard(k.Application, shards)
	consumer := k.Consumer()
	return subjects{
		shard: shard, stream: subject.Stream(shard), consumer: consumer,
		filter:  subject.In(shard, k.Application),
		deliver: "grp." + strconv.Itoa(shard) + "." + consumer,
	}
}

// String names the group for a log.
func (k Key) String() string {
	var b strings.Builder
	b.WriteString(strconv.Quote(k.Application))
	if k.ByChannel {
		b.WriteString("/" + strconv.Quote(k.Channel))
	}
	b.WriteString(" group " + strconv.Quote(k.Name))
	if k.Public {
		b.WriteString(" (public readers)")
	}
	return b.String()
}
