//go:build linux

package usage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel is what the kernel says about memory and sockets of the whole machine. Whatever
// else runs there is in it, so only what changes tells something.
type Kernel struct {
	Available   int64 // bytes that programs may still take
	Slab        int64 // bytes of the kernel's objects
	PageTables  int64 // bytes
	Stacks      int64 // bytes of the kernel's stacks of threads
	TCPSockets  int64 // that have a connection
	TCPMemory   int64 // bytes that wait in buffers of TCP sockets
	Descriptors int64 // open files of all processes

	// Caches are the kernel's objects by their kind, in bytes; nil if only root may know.
	Caches map[string]int64
}

// ReadKernel reads the state of this moment. With caches it takes some milliseconds.
func ReadKernel(caches bool) (Kernel, error) {
	var k Kernel
	err := errors.Join(k.readMemory(), k.readSockets(), k.readDescriptors())
	if err == nil && caches {
		err = k.readCaches()
	}
	return k, err
}

func (k *Kernel) readMemory() error {
	fields := map[string]*int64{"MemAvailable:": &k.Available, "Slab:": &k.Slab, "PageTables:": &k.PageTables, "KernelStack:": &k.Stacks}
	found := 0
	err := lines("/proc/meminfo", func(words []string) error {
		field := fields[words[0]]
		if field == nil || len(words) < 2 {
			return nil
		}
		kib, err := strconv.ParseInt(words[1], 10, 64)
		*field = kib << 10
		found++
		return err
	})
	if err == nil && found < len(fields) {
		err = fmt.Errorf("read /proc/meminfo: found %d of %d fields", found, len(fields))
	}
	return err
}

func (k *Kernel) readSockets() error {
	found := false
	err := lines("/proc/net/sockstat", func(words []string) (err error) {
		if words[0] != "TCP:" {
			return nil
		}
		found = true
		for i := 1; i+1 < len(words) && err == nil; i += 2 {
			switch words[i] {
			case "inuse":
				k.TCPSockets, err = strconv.ParseInt(words[i+1], 10, 64)
			case "mem":
				k.TCPMemory, err = strconv.ParseInt(words[i+1], 10, 64)
				k.TCPMemory *= int64(os.Getpagesize())
			}
		}
		return err
	})
	if err == nil && !found {
		err = errors.New("read /proc/net/sockstat: found no line about TCP")
	}
	return err
}

func (k *Kernel) readDescriptors() (err error) {
	numbers, err := Numbers("/proc/sys/fs/file-nr")
	if err == nil {
		k.Descriptors = numbers[0]
	}
	return err
}

// readCaches counts the bytes of whole slabs, not only those of objects in use.
func (k *Kernel) readCaches() error {
	k.Caches = map[string]int64{}
	err := lines("/proc/slabinfo", func(words []string) error {
		// name, objects in use, objects, bytes of one, objects per slab, pages per slab,
		// then settings, and then behind "slabdata" the slabs in use and all slabs.
		if len(words) < 15 || words[12] != "slabdata" {
			return nil
		}
		pages, err := strconv.ParseInt(words[5], 10, 64)
		if err != nil {
			return err
		}
		slabs, err := strconv.ParseInt(words[14], 10, 64)
		k.Caches[words[0]] = slabs * pages * int64(os.Getpagesize())
		return err
	})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		k.Caches, err = nil, nil
	}
	return err
}

// Numbers are the numbers that a file of the kernel's settings holds, one at least.
func Numbers(file string) (numbers []int64, err error) {
	err = lines(file, func(words []string) error {
		for _, word := range words {
			n, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				return err
			}
			numbers = append(numbers, n)
		}
		return nil
	})
	if err == nil && len(numbers) == 0 {
		err = fmt.Errorf("read %s: it is empty", file)
	}
	return numbers, err
}

// Descriptors is how many descriptors each process of this user may have.
func Descriptors() (int64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read limit of descriptors: %w", err)
	}
	return int64(min(limit.Max, 1<<40)), nil
}

// lines gives the words of each line of file that has some to take.
func lines(file string, take func(words []string) error) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	if err := each(f, take); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

func each(r io.Reader, take func(words []string) error) error {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		if words := strings.Fields(scanner.Text()); len(words) > 0 {
			if err := take(words); err != nil {
				return err
			}
		}
	}
	return scanner.Err()
}
