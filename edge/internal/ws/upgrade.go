package ws

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// acceptTimeout is how long a client may take to receive the 101.
const acceptTimeout = 10 * time.Second

// keyGUID is what the key is hashed with (RFC 6455, section 1.3).
const keyGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// CheckUpgrade returns nil if the request opens a WebSocket (RFC 6455, section 4.2.1), or
// an error whose text tells the client what is wrong with it.
func CheckUpgrade(r *http.Request) error {
	keys := r.Header.Values("Sec-WebSocket-Key")
	switch {
	case r.Method != http.MethodGet:
		return errors.New("method must be GET")
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return errors.New("protocol must be HTTP/1.1")
	case !hasToken(r.Header, "Connection", "upgrade", true):
		return errors.New("header Connection must contain Upgrade")
	case !hasToken(r.Header, "Upgrade", "websocket", true):
		return errors.New("header Upgrade must contain websocket")
	case !hasToken(r.Header, "Sec-WebSocket-Version", "13", false):
		return errors.New("header Sec-WebSocket-Version must be 13")
	case len(keys) != 1 || !validKey(keys[0]):
		return errors.New("header Sec-WebSocket-Key must be given once, 16 bytes in base64")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		// The bytes of a body would be read as frames.
		return errors.New("request must have no body")
	}
	return nil
}

// validKey tells whether key is base64 of 16 bytes.
func validKey(key string) bool {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(key))
	return err == nil && len(raw) == 16
}

// OffersSubprotocol tells whether the client offers the subprotocol name, in its case.
func OffersSubprotocol(r *http.Request, name string) bool {
	return hasToken(r.Header, "Sec-WebSocket-Protocol", name, false)
}

// hasToken tells whether a header that is a list, in one line or several, contains token.
func hasToken(h http.Header, name, token string, fold bool) bool {
	for _, line := range h.Values(name) {
		for item := range strings.SplitSeq(line, ",") {
			item = strings.TrimSpace(item)
			if item == token || fold && strings.EqualFold(item, token) {
				return true
			}
		}
	}
	return false
}

// Accept answers 101 to a request that CheckUpgrade has passed, and takes its connection
// from net/http, without deadlines. subprotocol is the one chosen of those offered, or
// empty, and offer is what is accepted of permessage-deflate. early is what the client has sent behind its request: Engine.Adopt reads it
// first. If the connection cannot be taken, the error says so and w can still answer;
// after any other error it is closed.
func Accept(w http.ResponseWriter, r *http.Request, subprotocol string, offer Offer) (conn net.Conn, early []byte, err error) {
	conn, buffers, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take connection: %w", err)
	}
	if n := buffers.Reader.Buffered(); n > 0 {
		early = make([]byte, n)
		if _, err = buffers.Read(early); err != nil {
			_ = conn.Close()
			return nil, nil, fmt.Errorf("read early bytes: %w", err)
		}
	}
	if err = answer(conn, r, subprotocol, offer); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("answer handshake: %w", err)
	}
	return conn, early, nil
}

// answer writes the 101 and clears the deadlines that net/http has set.
func answer(conn net.Conn, r *http.Request, subprotocol string, offer Offer) error {
	if err := conn.SetDeadline(time.Now().Add(acceptTimeout)); err != nil {
		return err
	}
	b := make([]byte, 0, 384)
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	b = append(b, acceptKey(r.Header.Get("Sec-WebSocket-Key"))...)
	// By this clock a client can come back that has had no event yet.
	b = append(b, "\r\nDate: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	if subprotocol != "" {
		b = append(b, "\r\nSec-WebSocket-Protocol: "...)
		b = append(b, subprotocol...)
	}
	if extension := offer.answer(); extension != "" {
		b = append(b, "\r\nSec-WebSocket-Extensions: "...)
		b = append(b, extension...)
	}
	b = append(b, "\r\n\r\n"...)
	if _, err := conn.Write(b); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// acceptKey proves to the client that its key was read (section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(strings.TrimSpace(key) + keyGUID))
	return base64.StdEncoding.EncodeToString(sum[:])
}
