package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"canopy/edge/internal/authn"
)

// maxKey bounds what is read as a key, in bytes; HTTP headers carry no longer one.
const maxKey = 4 << 10

// hashKey is the command that makes an entry of api_keys in the applications file, which
// holds hashes only.
type hashKey struct {
	User string `default:"USER" placeholder:"NAME" help:"User that the key signs in. Without it the printed USER is to be replaced."`
}

// print reads a key, without one newline at its end, and writes its entry as one line of
// YAML. The key itself is never written.
func (h hashKey) print(in io.Reader, out io.Writer) error {
	if !authn.ValidUser(h.User) {
		return fmt.Errorf("hash key: user %.100q is empty, begins with role:, contains / or a control character, or is longer than 1 KiB", h.User)
	}
	key, err := io.ReadAll(io.LimitReader(in, maxKey+3)) // a line's end may follow
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(key), "\n"), "\r")
	if text == "" {
		return errors.New("hash key: the key on standard input is empty")
	}
	if len(text) > maxKey {
		return fmt.Errorf("hash key: the key is longer than %d bytes", maxKey)
	}
	sum := sha256.Sum256([]byte(text))
	_, err = fmt.Fprintf(out, "  - {user: %s, sha256: %s}\n", strconv.Quote(h.User), hex.EncodeToString(sum[:]))
	if err != nil {
		return fmt.Errorf("write entry: %w", err)
	}
	return nil
}
