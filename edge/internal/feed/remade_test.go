package feed

import (
	"testing"

	"canopy/shared/natstest"
	"canopy/shared/subject"
)

func TestAFeedThatOpensKnowsThatItsStreamWasMadeAnew(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	old := h.Log(0)
	if err := js.DeleteStream(t.Context(), subject.Stream(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), natstest.StreamConfig(0, 1)); err != nil {
		t.Fatal(err)
	}
	log := fill(t, js, 5)
	if log == old {
		t.Fatal("the stream is the same")
	}
	s := attach(t, h, Filter{}, Since{}) // nothing has told the hub
	if h.Log(0) != log || s.Cursor().Log != log {
		t.Errorf("the stream is %x; the hub says %x, the socket's cursor %v", log, h.Log(0), s.Cursor())
	}
	fill(t, js, 3)
	expect(t, s, 6, 8, 1)
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told", n)
	}
}
