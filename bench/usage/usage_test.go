//go:build linux

package usage

import (
	"os"
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
