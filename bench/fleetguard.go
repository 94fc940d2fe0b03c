//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"canopy/bench/report"
	"canopy/bench/usage"
)

const (
	// leastAvailable is the memory at which the fleet stops itself, before the kernel stops
	// somebody else.
	leastAvailable = 3 << 29

	guardStep = 200 * time.Millisecond

	// What a fleet needs at most, as smaller ones have shown: of both ends of a socket,
	// in the kernel and in the processes, and of an edge and its client process without
	// sockets.
	bytesPerSocket = 13 << 10
	bytesPerEdge   = 80 << 20

	// An event of up to a page waits at some of the sockets at a time: at how many depends
	// on how readers and writers share the cores.
	waitingShare = 0.3
)

// errMemory ends a fleet that takes too much.
var errMemory = errors.New("available memory fell under 1.5 GiB")

// peak is the most of something since it was reset.
type peak struct{ value atomic.Int64 }

func (p *peak) reset()      { p.value.Store(0) }
func (p *peak) most() int64 { return p.value.Load() }
func (p *peak) see(v int64) {
	for old := p.value.Load(); v > old && !p.value.CompareAndSwap(old, v); old = p.value.Load() {
	}
}

// guard ends the fleet if memory runs out. It returns what ends the guard.
func (f *fleet) guard(ctx context.Context) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(guardStep)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			k, err := f.kernel(false)
			if err != nil {
				f.cancel(fmt.Errorf("watch memory: %w", err))
				return
			}
			f.peak.see(k.TCPMemory)
			if k.Available < leastAvailable {
				if f.opened.Load() > 0 {
					f.last = f.lastSight()
				}
				f.cancel(fmt.Errorf("%s: %w, with %s sockets open and %s TCP sockets on the machine", f.during(), errMemory,
					report.Count(uint64(f.opened.Load())), report.Count(uint64(k.TCPSockets))))
				return
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}

// lacks are what the machine has too little of, each with what is there and what is needed.
func (o fleetOptions) lacks() (lacks []error, err error) {
	k, err := usage.ReadKernel(false)
	if err != nil {
		return nil, err
	}
	sockets, edges := int64(o.sockets), int64(o.edges())
	need := func(what string, have, want int64) {
		if have < want {
			lacks = append(lacks, fmt.Errorf("%s: %s, needed are %s", what, report.Count(uint64(max(0, have))), report.Count(uint64(want))))
		}
	}
	need("available memory in bytes (MemAvailable)", k.Available, leastAvailable+sockets*bytesPerSocket+edges*bytesPerEdge)
	descriptors, err := usage.Descriptors()
	if err != nil {
		return nil, err
	}
	need("descriptors of one process (ulimit -Hn; or make -fleet-per-edge smaller)", descriptors, min(sockets, int64(o.perEdge))+fleetMargin)
	for _, setting := range []struct {
		file, what string
		field      int // of the numbers in the file
		used, want int64
	}{
		{"/proc/sys/fs/file-max", "open files of the whole machine that are left (fs.file-max)", 0, k.Descriptors, 2*sockets + 200*edges},
		{"/proc/sys/net/ipv4/tcp_mem", "pages for TCP's buffers (the last of net.ipv4.tcp_mem)", 2, k.TCPMemory / int64(os.Getpagesize()), int64(waitingShare * float64(sockets))},
		{"/proc/sys/fs/epoll/max_user_watches", "sockets of one user that epoll watches (fs.epoll.max_user_watches)", 0, 0, 2*sockets + 200*edges},
		{"/proc/sys/kernel/threads-max", "threads (kernel.threads-max)", 0, 0, 80 * edges},
		{"/proc/sys/kernel/pid_max", "numbers of threads (kernel.pid_max)", 0, 0, 80 * edges},
	} {
		numbers, err := usage.Numbers(setting.file)
		if err != nil {
			return nil, err
		}
		need(setting.what, numbers[setting.field]-setting.used, setting.want)
	}
	ports, err := usage.Numbers("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return nil, err
	}
	// Each client process has eight addresses; a port that was in use rests for a minute.
	need("local ports of one client process, at eight addresses (net.ipv4.ip_local_port_range)", 8*(ports[1]-ports[0]+1), 2*int64(o.perEdge))
	return append(lacks, lacksTracking(sockets)...), nil
}

// lacksTracking is about a firewall that remembers connections, if there is one.
func lacksTracking(sockets int64) []error {
	count, err := usage.Numbers("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil || count[0] == 0 {
		return nil // nobody tracks: not even the connections of now
	}
	most, err := usage.Numbers("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil || most[0]-count[0] >= sockets+sockets/10 {
		return nil
	}
	return []error{fmt.Errorf("connections that the firewall tracks (net.netfilter.nf_conntrack_max): %s are left, needed are %s",
		report.Count(uint64(max(0, most[0]-count[0]))), report.Count(uint64(sockets+sockets/10)))}
}
