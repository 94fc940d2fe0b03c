package load

import (
	"encoding/json"
	"testing"

	cloudevents "github.com/cloudevents/sdk-go/v2"
)

func TestEventsAreCloudEventsOfExactlyTheSizeAskedFor(t *testing.T) {
	for _, n := range []uint64{1, 99_999, 1 << 63} {
		for _, size := range []int{MinSize, 512, 4096} {
			b := AppendEvent([]byte("x"), n, 1_700_000_000_000_000_000, size)[1:]
			if len(b) != size {
				t.Errorf("event %d has %d bytes instead of %d", n, len(b), size)
			}
			var e cloudevents.Event
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatalf("%s: %v", b, err)
			}
			var data struct {
				N  uint64
				At int64
			}
			if err := e.DataAs(&data); err != nil || e.Validate() != nil || data.N != n || data.At != 1_700_000_000_000_000_000 {
				t.Errorf("data %+v: %v, %v", data, err, e.Validate())
			}
		}
	}
	if CheckSize(MinSize) != nil || CheckSize(MinSize-1) == nil {
		t.Error("CheckSize is wrong about the shortest event")
	}
}
