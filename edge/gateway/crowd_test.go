package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"
)

// The crowd is a process of its own, this test binary once more: a process has 20,000
// descriptors in many places, and ten thousand sockets have two ends.
const (
	crowdURL  = "CANOPY_TEST_CROWD_URL"  // set: be a crowd that dials this
	crowdSize = "CANOPY_TEST_CROWD_SIZE" // how many sockets
	crowdAuth = "CANOPY_TEST_CROWD_AUTH" // value of the Authorization header
	crowdSays = "CANOPY_TEST_CROWD_SAYS" // what each socket sends once it is told to
)

// closings is what a crowd saw: how many sockets ended in each way, and when.
type closings struct {
	Ends        map[string]int
	First, Last time.Time
}

// crowd holds many sockets.
type crowd struct {
	t   *testing.T
	out *bufio.Reader
	in  io.WriteCloser
	cmd *exec.Cmd
}

// gather opens n sockets to path and returns when all are open. {n} in path is a number of
// each socket's own.
func (s *stack) gather(path, authorization string, n int) *crowd {
	s.t.Helper()
	return s.gatherSaying(path, authorization, n, "")
}

// gatherSaying is gather for a crowd that has something to say.
func (s *stack) gatherSaying(path, authorization string, n int, says string) *crowd {
	s.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crowdURL+"=ws://"+s.http+path, crowdSize+"="+strconv.Itoa(n), crowdAuth+"="+authorization, crowdSays+"="+says)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	c := &crowd{t: s.t, out: bufio.NewReader(out), in: in, cmd: cmd}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, or gone with an error that was told
	})
	if line, err := c.out.ReadString('\n'); line != "open\n" {
		s.t.Fatalf("the crowd says %q, %v", line, err)
	}
	return c
}

// speak has all sockets send what they have to say, and returns how long that took.
func (c *crowd) speak() time.Duration {
	c.t.Helper()
	start := time.Now()
	if _, err := io.WriteString(c.in, "speak\n"); err != nil {
		c.t.Fatal(err)
	}
	if line, err := c.out.ReadString('\n'); line != "said\n" {
		c.t.Fatalf("the crowd says %q, %v", line, err)
	}
	return time.Since(start)
}

// ended waits until all sockets of the crowd are closed.
func (c *crowd) ended() closings {
	c.t.Helper()
	var saw closings
	if err := json.NewDecoder(c.out).Decode(&saw); err != nil {
		c.t.Fatalf("the crowd ended: %v", err)
	}
	return saw
}

// beCrowd opens the sockets, says so, and tells how they ended.
func beCrowd() error {
	n, err := strconv.Atoi(os.Getenv(crowdSize))
	if err != nil {
		return err
	}
	header := http.Header{}
	if value := os.Getenv(crowdAuth); value != "" {
		header.Set("Authorization", value)
	}
	sockets := make([]*websocket.Conn, n)
	var dialing errgroup.Group
	dialing.SetLimit(32)
	for i := range sockets {
		dialing.Go(func() (err error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			sockets[i], _, err = websocket.Dial(ctx, strings.ReplaceAll(os.Getenv(crowdURL), "{n}", strconv.Itoa(i)), &websocket.DialOptions{HTTPHeader: header})
			return err
		})
	}
	if err := dialing.Wait(); err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, "open\n"); err != nil {
		return err
	}
	if says := os.Getenv(crowdSays); says != "" {
		if err := speak(sockets, []byte(says)); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	saw := closings{Ends: make(map[string]int)}
	var reading sync.WaitGroup
	for _, socket := range sockets {
		reading.Go(func() {
			_, _, err := socket.Read(context.Background())
			at := time.Now()
			end := fmt.Sprint("no close frame: ", err)
			if closed := (websocket.CloseError{}); errors.As(err, &closed) {
				end = fmt.Sprintf("%d %s", closed.Code, closed.Reason)
			}
			mu.Lock()
			defer mu.Unlock()
			saw.Ends[end]++
			if saw.First.IsZero() {
				saw.First = at
			}
			saw.Last = at
		})
	}
	reading.Wait()
	return json.NewEncoder(os.Stdout).Encode(saw)
}

// speak has all sockets send a message once standard input has a line, and says so.
func speak(sockets []*websocket.Conn, message []byte) error {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	var speaking errgroup.Group
	speaking.SetLimit(32)
	for _, socket := range sockets {
		speaking.Go(func() error { return socket.Write(context.Background(), websocket.MessageText, message) })
	}
	if err := speaking.Wait(); err != nil {
		return err
	}
	_, err := io.WriteString(os.Stdout, "said\n")
	return err
}
