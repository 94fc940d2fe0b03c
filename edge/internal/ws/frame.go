package ws

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// Opcode says what a frame is (RFC 6455, section 5.2).
type Opcode byte

// The opcodes of RFC 6455. All others are reserved, and a client that sends one is
// closed with CloseProtocolError.
const (
	OpContinuation Opcode = 0x0 // a further piece of a message
	OpText         Opcode = 0x1 // a message, or its first piece, of UTF-8 text
	OpBinary       Opcode = 0x2 // a message, or its first piece, of bytes
	OpClose        Opcode = 0x8 // the sender sends nothing after this
	OpPing         Opcode = 0x9 // asks for a Pong with the same payload
	OpPong         Opcode = 0xA // answers a Ping, or just shows life
)

// control tells the three opcodes of section 5.5 from data.
func (op Opcode) control() bool { return op&0x8 != 0 }

// known tells the opcodes above from reserved ones.
func (op Opcode) known() bool { return op <= OpBinary || op >= OpClose && op <= OpPong }

// Close codes of RFC 6455, section 7.4.1, and of IANA's registry.
const (
	CloseNormal        uint16 = 1000 // done
	CloseGoingAway     uint16 = 1001 // the server drains, or the page was left
	CloseProtocolError uint16 = 1002 // frames that break the protocol
	CloseUnsupported   uint16 = 1003 // a kind of data that is not understood
	CloseNoStatus      uint16 = 1005 // stands for a close frame without a code; never on the wire
	CloseAbnormal      uint16 = 1006 // stands for an end without a close frame; never on the wire
	CloseInvalidData   uint16 = 1007 // text that is not UTF-8
	ClosePolicy        uint16 = 1008 // not, or no longer, allowed
	CloseTooBig        uint16 = 1009 // a message over the limit
	CloseExtension     uint16 = 1010 // a client misses an extension; only clients send it
	CloseInternal      uint16 = 1011 // the server cannot go on
	CloseRestart       uint16 = 1012 // the server restarts
	CloseTryLater      uint16 = 1013 // the server is overloaded, or the client too slow
	CloseBadGateway    uint16 = 1014 // a gateway got a bad answer
	closeTLS           uint16 = 1015 // stands for a failed TLS handshake; never on the wire
)

// compressed is the bit RSV1 of a message's first byte, which says so (RFC 7692, section 6).
const compressed = 0x40

// maxControl is the largest payload of a control frame, in bytes (section 5.5).
const maxControl = 125

// HeaderLen returns the bytes that the header of an unmasked frame takes whose payload
// has n bytes: 2, 4 or 10.
func HeaderLen(n int) int {
	switch {
	case n <= 125:
		return 2
	case n <= 0xFFFF:
		return 4
	default:
		return 10
	}
}

// AppendHeader appends to b the header of one whole, unmasked frame whose payload has n
// bytes, and returns the extended slice.
func AppendHeader(b []byte, op Opcode, n int) []byte {
	b = append(b, 0x80|byte(op))
	switch {
	case n <= 125:
		return append(b, byte(n))
	case n <= 0xFFFF:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
}

// AppendFrame appends to b one whole, unmasked frame and returns the extended slice. The
// caller keeps control payloads at 125 bytes or less.
func AppendFrame(b []byte, op Opcode, payload []byte) []byte {
	return append(AppendHeader(b, op, len(payload)), payload...)
}

// AppendClose appends to b a close frame and returns the extended slice. A reason that
// does not fit its 123 bytes is cut where a character ends, and bytes that are not UTF-8
// become U+FFFD. The codes that never stand on the wire (CloseNoStatus, CloseAbnormal,
// 1015) make a close frame without code and reason: so the code of Handler.OnClose can be
// sent back as it came.
func AppendClose(b []byte, code uint16, reason string) []byte {
	if code == CloseNoStatus || code == CloseAbnormal || code == closeTLS {
		return AppendHeader(b, OpClose, 0)
	}
	reason = cut(strings.ToValidUTF8(reason, "\uFFFD"), maxControl-2)
	b = AppendHeader(b, OpClose, 2+len(reason))
	b = binary.BigEndian.AppendUint16(b, code)
	return append(b, reason...)
}

// cut returns the longest prefix of s, valid UTF-8, of at most n bytes that ends where a
// character ends.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// mayReceive tells whether a close code may stand in a close frame: the registered ones
// and the ranges for libraries and applications (section 7.4.2).
func mayReceive(code uint16) bool {
	switch code {
	case 1004, CloseNoStatus, CloseAbnormal:
		return false
	}
	return code >= CloseNormal && code <= CloseBadGateway || code >= 3000 && code <= 4999
}
