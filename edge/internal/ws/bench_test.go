package ws

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/lesismal/nbio"
)

// silent is the smallest owner.
type silent struct{ Conn }

func (*silent) OnMessage(bool, []byte)     {}
func (*silent) OnPing([]byte)              {}
func (*silent) OnPong([]byte)              {}
func (*silent) OnClose(uint16, string)     {}
func (*silent) OnViolation(uint16, string) {}
func (*silent) OnWritten(int)              {}
func (*silent) OnUnread(Unread)            {}
func (*silent) OnGone(error)               {}

func TestConnectionsStaySmall(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); n > 80 {
		t.Errorf("a Conn has %d bytes", n)
	}
}

// BenchmarkIdleSockets opens sockets, one Ping each, and reports the heap that each takes
// while it is idle, its nbio.Conn and its addresses included. Run it with -benchtime=1x.
func BenchmarkIdleSockets(b *testing.B) {
	for _, count := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("sockets=%d", count), func(b *testing.B) {
			s := serveSilent(b)
			fds := make([]int, 0, count)
			owners := make([]*silent, 0, count)
			for b.Loop() {
				before := heap()
				for range count {
					fds = append(fds, open(b, s.addr))
					owners = append(owners, <-s.news)
				}
				b.ReportMetric(float64(heap()-before)/float64(count), "heap-B/socket")
				for i, fd := range fds {
					owners[i].Cut()
					_ = syscall.Close(fd)
				}
				fds, owners = fds[:0], owners[:0]
			}
			b.ReportMetric(float64(unsafe.Sizeof(Conn{})), "Conn-B")
			b.ReportMetric(float64(unsafe.Sizeof(nbio.Conn{})), "nbioConn-B")
		})
	}
}

// silentServer is a server whose owners do nothing.
type silentServer struct {
	addr string
	news chan *silent
}

func serveSilent(b *testing.B) *silentServer {
	b.Helper()
	engine := NewEngine(Config{})
	if err := engine.Start(); err != nil {
		b.Fatal(err)
	}
	s := &silentServer{news: make(chan *silent, 1)}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, early, err := Accept(w, r, "", Offer{})
		if err != nil {
			return
		}
		owner := &silent{}
		if err := engine.Adopt(&owner.Conn, owner, conn, early); err == nil {
			s.news <- owner
		}
	}))
	b.Cleanup(func() { web.Close(); engine.Stop() })
	s.addr = web.Listener.Addr().String()
	return s
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// open is a client without a place on Go's heap: one handshake, one Ping.
func open(b *testing.B, addr string) (fd int) {
	b.Helper()
	fail := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	host, port, _ := strings.Cut(addr, ":")
	number, err := strconv.Atoi(port)
	fail(err)
	to := &syscall.SockaddrInet4{Port: number}
	copy(to.Addr[:], net.ParseIP(host).To4())
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	fail(err)
	fail(syscall.Connect(fd, to))
	_, err = syscall.Write(fd, append([]byte(handshake), frame(fin|byte(OpPing), "x")...))
	fail(err)
	_, err = syscall.Read(fd, make([]byte, 512))
	fail(err)
	return fd
}

func BenchmarkReadMessages(b *testing.B) {
	for _, size := range []int{16, 512, 16384} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			wire := frame(fin|byte(OpText), strings.Repeat("x", size))
			data := make([]byte, len(wire))
			var r reader
			var h silent
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				copy(data, wire)
				if _, open := r.step(data, DefaultMaxMessage, &h); !open {
					b.Fatal("violation")
				}
			}
		})
	}
}
