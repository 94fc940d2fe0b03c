package ws

import (
	"net"

	"github.com/lesismal/nbio"
	"golang.org/x/sys/unix"
)

// Write sends b, which holds whole frames only, so that concurrent writers never
// interleave inside one. It does not block: what the kernel does not take is copied, sent
// later and reported by OnWritten then. It returns ErrNotOpen before the connection was
// adopted, and another error once it is closed; OnGone comes besides.
func (c *Conn) Write(b []byte) error { return c.write(b, unix.Write) }

// WriteFast is Write for one of a few goroutines that do hardly anything else: it keeps its
// P while the kernel works, if Config.Spared says that others have one. At most as many
// goroutines may call it at once as procs.Workers says.
//
// Until the kernel has taken b, at most 64 KiB or one event, Go can neither stop the world
// nor run anything else on that P. The socket is non-blocking, so that is as long as a copy
// takes.
func (c *Conn) WriteFast(b []byte) error {
	if nb := c.nb.Load(); nb == nil || !c.engine.config.Spared {
		return c.Write(b)
	}
	return c.write(b, writeKeepingP)
}

// held is the account of what nbio keeps of a connection without TLS. nbio's lock of the
// connection guards it.
type held struct {
	holder
	left    int    // bytes that the kernel has not taken
	handing bool   // a goroutine gives nbio what comes next
	behind  []byte // whole frames that others wrote meanwhile
}

// write gives b to the kernel, and the end that this does not take to nbio, which gets
// nothing else. call is write(2).
func (c *Conn) write(b []byte, call func(fd int, b []byte) (int, error)) error {
	nb := c.nb.Load()
	if nb == nil {
		return ErrNotOpen
	}
	if c.state.Load()&stateCut != 0 {
		return net.ErrClosed
	}
	if c.secure != nil {
		return c.secure.send(b)
	}
	rest, err := c.try(nb, b, call)
	if err != nil {
		_ = nb.CloseWithError(err) // it does nothing if nbio was first
		return err
	}
	for len(rest) > 0 {
		if _, err := nb.Write(rest); err != nil {
			return err
		}
		if rest = c.handed(nb); len(rest) == 0 {
			c.engine.checkHeld()
		}
	}
	return nil
}

// try calls write(2) unless nbio keeps bytes that come before b. It returns what nbio is to
// be given, if that is left to the caller, who then asks handed.
//
// nbio closes a descriptor only after it has set closed under the lock, so nobody else's
// can have its number here.
func (c *Conn) try(nb *nbio.Conn, b []byte, call func(fd int, b []byte) (int, error)) (rest []byte, err error) {
	nb.Lock()
	defer nb.Unlock()
	if closed, _ := nb.IsClosed(); closed {
		return nil, net.ErrClosed
	}
	if len(b) == 0 {
		return nil, nil
	}
	if h := c.held; h != nil {
		h.left += len(b)
		h.wrote(h.left)
		if h.handing {
			h.behind = append(h.behind, b...)
			return nil, nil
		}
		h.handing = true
		return b, nil
	}
	n, err := call(nb.Hash(), b)
	if err != nil && err != unix.EAGAIN && err != unix.EINTR {
		return nil, err
	}
	n = max(0, n)
	if n > 0 {
		c.engine.written(c, n)
	}
	if n < len(b) {
		c.held = &held{left: len(b) - n, handing: true}
		c.held.begin(c, c.held.left)
	}
	return b[n:], nil
}

// handed notes that nbio got what it was to be given, and returns what came behind that.
func (c *Conn) handed(nb *nbio.Conn) (rest []byte) {
	nb.Lock()
	defer nb.Unlock()
	h := c.held
	rest, h.behind = h.behind, nil
	h.handing = len(rest) > 0
	c.settle(nil)
	return rest
}

// settle notes that the kernel took b from nbio. nbio's lock is held.
func (c *Conn) settle(b []byte) {
	h := c.held
	h.left -= len(b)
	if h.left == 0 && !h.handing {
		c.engine.holders.remove(&h.holder)
		c.held = nil
	} else if len(b) > 0 {
		h.took(b, h.left, h.handing)
	}
}

// forgetHeld notes that nbio keeps nothing of c any more: it has closed it.
func (c *Conn) forgetHeld(nb *nbio.Conn) {
	if c.secure != nil {
		return // see carrier.end
	}
	nb.Lock()
	defer nb.Unlock()
	if c.held != nil {
		c.engine.holders.remove(&c.held.holder)
	}
}
