package local

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	publicApplication  = "drogue-public-temperature"
	privateApplication = "example-app"
	keyUser            = "alice"

	ownerOnly = 0o600
)

// applications is the file of the two applications; %s is the SHA-256 of the key.
const applications = `# Who may read what. The edge reads this file again when it changes.
applications:
  ` + publicApplication + `:
    public: true
  ` + privateApplication + `:
    members:
      ` + keyUser + `: [read, write]
api_keys:
  - user: ` + keyUser + `
    sha256: %s
`

// demoApplications makes sure that dir holds the applications file and an API key, and
// gives the file's path and the key. Files that are there already stay as they are; key is
// "" if the file does not know it (any more).
func demoApplications(dir string) (path, key string, err error) {
	key, err = readOrWrite(filepath.Join(dir, "api-key"), func() string { return rand.Text() })
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256([]byte(key))
	hash := hex.EncodeToString(sum[:])
	path = filepath.Join(dir, "applications.yaml")
	content, err := readOrWrite(path, func() string { return fmt.Sprintf(applications, hash) })
	if err != nil {
		return "", "", err
	}
	if !strings.Contains(content, hash) {
		key = ""
	}
	return path, key, nil
}

// readOrWrite gives the content of a file, which is made first if it does not exist.
func readOrWrite(path string, content func() string) (string, error) {
	found, err := os.ReadFile(path)
	if err == nil {
		return string(found), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read data folder: %w", err)
	}
	made := content()
	if err := os.WriteFile(path, []byte(made), ownerOnly); err != nil {
		return "", fmt.Errorf("write data folder: %w", err)
	}
	return made, nil
}
