package publish

import (
	"testing"
	"time"

	"go.uber.org/zap"

	"canopy/shared/natstest"
)

func TestOrderAndCompletenessSurviveALostQuorum(t *testing.T) {
	c := natstest.StartCluster(t)
	s := newSite(t, c.URL(), 1, zap.NewNop())
	stop, sent := make(chan struct{}), make(chan int)
	src := newSource("a", 600)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				sent <- i
				return
			default:
			}
			s.Publish(src.message(0, i, 200))
			if i%20 == 19 {
				s.Flush()
			}
		}
	}()
	flows := func() {
		t.Helper()
		before := src.settled()
		eventually(t, 60*time.Second, "messages flow", func() bool { return src.settled() > before+1000 })
	}
	flows()
	leader := c.AwaitLeader(0, nil)
	var down []*natstest.Server
	for _, node := range c.Nodes {
		if node != leader && len(down) < 2 {
			node.Down()
			down = append(down, node)
		}
	}
	// What the two had acknowledged is settled soon; then nothing may be, for longer
	// than an attempt takes.
	restarts := s.restarts()
	eventually(t, 60*time.Second, "attempts fail", func() bool { return s.restarts() > restarts })
	before := src.settled()
	restarts = s.restarts()
	eventually(t, 60*time.Second, "attempts fail again", func() bool { return s.restarts() > restarts })
	if n := src.settled(); n != before {
		t.Errorf("%d were acknowledged without a quorum: the fault did not happen", n-before)
	}
	for _, node := range down {
		node.Up()
	}
	flows()
	close(stop)
	n := <-sent
	s.Flush()
	eventually(t, 60*time.Second, "all is stored", func() bool { return src.settled() == n })
	checkStream(t, s.js, 0, n, "a")
}

// restarts is how many attempts have been made again, for whatever reason.
func (s *site) restarts() (n float64) {
	for _, reason := range []string{reasonTimeout, reasonDisconnected, reasonNoResponders, reasonIncomplete, reasonError, reasonSend} {
		n += counterValue(s.metrics.restarts.WithLabelValues(reason))
	}
	return n
}
