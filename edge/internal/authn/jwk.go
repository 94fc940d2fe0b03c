package authn

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"
)

const (
	// rsaBits is the least length of an RSA key (RFC 7518, sections 3.3 and 3.5), rsaMostBits
	// the greatest: whoever sends a token chooses which key it is tried with, and the work
	// grows with the square of this. crypto/tls draws the line there, too.
	rsaBits, rsaMostBits = 2048, 8192
	// twins is how many keys of one type and use may have one id. A token may be tried with each.
	twins = 4
)

// uses are those of keys that may vouch for tokens. Keys without one are for signatures to
// most issuers; keys for encryption are not.
var uses = []jwkset.USE{jwkset.UseSig, ""}

// public returns those keys of a set that belong to an asymmetric algorithm, with an id, and
// what there is to say about others. One key that nobody here understands must not hide the
// others, and is not mentioned: sets hold many kinds.
func public(raw []json.RawMessage) (keys []jwkset.JWK, complaint string) {
	ignored := make(map[string]int)
	same := make(map[string]int) // by type, use and id
	for _, r := range raw {
		key, err := jwkset.NewJWKFromRawJSON(r, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil || key.Marshal().KID == "" || !asymmetric(key) {
			continue
		}
		fault := weakness(key, r)
		m := key.Marshal()
		of := m.KTY.String() + " " + m.CRV.String() + " " + m.USE.String() + " " + m.KID
		if fault == "" && same[of] == twins {
			fault = fmt.Sprintf("%d others of its type have its id", twins)
		}
		if fault != "" {
			ignored[fault]++
			continue
		}
		same[of]++
		keys = append(keys, key)
	}
	var all []string
	for _, fault := range slices.Sorted(maps.Keys(ignored)) {
		all = append(all, fmt.Sprintf("%d: %s", ignored[fault], fault))
	}
	return keys, strings.Join(all, "; ")
}

// asymmetric reports whether a key belongs to one of the algorithms that count.
func asymmetric(key jwkset.JWK) bool {
	switch key.Key().(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// weakness says why a key is not taken although its type is. raw is what it was read from.
func weakness(key jwkset.JWK, raw json.RawMessage) string {
	var private struct {
		D json.RawMessage `json:"d"`
	}
	if json.Unmarshal(raw, &private) != nil || private.D != nil {
		return "its private part is public, too"
	}
	if k, ok := key.Key().(*rsa.PublicKey); ok {
		switch bits := k.N.BitLen(); {
		case bits < rsaBits:
			return fmt.Sprintf("RSA with less than %d bits", rsaBits)
		case bits > rsaMostBits:
			return fmt.Sprintf("RSA with more than %d bits", rsaMostBits)
		}
	}
	return ""
}

// signs reports whether tokens may be signed with a key.
func signs(key jwkset.JWK) bool { return slices.Contains(uses, key.Marshal().USE) }

// fits reports whether a key is of the type of an algorithm (RFC 7518, section 3.1).
func fits(key jwkset.JWK, algorithm string) bool {
	switch k := key.Key().(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(algorithm, "RS") || strings.HasPrefix(algorithm, "PS")
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return algorithm == "ES256"
		case elliptic.P384():
			return algorithm == "ES384"
		case elliptic.P521():
			return algorithm == "ES512"
		}
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	}
	return false
}
