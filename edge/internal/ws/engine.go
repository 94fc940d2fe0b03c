package ws

import (
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lesismal/nbio"
	"go.uber.org/zap"
)

// ErrStopped is what Engine.Adopt returns when the engine does not run.
var ErrStopped = errors.New("engine is stopped")

// DefaultMaxMessage is the largest message that a client may send, in bytes, unless
// Config says otherwise.
const DefaultMaxMessage = 64 << 10

// Config is how an Engine works.
type Config struct {
	// Pollers is the number of goroutines that wait for and read from sockets; 0 means
	// one for every four cores, at least one. Each blocks a P while it waits.
	Pollers int
	// MaxMessage is the largest message that a client may send, in bytes; 0 means
	// DefaultMaxMessage. A larger one is a violation with CloseTooBig.
	MaxMessage int
	// MaxFrames is how many frames a client may send in a second of the engine's clock,
	// control frames among them, without the Pongs of Conn.ExpectPong; 0 means any
	// number, and MaxFrames is the most. One more is a violation with ClosePolicy.
	MaxFrames int
	// MaxUnfinished is how much the unfinished messages of all clients may hold, in bytes;
	// 0 means DefaultMaxUnfinished. Above it the oldest are a violation with
	// CloseTryLater, as is, whatever it holds, one that is unfinished for 10 s.
	MaxUnfinished int
	// MaxWriteBuffer bounds the bytes that wait in memory for one socket; 0 means no
	// bound. At the bound nbio closes without a close frame, so it should lie above
	// everything that an owner writes while it keeps its own account with OnWritten.
	MaxWriteBuffer int
	// MaxHeld is how much memory all connections together may hold for bytes that their
	// kernels do not take; 0 means any. Above it, and above three quarters if somebody waits
	// (Press), those that hold most for the longest time have to go (Handler.OnUnread), and
	// above three quarters in any case those that have taken nothing for a second.
	MaxHeld int64
	// Spared says that Conn.WriteFast leaves other goroutines a P to run on.
	Spared bool
	// Log hears of what nbio reports and of panics of handlers; nil logs nothing.
	Log *zap.Logger
}

// Engine is a set of pollers with their connections. Its methods may be called from any
// goroutine; Stop must not be called from a Handler.
type Engine struct {
	config Config
	name   string // nbio's name for it, by which its log lines are found
	nb     *nbio.Engine
	now    atomic.Uint32
	panics atomic.Uint64
	held   heldAllocator

	holders holders
	over    chan struct{} // has room for one: connections hold much
	pressed atomic.Bool   // a writer waits for what they hold
	began   time.Time     // constant

	partials      partials
	finishSeconds uint32 // constant

	joined atomic.Uint64 // connections given to pollers; see conn

	ticking sync.WaitGroup
	done    chan struct{}

	life    sync.RWMutex // held for reading while a connection joins
	running bool
}

// engines counts the engines of this process, to tell their names apart.
var engines atomic.Uint64

// NewEngine returns an engine that is not started yet.
func NewEngine(config Config) *Engine {
	if config.MaxMessage == 0 {
		config.MaxMessage = DefaultMaxMessage
	}
	if config.MaxUnfinished == 0 {
		config.MaxUnfinished = DefaultMaxUnfinished
	}
	config.MaxFrames = min(config.MaxFrames, MaxFrames)
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	e := &Engine{
		config: config,
		name:   "ws-" + strconv.FormatUint(engines.Add(1), 10),
		done:   make(chan struct{}),
		over:   make(chan struct{}, 1),
		began:  time.Now(),

		finishSeconds: finishSeconds,
	}
	e.now.Store(1)
	e.nb = nbio.NewEngine(nbio.Config{
		Name:               e.name,
		NPoller:            config.Pollers,
		MaxWriteBufferSize: config.MaxWriteBuffer,
		BodyAllocator:      &e.held,
	})
	e.nb.OnData(e.onData)
	e.nb.OnClose(e.onClose)
	e.nb.OnWrittenSize(e.onWritten)
	return e
}

// Start starts the pollers and the clock, and returns when they run. An engine is started
// once.
func (e *Engine) Start() error {
	e.life.Lock()
	defer e.life.Unlock()
	routeLog(e)
	err := e.nb.Start()
	if err == nil {
		err = e.awaitPollers()
	}
	if err != nil {
		unrouteLog(e)
		return fmt.Errorf("start pollers: %w", err)
	}
	e.ticking.Add(2)
	go e.tick()
	go e.guard()
	e.running = true
	return nil
}

// Stop closes every connection, waits until each owner has heard OnGone, and then until
// the pollers have ended. An engine cannot be started again. Stopping one that does not
// run does nothing.
func (e *Engine) Stop() {
	e.life.Lock()
	defer e.life.Unlock()
	if !e.running {
		return
	}
	e.running = false
	e.nb.Stop()
	close(e.done)
	e.ticking.Wait()
	unrouteLog(e)
}

// Adopt puts the TCP connection of a finished handshake onto a poller. c is filled in
// place and h attached before anything is read; early, what the client sent behind its
// handshake, is read first, so that calls of h may come before Adopt returns. Adopt
// changes early and does not keep it. The caller holds no lock that h takes.
//
// The connection is Adopt's: after an error it is closed, and h is never called. It is a
// *net.TCPConn, or one that wraps it (see base), perhaps of a listener made by Secure. The
// errors are ErrStopped, a connection of another kind, and those of the system.
func (e *Engine) Adopt(c *Conn, h Handler, conn net.Conn, early []byte) error {
	defer e.relieve() // after the turn
	// A poller that gets data already, and OnGone, wait here until early is read.
	c.turn.Lock()
	defer c.turn.Unlock()
	c.owner, c.engine = h, e
	c.heard.Store(e.now.Load())
	tcp, secure := base(conn)
	if tcp == nil {
		c.state.Or(stateFailed)
		_ = conn.Close()
		return fmt.Errorf("adopt connection: %T is no TCP connection", conn)
	}
	c.secure = secure
	nb, err := e.register(c, tcp)
	if err != nil {
		c.state.Or(stateFailed)
		_ = tcp.Close()
		return fmt.Errorf("adopt connection: %w", err)
	}
	// Not before it is registered: nbio would lose its wish to hear of room for a write
	// that the kernel does not take.
	c.nb.Store(nb)
	if c.state.Load()&stateCut != 0 {
		shutdown(nb, syscall.SHUT_RDWR)
	}
	defer e.rescue(c)
	c.consume(early, e)
	if secure != nil {
		c.decrypt(nil, e) // what came with the handshakes and net/http has not read
	}
	return nil
}

// register makes nbio's connection of conn, which is closed then, and adds it to a
// poller.
func (e *Engine) register(c *Conn, conn *net.TCPConn) (*nbio.Conn, error) {
	e.life.RLock()
	defer e.life.RUnlock()
	if !e.running {
		return nil, ErrStopped
	}
	nb, err := duplicate(conn)
	if err != nil {
		return nil, err
	}
	nb.SetSession(c)
	if c.secure != nil {
		c.secure.move(c, nb)
	}
	e.joined.Add(1)
	return e.nb.AddConn(nb)
}

// duplicate makes nbio's connection of conn. nbio duplicates the descriptor, which stays
// non-blocking, and closes Go's, so that Go's own poller lets go of it.
//
// What this process starts must not inherit the duplicate: as long as a child held it, the
// kernel would go on reporting a connection that is closed here, under a number that may
// be another socket's by then, and nbio would close that one.
func duplicate(conn *net.TCPConn) (*nbio.Conn, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	nb, err := nbio.NBConn(conn)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(nb.Hash())
	// nbio keeps both addresses, whose bytes are of no use any more: 64 to 128 for each socket.
	for _, address := range []net.Addr{nb.LocalAddr(), nb.RemoteAddr()} {
		if tcp, ok := address.(*net.TCPAddr); ok {
			tcp.IP = nil
		}
	}
	return nb, nil
}

// Now returns the engine's coarse clock: seconds since the start, from 1 on. It goes on
// once a second.
func (e *Engine) Now() uint32 {
	return e.now.Load()
}

// Panics returns how many calls of handlers have panicked.
func (e *Engine) Panics() uint64 {
	return e.panics.Load()
}

// tick drives the coarse clock, whose seconds begin with those of the wall clock: tokens
// end on a whole second, and their sockets should not have to wait for the next one.
func (e *Engine) tick() {
	defer e.ticking.Done()
	start := time.Now()
	start = start.Add(time.Second - time.Duration(start.Nanosecond()))
	timer := time.NewTimer(time.Until(start))
	defer timer.Stop()
	for {
		select {
		case <-e.done:
			return
		case <-timer.C:
			whole := time.Since(start) / time.Second
			e.now.Store(uint32(whole) + 2) // 1 was what remained of the second before start
			timer.Reset(time.Until(start.Add((whole + 1) * time.Second)))
			e.overdue(e.now.Load())
		}
	}
}

// conn returns the connection of an nbio callback. The pollers learn of a connection
// through the kernel, of which Go's memory model knows nothing: what Adopt wrote before
// its Add is seen after this Load.
func (e *Engine) conn(nb *nbio.Conn) *Conn {
	e.joined.Load()
	c, _ := nb.Session().(*Conn)
	return c
}

// onData runs on the connection's poller with the bytes that were read.
func (e *Engine) onData(nb *nbio.Conn, data []byte) {
	c := e.conn(nb)
	defer e.relieve() // after the turn
	c.turn.Lock()
	defer c.turn.Unlock()
	defer e.rescue(c)
	if c.secure != nil {
		c.decrypt(data, e)
	} else {
		c.heard.Store(e.now.Load())
		c.consume(data, e)
	}
}

// onWritten runs under nbio's lock of the connection.
func (e *Engine) onWritten(nb *nbio.Conn, b []byte, n int) {
	if c := e.conn(nb); c.secure != nil {
		c.secure.took(b)
	} else {
		c.settle(b)
		e.written(c, n)
	}
}

// written tells the owner. nbio does not unlock in a panic: none may pass.
func (e *Engine) written(c *Conn, n int) {
	defer func() {
		if cause := recover(); cause != nil {
			e.report(cause)
			go c.Cut()
		}
	}()
	c.owner.OnWritten(n)
}

// onClose runs on a goroutine of nbio's, once per connection.
func (e *Engine) onClose(nb *nbio.Conn, err error) {
	if ended, ok := nb.Session().(begun); ok {
		close(ended)
		return
	}
	c := e.conn(nb)
	c.turn.Lock()
	defer c.turn.Unlock()
	c.forgetHeld(nb)
	state := c.state.Load()
	if state&stateFailed != 0 {
		return
	}
	c.state.Or(stateDeaf)
	e.forget(c)
	c.read = reader{}
	if c.secure != nil {
		if cause := c.secure.end(); cause != nil {
			err = cause
		}
	}
	if state&stateCut != 0 {
		err = nil
	}
	defer e.rescue(c)
	c.owner.OnGone(err)
}

// rescue is deferred around calls of a handler: a panic costs its connection.
func (e *Engine) rescue(c *Conn) {
	if cause := recover(); cause != nil {
		e.report(cause)
		c.Cut()
	}
}

// report counts and logs a handler's panic.
func (e *Engine) report(cause any) {
	e.panics.Add(1)
	e.config.Log.Error("connection handler panicked", zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
}
