//go:build linux

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"canopy/bench/report"
	"canopy/bench/under"
)

// run measures what o asks for and writes the report. A lost, repeated or reordered
// event is an error, and then nothing is written, except that a fleet that failed is
// reported as one.
func run(ctx context.Context, o options) (err error) {
	if o.edge == "" {
		if o.edge, err = build(ctx, "edge"); err != nil {
			return err
		}
	}
	if o.ingest == "" && (o.wants("3") || o.wants("5") || o.wants("8")) {
		if o.ingest, err = build(ctx, "ingest"); err != nil {
			return err
		}
	}
	rows, err := measure(ctx, o)
	if err != nil && len(rows) == 0 {
		return err
	}
	return errors.Join(err, write(ctx, o, rows))
}

// write writes the report.
func write(ctx context.Context, o options, rows []report.Row) error {
	r := report.Report{Command: command(), Facts: facts(ctx), Notes: notes(o), Rows: rows}
	if o.out == "-" {
		return r.Write(os.Stdout)
	}
	r.Prefix = strings.ToLower(strings.TrimSuffix(filepath.Base(o.out), filepath.Ext(o.out)))
	for name, picture := range r.Pictures() {
		if err := writeFile(filepath.Join(filepath.Dir(o.out), name), picture.Write); err != nil {
			return err
		}
	}
	return writeFile(o.out, r.Write)
}

func measure(ctx context.Context, o options) (rows []report.Row, err error) {
	if o.wants(fleetRow) {
		if rows, err = rowEleven(ctx, o); err != nil {
			return rows, fmt.Errorf("row %s: %w", fleetRow, err)
		}
		return rows, nil
	}
	if o.wants(curvesRow) {
		return rowCurves(ctx, o)
	}
	if o.wants("1") || o.wants("2") || o.wants("4") {
		if rows, err = compare(ctx, o); err != nil {
			return nil, err
		}
	}
	if o.wants("3") || o.wants("8") {
		both, err := rowsThreeAndEight(ctx, o)
		if err != nil {
			return nil, err
		}
		rows = append(rows, both...)
	}
	for _, one := range []struct {
		name string
		run  func(context.Context, options) (report.Row, error)
	}{
		{"5", rowFive}, {"6", rowSix}, {"7", rowSeven}, {"9", rowNine}, {"10", rowTen}, {"12", rowTwelve},
	} {
		if !o.wants(one.name) {
			continue
		}
		row, err := one.run(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", one.name, err)
		}
		rows = append(rows, row)
	}
	for _, name := range []string{crowdMembers, crowdGroups} {
		if !o.wants(name) {
			continue
		}
		row, err := rowCrowd(ctx, o, name)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", name, err)
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b report.Row) int { return cmp.Compare(a.Number(), b.Number()) })
	return rows, nil
}

// compare measures the rows in which the edge stands beside the floor.
func compare(ctx context.Context, o options) (rows []report.Row, err error) {
	s := &stage{opts: o}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	var before under.Memory
	if s.opts.wants("4") {
		if before, err = s.edge.Memory(ctx); err != nil {
			return nil, err
		}
	}
	edgeCrew, err := s.openSockets(s.edge.URL(), o.sockets)
	if err != nil {
		return nil, err
	}
	var memory *report.Row
	if s.opts.wants("4") {
		after, err := s.edge.Memory(ctx)
		if err != nil {
			return nil, err
		}
		progress("row 4: Canopy: %s bytes per socket", report.Count(uint64(max(0, after.Resident-before.Resident))/uint64(o.sockets)))
		peers, err := s.peerMemory(ctx)
		if err != nil {
			return nil, err
		}
		row := rowFour(s.opts, before, after, peers)
		memory = &row
	}
	if s.opts.wants("1") || s.opts.wants("2") {
		floorCrew, err := s.openFloor()
		if err != nil {
			return nil, err
		}
		all := s.contestants(edgeCrew, floorCrew)
		if err := warm(ctx, all); err != nil {
			return nil, err
		}
		for _, row := range []struct {
			name string
			run  func(context.Context, options, []*contestant) (report.Row, error)
		}{{"1", rowOne}, {"2", rowTwo}} {
			if !s.opts.wants(row.name) {
				continue
			}
			r, err := row.run(ctx, s.opts, all)
			if err != nil {
				return nil, err
			}
			rows = append(rows, r)
		}
	}
	if memory != nil {
		rows = append(rows, *memory)
	}
	return rows, nil
}

func writeFile(name string, write func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make results file: %w", err)
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return err
	}
	progress("results are in %s", name)
	return nil
}

func command() string {
	return strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " ")
}

func notes(o options) []string {
	if o.wants(fleetRow) {
		return fleetNotes
	}
	all := []string{
		"Servers, NATS and clients share the machine's cores, so absolute figures say little; " +
			"a ratio compares two servers in the same run, round by round, by turns. " +
			fmt.Sprintf("Each figure is the median of %s, with the smallest and the largest. ", plural(o.rounds, "round")) +
			"Figures without a spread were measured once.",
		"A delivery is one event at one socket. p50 and p99 are what half of the deliveries, and 99 of 100, do not exceed. " +
			"In the pictures a bar is as long as the median, and the line across it goes from the smallest to the largest value.",
		"Every socket that does not stall on purpose is read to the end by the same client, which checks that each one gets every event once and in order: " +
			"a run in which that is not so fails and writes no results.",
	}
	if o.wants(curvesRow) {
		all = append(all, curvesNote)
	}
	if o.wants("1") || o.wants("2") || o.wants("10") {
		all = append(all, "The floor is a bare loop that calls write once for each event and socket, with a frame as long as Canopy's that was made before. "+
			"It knows no applications, no NATS and no slow clients. Neither server sends pings here.")
	}
	return all
}

// facts are what a reader needs to know about where and when.
func facts(ctx context.Context) []report.Fact {
	var name unix.Utsname
	_ = unix.Uname(&name) // the kernel is then empty
	return []report.Fact{
		{Name: "date", Value: time.Now().UTC().Format("2006-01-02 15:04 MST")},
		{Name: "commit", Value: commit(ctx)},
		{Name: "machine", Value: fmt.Sprintf("%s, %s, %s of memory", cpuModel(), plural(runtime.NumCPU(), "core"), memory())},
		{Name: "system", Value: fmt.Sprintf("%s %s, %s, %s", runtime.GOOS, unix.ByteSliceToString(name.Release[:]), runtime.GOARCH, runtime.Version())},
	}
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	text := strings.TrimSpace(string(out))
	if changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "*.go", "go.mod").Output(); err != nil || len(changed) > 0 {
		text += " with changes"
	}
	return text
}

func cpuModel() string {
	if model := procField("/proc/cpuinfo", "model name"); model != "" {
		return model
	}
	return "unknown processor"
}

func memory() string {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "unknown amount"
	}
	return fmt.Sprintf("%.1f GiB", float64(info.Totalram)*float64(info.Unit)/(1<<30))
}

// procField is the value behind the first line of file that begins with name.
func procField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // it was only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
