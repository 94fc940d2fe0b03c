package issuer

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
)

const (
	keyBits = 2048
	pemType = "PRIVATE KEY"
)

// signingKey is a key with its name in the set.
type signingKey struct {
	id      string
	private *rsa.PrivateKey
}

// jwk is a public key as RFC 7517 writes it.
type jwk struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

// NewKey makes a signing key.
func NewKey() (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return key, nil
}

// KeyFile reads the signing key from a PEM file, or makes one and writes it there, readable
// by its owner only.
func KeyFile(path string) (*rsa.PrivateKey, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return writeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	block, _ := pem.Decode(content)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("read signing key: %s holds no PEM block of type %q", path, pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read signing key %s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read signing key: %s holds no RSA key", path)
	}
	return key, nil
}

func writeKey(path string) (*rsa.PrivateKey, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), 0o600); err != nil {
		return nil, fmt.Errorf("write signing key: %w", err)
	}
	return key, nil
}

// newSigningKey names a key by its thumbprint (RFC 7638), so that a key that is read back
// from a file keeps its name.
func newSigningKey(key *rsa.PrivateKey) signingKey {
	n, e := modulus(key), exponent(key)
	sum := sha256.Sum256([]byte(`{"e":"` + e + `","kty":"RSA","n":"` + n + `"}`))
	return signingKey{id: base64.RawURLEncoding.EncodeToString(sum[:]), private: key}
}

// public is the part of the key that everybody may see.
func (k signingKey) public() jwk {
	return jwk{
		Type: "RSA", Use: "sig", Algorithm: "RS256", ID: k.id,
		Modulus: modulus(k.private), Exponent: exponent(k.private),
	}
}

func modulus(key *rsa.PrivateKey) string { return base64.RawURLEncoding.EncodeToString(key.N.Bytes()) }

func exponent(key *rsa.PrivateKey) string {
	return base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes())
}
