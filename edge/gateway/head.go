package gateway

import "bytes"

// head counts the lines of a request's head while they come. Each header line that net/http
// takes becomes an entry of a map and a slice, of which some hundred bytes are held for three
// that were sent, so that bytes alone do not bound it. Continuation lines count, too.
//
// net/http ends lines as this does: at a LF, with a CR before it or not.
type head struct {
	lines int  // that are complete, the request line among them
	text  bool // the line that has begun has more than a CR
	cr    bool // it has begun with a CR
	ended bool // an empty line has come: what follows is no head
}

// take follows what came. It is false if the head has more than most header lines.
func (h *head) take(b []byte, most int) bool {
	for !h.ended && len(b) > 0 {
		line := b
		at := bytes.IndexByte(b, '\n')
		if at >= 0 {
			line = b[:at]
		}
		h.note(line)
		if at < 0 {
			return true
		}
		b = b[at+1:]
		h.ended = !h.text
		h.lines++
		if !h.ended && h.lines > 1+most {
			return false
		}
		h.text, h.cr = false, false
	}
	return true
}

// note follows a part of a line, without its end.
func (h *head) note(part []byte) {
	switch {
	case len(part) == 0 || h.text:
	case len(part) == 1 && part[0] == '\r' && !h.cr:
		h.cr = true
	default:
		h.text = true
	}
}
