package drogue

import (
	"hash/crc32"
	"strings"
)

const (
	keyPrefix = "drg_"
	// keyLength is that of a key without its checksum: drg_, 6 characters that name it,
	// an underscore, 30 secret ones.
	keyLength = len(keyPrefix) + 6 + 1 + 30
)

// digits are those of base62, as Drogue counts them.
const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// wellFormed reports whether an API key can be one of Drogue's: its last characters are
// the CRC-32 (IEEE) of all before them, in base62. Others are refused without a call.
func wellFormed(key string) bool {
	if len(key) <= keyLength || !strings.HasPrefix(key, keyPrefix) || key[len(keyPrefix)+6] != '_' {
		return false
	}
	return key[keyLength:] == base62(crc32.ChecksumIEEE([]byte(key[:keyLength])))
}

func base62(n uint32) string {
	var b [6]byte
	at := len(b)
	for {
		at--
		b[at] = digits[n%62]
		if n /= 62; n == 0 {
			return string(b[at:])
		}
	}
}
