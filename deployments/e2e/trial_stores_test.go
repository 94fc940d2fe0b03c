//go:build linux

package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fillDisks has nothing more of some nodes fit onto the disk, and starts them anew when there is
// room again.
func (r *trial) fillDisks(on []int) func() (string, bool) {
	r.t.Helper()
	r.awaitStreams()
	limit := func(bytes uint64) {
		for _, i := range on {
			pid := r.cluster.list[i].cmd.Process.Pid
			if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
				r.t.Fatalf("bound files: %v", err)
			}
		}
	}
	limit(0)
	acked, stored := r.load.acked.Load(), r.stored(on)
	return func() (string, bool) {
		acked, grown := r.load.acked.Load()-acked, r.stored(on)-stored
		limit(unix.RLIM_INFINITY)
		for _, i := range on {
			_ = r.cluster.list[i].kill()
			r.cluster.up(r.cluster.list[i])
		}
		return fmt.Sprintf("%d bytes were written while Kafka got %d records", grown, acked), grown <= 0 && acked > 0
	}
}

// stored is how many bytes some nodes have on disk.
func (r *trial) stored(on []int) (n int64) {
	for _, i := range on {
		for _, f := range r.blocks(r.cluster.list[i], "") {
			if info, err := os.Stat(f); err == nil { // it may be gone by now
				n += info.Size()
			}
		}
	}
	return n
}

// blocks are the files in which a node keeps messages: those of streams, and with "" all.
func (r *trial) blocks(n *node, of string) (list []string) {
	_ = filepath.WalkDir(n.store(), func(name string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".blk" && strings.Contains(name, of) {
			list = append(list, name)
		}
		return nil // files come and go
	})
	slices.Sort(list)
	return list
}

// putStoresBack gives some nodes the folders that they had some seconds ago.
func (r *trial) putStoresBack(on []int) func() (string, bool) {
	r.t.Helper()
	r.awaitStreams()
	copies := map[int]string{}
	each := func(do func(i int, n *node)) {
		for _, i := range on {
			do(i, r.cluster.list[i])
		}
	}
	each(func(_ int, n *node) { n.signal(syscall.SIGSTOP) })
	each(func(i int, n *node) {
		eventually(r.t, "the node is stopped", func() bool { return n.state() == "T" })
		copies[i] = filepath.Join(r.t.TempDir(), "copy")
		if err := os.CopyFS(copies[i], os.DirFS(n.store())); err != nil {
			r.t.Fatal(err)
		}
	})
	each(func(_ int, n *node) { n.signal(syscall.SIGCONT) })
	r.awaitStreams()
	old := r.sequences() // at least what the copies have
	r.flow(2 * trialRate)
	var newer int64
	longer := soon(func() bool { newer = r.sequences() - old; return old >= 0 && newer > 0 })
	end := r.damage(on, func(i int, n *node) int {
		if err := os.RemoveAll(n.store()); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Rename(copies[i], n.store()); err != nil {
			r.t.Fatal(err)
		}
		return 1
	})
	return func() (string, bool) {
		proof, held := end()
		return fmt.Sprintf("%s; at least %d events were newer than the copies", proof, newer), held && longer
	}
}

// truncateStores takes the last part of what some nodes have written.
func (r *trial) truncateStores(on []int) func() (string, bool) {
	r.t.Helper()
	return r.damage(on, func(_ int, n *node) (cut int) {
		for _, f := range r.blocks(n, "") {
			info, err := os.Stat(f)
			if err != nil || info.Size() == 0 {
				continue
			}
			if err := os.Truncate(f, info.Size()*3/4); err != nil {
				r.t.Fatal(err)
			}
			cut++
		}
		return cut
	})
}

// flipBits changes a bit in each file in which some nodes keep events.
func (r *trial) flipBits(on []int) func() (string, bool) {
	r.t.Helper()
	return r.damage(on, func(_ int, n *node) (flipped int) {
		for _, f := range r.blocks(n, "EVENTS_") {
			b, err := os.ReadFile(f)
			if err != nil {
				r.t.Fatal(err)
			}
			if len(b) == 0 {
				continue
			}
			b[r.random.IntN(len(b))] ^= 1 << r.random.IntN(8)
			if err := os.WriteFile(f, b, 0o600); err != nil {
				r.t.Fatal(err)
			}
			flipped++
		}
		return flipped
	})
}

// damage kills some nodes, does something to their stores and starts them again. Where streams
// end then says little: ingests go on as soon as there are leaders.
func (r *trial) damage(on []int, do func(i int, n *node) (files int)) func() (string, bool) {
	r.t.Helper()
	r.awaitStreams()
	before, changed := r.sequences(), 0
	for _, i := range on {
		if !r.cluster.list[i].kill() {
			r.t.FailNow()
		}
	}
	for _, i := range on {
		changed += do(i, r.cluster.list[i])
	}
	for _, i := range on {
		r.cluster.up(r.cluster.list[i])
	}
	var after int64
	back := soon(func() bool { after = r.sequences(); return after >= 0 })
	return func() (string, bool) {
		return fmt.Sprintf("%d files of %d nodes; the streams ended at %d in all, and then at %d", changed, len(on), before, after),
			changed > 0 && back
	}
}
