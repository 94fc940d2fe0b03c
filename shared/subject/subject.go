// Package subject maps names that users and devices choose onto the NATS
// subjects, streams and shards that carry them.
//
// A record of application "my-app" in shard 3 is published as "in.3.my-app",
// stored by the stream "EVENTS_3" and republished as "events.3.my-app".
package subject

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"strconv"
	"strings"
)

const (
	// MaxToken is the length in bytes of the longest token that Encode makes.
	MaxToken = 128

	// MetadataShards is the key in every stream's metadata that holds the
	// number of shards. Edges read it there, so that nobody configures it twice.
	MetadataShards = "canopy.shards"

	// MetadataShard is the key in a stream's metadata that holds its own shard.
	MetadataShard = "canopy.shard"

	emptyToken = "="
	cutMark    = "==" // ordinary encoding always puts two hex digits behind a "="
	hashDigits = 32
	hexDigits  = "0123456789ABCDEF"
)

// Encode turns any name into one subject token of at most MaxToken bytes made of
// letters, digits, "-", "_" and "=". Every other byte becomes "=XX". A name whose
// encoding is longer is cut and carries a SHA-256, so two names never share a token.
func Encode(name string) string {
	if name == "" {
		return emptyToken
	}
	if len(name) <= MaxToken && isPlain(name) {
		return name
	}
	var b strings.Builder
	b.Grow(MaxToken)
	for i := range len(name) {
		c := name[i]
		if b.Len()+3 > MaxToken-len(cutMark)-hashDigits && needsCut(name, i, b.Len()) {
			sum := sha256.Sum256([]byte(name))
			return b.String() + cutMark + hex.EncodeToString(sum[:hashDigits/2])
		}
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('=')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	return b.String()
}

// needsCut says whether name, of which i bytes have become n bytes, ends beyond MaxToken.
func needsCut(name string, i, n int) bool {
	for ; i < len(name); i++ {
		n++
		if !plain(name[i]) {
			n += 2
		}
		if n > MaxToken {
			return true
		}
	}
	return false
}

// Decode gives back the name that Encode made token from. It is false for a token
// that Encode cannot have made, and for one that was cut: the name is not in it.
func Decode(token string) (string, bool) {
	if token == emptyToken {
		return "", true
	}
	if token == "" || len(token) > MaxToken {
		return "", false
	}
	var b strings.Builder
	b.Grow(len(token))
	for i := 0; i < len(token); i++ {
		c := token[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		if c != '=' || i+2 >= len(token) {
			return "", false
		}
		hi, lo := unhex(token[i+1]), unhex(token[i+2])
		if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	return b.String(), true
}

func unhex(c byte) int { return strings.IndexByte(hexDigits, c) }

func isPlain(name string) bool {
	for i := range len(name) {
		if !plain(name[i]) {
			return false
		}
	}
	return true
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// Shard is the number of the stream, below shards, that holds application.
// It is FNV-1a (64 bit) of the name, so that it is the same in every process.
func Shard(application string, shards int) int {
	h := fnv.New64a()
	h.Write([]byte(application))
	return int(h.Sum64() % uint64(shards))
}

// In is the subject that ingest publishes application's events to.
func In(shard int, application string) string {
	return "in." + strconv.Itoa(shard) + "." + Encode(application)
}

// Events is the subject that the stream republishes application's events to.
func Events(shard int, application string) string {
	return "events." + strconv.Itoa(shard) + "." + Encode(application)
}

// Stream is the name of the JetStream stream that holds shard.
func Stream(shard int) string { return "EVENTS_" + strconv.Itoa(shard) }

// StreamSubjects is the filter of everything that shard's stream stores.
func StreamSubjects(shard int) string { return "in." + strconv.Itoa(shard) + ".*" }

// Republish is the destination of shard's RePublish, for the source StreamSubjects.
func Republish(shard int) string {
	return "events." + strconv.Itoa(shard) + ".{{wildcard(1)}}"
}

// ShardOfStream gives the shard of a stream's name, false if it is not one of ours.
func ShardOfStream(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, "EVENTS_")
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil && n >= 0 && Stream(n) == name
}
