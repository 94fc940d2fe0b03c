//go:build linux

// Package usage tells what other processes on this machine use.
package usage

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time, user and system, that process pid has used since its
// start, in nanoseconds and with the threads that have ended. It is the sum that
// getrusage gives to the process itself, but finer.
func CPU(pid int) (time.Duration, error) {
	const schedulerClock = 2 // CPUCLOCK_SCHED; the clock's number is made as clock_getcpuclockid(3) makes it
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &t); err != nil {
		return 0, fmt.Errorf("read processor time of %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// Resident is the resident memory of process pid in bytes.
func Resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of %d: %w", pid, err)
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory of %d: %q", pid, b)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory of %d: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// Shares are the processor time that process pid has used since its start, in user space
// and in the kernel, in steps of 10 ms.
func Shares(pid int) (user, system time.Duration, err error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere that Go runs on
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read processor time of %d: %w", pid, err)
	}
	// The name, in brackets, may hold anything; utime and stime are fields 14 and 15.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("read processor time of %d: %q", pid, b)
	}
	for i, share := range []*time.Duration{&user, &system} {
		ticks, err := strconv.ParseInt(string(fields[11+i]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read processor time of %d: %w", pid, err)
		}
		*share = time.Duration(ticks) * tick
	}
	return user, system, nil
}
