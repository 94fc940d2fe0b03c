// Package rawtls is a TLS 1.3 client for tests and attacks that writes its own records: such
// as crypto/tls never sends, and without reading what comes back unless it is asked to.
package rawtls

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net"
	"net/http"
	"strings"
	"time"
)

// Types of a record's content (RFC 8446, section 5.1).
const (
	Alert       byte = 21
	Handshake   byte = 22
	Application byte = 23
)

// patience is how long the handshakes may take.
const patience = 30 * time.Second

// inARow is how many records that yield nothing come in a row: crypto/tls gives up after 16.
const inARow = 15

// Conn is the client's end. Its methods belong to one goroutine, except Close and Read,
// which may be called beside those that write.
type Conn struct {
	TCP *net.TCPConn
	tls *tls.Conn // reads, and wrote the handshake

	newHash func() hash.Hash
	keyLen  int
	secret  []byte // that records are written with
	aead    cipher.AEAD
	iv      []byte
	seq     uint64

	reader *bufio.Reader
	inRow  int    // records that yield nothing, since the last one that does
	filler []byte // what is left of a Ping that is sent byte by byte
}

// Dial opens a connection with TLS 1.3. config may be nil: any certificate is believed.
func Dial(address string, config *tls.Config) (*Conn, error) {
	if config == nil {
		config = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // it attacks its own server
	}
	config = config.Clone()
	config.MinVersion, config.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	var keys bytes.Buffer
	config.KeyLogWriter = &keys
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	c := &Conn{TCP: conn.(*net.TCPConn), tls: tls.Client(conn, config)}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err = c.tls.Handshake(); err == nil {
		err = c.takeKeys(keys.String())
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("shake hands: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	c.reader = bufio.NewReader(c.tls)
	return c, nil
}

// takeKeys finds the secret of the client's records in a key log.
func (c *Conn) takeKeys(log string) (err error) {
	switch suite := c.tls.ConnectionState().CipherSuite; suite {
	case tls.TLS_AES_128_GCM_SHA256:
		c.newHash, c.keyLen = sha256.New, 16
	case tls.TLS_AES_256_GCM_SHA384:
		c.newHash, c.keyLen = sha512.New384, 32
	default:
		return fmt.Errorf("cipher suite %s is not known here", tls.CipherSuiteName(suite))
	}
	for line := range strings.Lines(log) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "CLIENT_TRAFFIC_SECRET_0" {
			if c.secret, err = hex.DecodeString(words[2]); err != nil {
				return err
			}
			return c.rekey()
		}
	}
	return errors.New("no secret in the key log")
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func (c *Conn) expand(label string, n int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(info, "tls13 "+label...)
	return hkdf.Expand(c.newHash, c.secret, string(append(info, 0)), n)
}

// rekey goes over to the keys of the present secret.
func (c *Conn) rekey() error {
	key, err := c.expand("key", c.keyLen)
	if err != nil {
		return err
	}
	if c.iv, err = c.expand("iv", 12); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	c.aead, err = cipher.NewGCM(block)
	c.seq = 0
	return err
}

// AppendRecord appends one record of a type to b, encrypted as the next one to be sent.
func (c *Conn) AppendRecord(b []byte, kind byte, content []byte) []byte {
	b = append(b, Application, 3, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)+1+c.aead.Overhead()))
	nonce := bytes.Clone(c.iv)
	for i, x := range binary.BigEndian.AppendUint64(nil, c.seq) {
		nonce[len(nonce)-8+i] ^= x
	}
	c.seq++
	head := b[len(b)-5:]
	return c.aead.Seal(b, nonce, append(bytes.Clone(content), kind), head)
}

// AppendKeyUpdate appends a KeyUpdate to b, and goes over to new keys. With ask the server
// is to change its own keys, too, and has to say so in a record of its own.
func (c *Conn) AppendKeyUpdate(b []byte, ask bool) ([]byte, error) {
	message := []byte{24, 0, 0, 1, 0}
	if ask {
		message[4] = 1
	}
	b = c.AppendRecord(b, Handshake, message)
	next, err := c.expand("traffic upd", c.newHash().Size())
	if err != nil {
		return nil, err
	}
	c.secret = next
	return b, c.rekey()
}

// Write sends b in as many records as it takes.
func (c *Conn) Write(b []byte) (int, error) {
	var records []byte
	for rest := b; len(rest) > 0; {
		n := min(len(rest), 16<<10)
		records, rest = c.AppendRecord(records, Application, rest[:n]), rest[n:]
	}
	if _, err := c.TCP.Write(records); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read reads what the server says, behind the answer to Upgrade.
func (c *Conn) Read(b []byte) (int, error) { return c.reader.Read(b) }

// Close closes the connection without a word.
func (c *Conn) Close() error { return c.TCP.Close() }

// Upgrade asks for a WebSocket at path, and returns the status that is answered.
func (c *Conn) Upgrade(path string, header http.Header) (status int, err error) {
	request := bytes.NewBufferString("GET " + path + " HTTP/1.1\r\nHost: " + c.TCP.RemoteAddr().String() +
		"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " +
		base64.StdEncoding.EncodeToString(make([]byte, 16)) + "\r\n")
	_ = header.Write(request)
	request.WriteString("\r\n")
	if _, err := c.Write(request.Bytes()); err != nil {
		return 0, err
	}
	_ = c.TCP.SetReadDeadline(time.Now().Add(patience))
	defer func() { _ = c.TCP.SetReadDeadline(time.Time{}) }()
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

// Frame is a client's frame with a mask of zeros. Its payload has less than 64 KiB.
func Frame(op byte, payload []byte) []byte {
	b := []byte{0x80 | op, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint16([]byte{0x80 | op, 0x80 | 126}, uint16(len(payload)))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// KeyUpdates sends n KeyUpdates that ask for an answer, many in each write, and reads
// nothing. Between them come the bytes of long Pings, one by one, since crypto/tls ends a
// connection that brings nothing else.
func (c *Conn) KeyUpdates(n int) error {
	return c.flood(n, func(b []byte) ([]byte, error) { return c.AppendKeyUpdate(b, true) })
}

// Useless sends n records of a type with a content that yields nothing, such as an empty one
// of Application, in the same way.
func (c *Conn) Useless(n int, kind byte, content []byte) error {
	return c.flood(n, func(b []byte) ([]byte, error) { return c.AppendRecord(b, kind, content), nil })
}

// Crumbs sends n bytes of long Pings, each in a record of its own.
func (c *Conn) Crumbs(n int) error {
	return c.flood(n, func(b []byte) ([]byte, error) { return c.AppendRecord(b, Application, c.crumb()), nil })
}

func (c *Conn) flood(n int, next func(b []byte) ([]byte, error)) (err error) {
	var records []byte
	for i := 1; i <= n; i++ {
		c.inRow++
		if records, err = next(records); err != nil {
			return err
		}
		if c.inRow == inARow {
			c.inRow = 0
			records = c.AppendRecord(records, Application, c.crumb())
		}
		if len(records) >= 32<<10 || i == n {
			if _, err := c.TCP.Write(records); err != nil {
				return err
			}
			records = records[:0]
		}
	}
	return nil
}

// crumb is the next byte of long Pings.
func (c *Conn) crumb() []byte {
	if len(c.filler) == 0 {
		c.filler = Frame(9, make([]byte, 125))
	}
	b := c.filler[:1]
	c.filler = c.filler[1:]
	return b
}
