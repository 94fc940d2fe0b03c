package gateway

import (
	"strings"
	"testing"

	"github.com/coder/websocket"

	"canopy/shared/natstest"
)

func TestEdgeClosesItsSocketsAndEndsWhenTheNumberOfShardsChanges(t *testing.T) {
	s := startEdge(t, nil)
	c := s.dial("/open-app", nil)
	natstest.Streams(t, s.nats.Connect(), shards+1) // as ingest does with another INGEST__SHARDS
	if got := closedWith(t, c); got.Code != websocket.StatusGoingAway || !strings.HasPrefix(got.Reason, "edge is going away") {
		t.Errorf("closed with %v", got)
	}
	if err := s.stop(); err == nil || !strings.Contains(err.Error(), "the streams are 4 now, not 3") {
		t.Errorf("the edge ended with %v", err)
	}
	anew := s.another(nil) // waits until it is ready
	anew.dial("/open-app", nil)
}
