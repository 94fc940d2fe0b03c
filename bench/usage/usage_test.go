//go:build linux

package usage

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCPUIsWhatGetrusageSays(t *testing.T) {
	const spin = 50 * time.Millisecond
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	first, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	last := first
	for last-first < spin {
		if last, err = CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	rusage := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	if difference := rusage - (last - first); difference < -5*time.Millisecond || difference > 20*time.Millisecond {
		t.Errorf("getrusage says %v, CPU %v", rusage, last-first)
	}
}

func TestResidentGrowsWithMemoryInUse(t *testing.T) {
	const size = 64 << 20
	before, err := Resident(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	after, err := Resident(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after-before < size*9/10 {
		t.Errorf("%d bytes more after %d were mapped", after-before, size)
	}
}

func TestAProcessThatIsGoneHasNoUsage(t *testing.T) {
	const none = 1 << 22 // pids end below it
	if _, err := CPU(none); err == nil {
		t.Error("CPU knows it")
	}
	if _, err := Resident(none); err == nil {
		t.Error("Resident knows it")
	}
}

func TestTheKernelCountsSocketsAndMemoryAsTheyAreTaken(t *testing.T) {
	const pairs = 200
	before, err := ReadKernel(true)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for range pairs {
		for _, open := range []func() (net.Conn, error){
			func() (net.Conn, error) { return net.Dial("tcp4", l.Addr().String()) }, l.Accept,
		} {
			c, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
		}
	}
	after, err := ReadKernel(true)
	if err != nil {
		t.Fatal(err)
	}
	// Others on this machine close sockets meanwhile, but hardly all of these.
	if grown := after.TCPSockets - before.TCPSockets; grown < pairs && before.TCPSockets < 1000 {
		t.Errorf("%d TCP sockets more after %d were opened", grown, 2*pairs)
	}
	if after.Available < 1<<20 || after.Slab < 1<<20 || after.PageTables == 0 || after.Stacks == 0 || after.Descriptors < 2*pairs {
		t.Errorf("%+v", after)
	}
	if after.Caches != nil && after.Caches["TCP"] < 2*pairs*1024 {
		t.Errorf("%d bytes of TCP sockets", after.Caches["TCP"])
	}
}

func TestAFileWithoutNumbersIsAnError(t *testing.T) {
	name := filepath.Join(t.TempDir(), "setting")
	for text, fine := range map[string]bool{"4096\t131072 7\n": true, "": false, "\n": false, "many": false} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Numbers(name)
		if fine != (err == nil) || fine && !slices.Equal(got, []int64{4096, 131072, 7}) {
			t.Errorf("%q is read as %v, %v", text, got, err)
		}
	}
	if _, err := Numbers(name + "-none"); err == nil {
		t.Error("a file that is not there is read")
	}
}

func TestSharesAreOfUserSpaceAndOfTheKernel(t *testing.T) {
	user, system, err := Shares(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var sum int
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; sum++ { // in user space, but for the clock
		for i := range 100_000 {
			sum ^= i
		}
	}
	userAfter, systemAfter, err := Shares(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if spent := userAfter - user; spent < 50*time.Millisecond || systemAfter-system > spent {
		t.Errorf("%v in user space and %v in the kernel", spent, systemAfter-system)
	}
	if _, _, err := Shares(1 << 22); err == nil {
		t.Error("a process that is gone has shares")
	}
}
