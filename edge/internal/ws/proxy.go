package ws

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// headerTimeout is how long a proxy may take for its header, which it sends at once.
	headerTimeout = 5 * time.Second

	maxProxyLine = 107     // version 1, bytes with its end
	maxProxyBody = 4 << 10 // version 2, bytes: addresses and whatever extensions follow

	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
)

var errNoProxyHeader = errors.New("no PROXY protocol header")

// BehindProxy returns a listener whose connections begin with a header of the PROXY
// protocol, version 1 or 2, which is taken off: their RemoteAddr is the client's, as the
// header says it. Connections of peers that are not trusted, and those without a header,
// are closed; refused is told why. The header is read when RemoteAddr or Read is called
// first, which may block for 5 s, and not a byte behind it.
func BehindProxy(listener net.Listener, trusted func(netip.Addr) bool, refused func(peer net.Addr, err error)) net.Listener {
	return &proxyListener{listener, trusted, refused}
}

type proxyListener struct {
	net.Listener
	trusted func(netip.Addr) bool
	refused func(peer net.Addr, err error)
}

func (l *proxyListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &proxied{Conn: conn, listener: l}, nil
}

// proxied is a connection that begins with a header.
type proxied struct {
	net.Conn
	listener *proxyListener

	once   sync.Once
	client net.Addr // nil if the header names none
	failed bool
}

// NetConn is the connection below.
func (c *proxied) NetConn() net.Conn { return c.Conn }

// RemoteAddr is the client that the header names, or else the peer.
func (c *proxied) RemoteAddr() net.Addr {
	c.once.Do(c.header)
	if c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// Read reads what follows the header, nothing if there was none.
func (c *proxied) Read(b []byte) (int, error) {
	c.once.Do(c.header)
	if c.failed {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// CloseWrite ends the direction to the client.
func (c *proxied) CloseWrite() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
	}
	return c.Close()
}

func (c *proxied) header() {
	client, err := c.readHeader()
	if err != nil {
		c.failed = true
		_ = c.Close()
		c.listener.refused(c.Conn.RemoteAddr(), err)
		return
	}
	if client.IsValid() {
		c.client = net.TCPAddrFromAddrPort(client)
	}
}

func (c *proxied) readHeader() (netip.AddrPort, error) {
	peer, ok := c.Conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !c.listener.trusted(peer.AddrPort().Addr().Unmap()) {
		return netip.AddrPort{}, errors.New("peer is no trusted proxy")
	}
	if err := c.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return netip.AddrPort{}, err
	}
	client, err := readProxyHeader(c.Conn)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read PROXY header: %w", err)
	}
	return client, c.SetReadDeadline(time.Time{})
}

// readProxyHeader reads a header and nothing behind it (see HAProxy's proxy-protocol.txt).
// The address is the client's; it is not valid if the header names none, as with a
// proxy's own health checks.
func readProxyHeader(r io.Reader) (netip.AddrPort, error) {
	// Both versions are longer than the signature of the second.
	start := make([]byte, len(proxySignature), maxProxyLine)
	if _, err := io.ReadFull(r, start); err != nil {
		return netip.AddrPort{}, err
	}
	if string(start) == proxySignature {
		return readProxyBody(r)
	}
	if !bytes.HasPrefix(start, []byte("PROXY ")) {
		return netip.AddrPort{}, errNoProxyHeader
	}
	// Byte by byte, since what follows the line is not the header's.
	line := start
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxProxyLine {
			return netip.AddrPort{}, errors.New("line is too long")
		}
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return parseProxyLine(string(line[:len(line)-2]))
}

// parseProxyLine reads version 1: PROXY TCP4 <source> <destination> <port> <port>.
func parseProxyLine(line string) (netip.AddrPort, error) {
	words := strings.Split(line, " ")
	if words[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return netip.AddrPort{}, errors.New("expected TCP4, TCP6 or UNKNOWN, two addresses and two ports")
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		addr, err := netip.ParseAddr(words[2+i])
		if err != nil || addr.Zone() != "" || addr.Is4() != (words[1] == "TCP4") {
			return netip.AddrPort{}, errors.New("expected an address of the family that was named")
		}
		port, err := strconv.ParseUint(words[4+i], 10, 16)
		if err != nil {
			return netip.AddrPort{}, errors.New("expected a port")
		}
		ends[i] = netip.AddrPortFrom(addr.Unmap(), uint16(port))
	}
	return ends[0], nil
}

// readProxyBody reads version 2 behind its signature.
func readProxyBody(r io.Reader) (netip.AddrPort, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return netip.AddrPort{}, err
	}
	length := int(binary.BigEndian.Uint16(head[2:]))
	if head[0]>>4 != 2 || head[0]&0xF > 1 {
		return netip.AddrPort{}, errors.New("expected version 2, and LOCAL or PROXY")
	}
	if length > maxProxyBody {
		return netip.AddrPort{}, errors.New("header is too long")
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return netip.AddrPort{}, err
	}
	size := map[byte]int{0x11: 4, 0x21: 16}[head[1]] // TCP over IPv4 and IPv6
	if head[0]&0xF == 0 || size == 0 {
		return netip.AddrPort{}, nil
	}
	if length < 2*size+4 {
		return netip.AddrPort{}, errors.New("addresses are cut")
	}
	addr, _ := netip.AddrFromSlice(body[:size]) // 4 or 16 bytes
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(body[2*size:])), nil
}
