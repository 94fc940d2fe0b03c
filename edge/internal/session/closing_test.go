package session

import (
	"fmt"
	"os"
	"strings"
	"testing"
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
