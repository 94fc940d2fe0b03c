package session

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"canopy/edge/internal/group"
)

func TestTheReadmeTellsClientsEveryReasonForWhichTheEdgeCloses(t *testing.T) {
	readme, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Closing{
		Drained, SlowConsumer, TokenExpired, AccessWithdrawn, RefreshRefused, RefreshFailed, UnknownMessage,
	} {
		reason, _, cut := strings.Cut(c.Reason, "Failed to refresh token: ")
		if cut {
			reason = "Failed to refresh token: …"
		}
		if c.Resume {
			reason += " since=…"
		}
		if row := fmt.Sprintf("\n| %d | `%s`", c.Code, reason); !strings.Contains(string(readme), row) {
			t.Errorf("README has no row %s", row)
		}
	}
}

func TestOnlyAClientThatFailedSaysSomethingAgainstItsEvents(t *testing.T) {
	for code, want := range map[uint16]group.Departure{
		1000: group.Gone, 1001: group.Gone, 1005: group.Gone, 1012: group.Gone, 1013: group.Gone,
		1009: group.TooBig,
		1002: group.Failed, 1003: group.Failed, 1007: group.Failed, 1011: group.Failed, 4000: group.Failed,
	} {
		if got := departure(code); got != want {
			t.Errorf("%d is %d, want %d", code, got, want)
		}
	}
}
