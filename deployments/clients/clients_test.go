package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const patience = 30 * time.Second

func TestEventsAreFoundOnOneLineAndOverSeveralBehindAPromptAndBetweenOtherText(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const printed = "connected\n< {\"id\":\"1\",\"cursor\":\"c\"}\n\n{\n  \"id\": \"2\",\n  \"data\": {\n    \"a\": \"}\"\n  }\n}\nbye\n"
	s, err := start(exec.CommandContext(ctx, "printf", "%s", printed))
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	for _, want := range []event{{ID: "1", Cursor: "c"}, {ID: "2"}} {
		if e, err := s.next(ctx); err != nil || e != want {
			t.Fatalf("got %+v, %v, want %+v", e, err, want)
		}
	}
	if _, err := s.next(ctx); !errors.Is(err, errClean) || s.report.text() != "connected bye" {
		t.Errorf("ended with %v, said %q", err, s.report.text())
	}
}

func TestAClientThatDoesNotWantToEndIsEndedWithWhatItStarted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := start(exec.CommandContext(ctx, "sh", "-c", `trap "" TERM; echo '{"id":"1"}'; sleep 1000 & wait; wait`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.next(ctx); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if s.err == nil {
		t.Error("it ended by itself")
	}
}

func TestEventsInTurnAreCountedAroundTheLastOneAndNotOverAGap(t *testing.T) {
	for _, c := range []struct {
		owner  map[int]int
		number int
		want   int
	}{
		{map[int]int{5: 0}, 5, 1},
		{map[int]int{1: 0, 2: 1, 3: 0, 4: 1}, 4, 4},
		{map[int]int{1: 0, 2: 1, 3: 0, 4: 1}, 2, 4},
		{map[int]int{1: 0, 2: 1, 4: 1, 5: 0}, 5, 2},
		{map[int]int{1: 0, 2: 0, 3: 1, 4: 0}, 4, 3},
	} {
		if got := inTurn(c.owner, c.number); got != c.want {
			t.Errorf("%v around %d: %d, want %d", c.owner, c.number, got, c.want)
		}
	}
}

func TestAClientThatIsAbsentCountsAsFailureInEveryCaseThatItHasAWayToDo(t *testing.T) {
	var out bytes.Buffer
	failed := printTable(&out, []row{
		{client: client{name: "whole"}, errs: make([]error, len(cases))},
		{client: client{name: "gone", cannot: map[string]string{"group": "it is alone"}}, absent: errors.New("no cargo"), errs: make([]error, len(cases))},
	})
	if failed != len(cases)-1 {
		t.Errorf("%d failures, want %d", failed, len(cases)-1)
	}
	for _, want := range []string{"absent", "gone is absent: no cargo", "gone, group: it is alone", "10 passed, 9 failed\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}

func TestWhatAClientCannotDoIsACaseAndWhatItNeedsIsAPart(t *testing.T) {
	for _, c := range clients {
		for name := range c.cannot {
			if !slices.ContainsFunc(cases, func(c testCase) bool { return c.name == name }) {
				t.Errorf("%s cannot do %q, which is no case", c.name, name)
			}
		}
		for _, name := range c.needs {
			if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
				t.Errorf("%s needs %q, which is no part", c.name, name)
			}
		}
	}
}

func TestTheTableNamesTheVersionsThatArePinned(t *testing.T) {
	for _, c := range clients {
		name, version, ok := strings.Cut(c.version, " ")
		if !ok {
			name, version = c.name, c.version
		}
		for _, pin := range []struct{ name, file, text string }{
			{"wscat", npmFiles + "package.json", `"wscat": "%s"`},
			{"websockets", pythonExample + "/requirements.txt", "websockets==%s\n"},
			{"tungstenite", rustExample + "/Cargo.lock", "name = \"tungstenite\"\nversion = \"%s.0\""},
		} {
			if name != pin.name {
				continue
			}
			text, err := os.ReadFile(filepath.Join("../..", pin.file))
			if want := fmt.Sprintf(pin.text, version); err != nil || !strings.Contains(string(text), want) {
				t.Errorf("%s does not pin %q: %v", pin.file, want, err)
			}
		}
	}
}

func TestAPartIsInstalledAnewOnlyForAnotherVersionAndAfterAFailure(t *testing.T) {
	t.Chdir(t.TempDir())
	version, steps := "1", [][]string{{"sh", "-c", "echo >> ../count; echo trouble; false"}}
	try := func() error {
		return part{name: "p", is: func() (string, error) { return version, nil }, steps: steps}.install(t.Context())
	}
	count := func() int {
		text, err := os.ReadFile(filepath.Join(cache, "count"))
		if err != nil {
			t.Fatal(err)
		}
		return len(text)
	}
	steps[0] = append(steps[0], "{}")
	steps[0][2] = strings.Replace(steps[0][2], "../count", `"$0/../count"`, 1)
	if err := try(); err == nil || !strings.Contains(err.Error(), "trouble") {
		t.Errorf("a failure was reported as %v", err)
	}
	steps[0][2] = strings.TrimSuffix(steps[0][2], "; false")
	for _, step := range []struct {
		version string
		want    int
	}{{"1", 2}, {"1", 2}, {"2", 3}} {
		version = step.version
		if err := try(); err != nil || count() != step.want {
			t.Errorf("version %s: installed %d times, %v, want %d", version, count(), err, step.want)
		}
	}
}

func TestARelayCutsWhatIsOpenAndGoesOn(t *testing.T) {
	edge, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = edge.Close() }()
	go func() {
		for {
			conn, err := edge.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	r, err := newRelay(edge.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for n := 1; n <= 2; n++ {
		conn, err := net.Dial("tcp", r.addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if cut := r.cut(); cut != 1 || r.connections() != n {
			t.Errorf("cut %d of %d connections", cut, r.connections())
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the cut a read gives %v", err)
		}
		_ = conn.Close()
	}
}
