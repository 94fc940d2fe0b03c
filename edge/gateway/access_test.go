package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAnAddressThatAsksForNamesInVainIsHeldBackAndNobodyElse(t *testing.T) {
	d := startCloud(t)
	s := startEdge(t, d.use(time.Minute, time.Minute))
	if status, body := s.open("/open-app"); status != 101 {
		t.Fatalf("an application that everybody may read: %d %s", status, body)
	}
	start, held := time.Now(), 0
	const names = 3 * vainBurst
	for n := range names {
		switch status, body := s.open(fmt.Sprintf("/made-up-%d", n)); status {
		case 404:
		case 429:
			held++
			if want := `{"error":"TooManyRequests","message":"Too many requests for applications that you may not read"}`; body != want {
				t.Fatalf("got %s, want %s", body, want)
			}
		default:
			t.Fatalf("a made-up name: %d %s", status, body)
		}
	}
	passed, most := names-held, vainBurst+int(time.Since(start)/vainInterval)+1
	if held == 0 || passed < vainBurst || passed > most {
		t.Errorf("%d of %d names were answered, want %d to %d", passed, names, vainBurst, most)
	}
	d.mu.Lock()
	asked := 0
	for question, times := range d.asked {
		if strings.Contains(question, "made-up-") {
			asked += times
		}
	}
	d.mu.Unlock()
	if asked != passed {
		t.Errorf("Drogue was asked %d times for %d answers", asked, passed)
	}
	if status, body := s.open("/made-up-0"); status != 404 {
		t.Errorf("a name that is known to be none: %d %s", status, body)
	}
	if status, body := s.open("/open-app"); status != 101 {
		t.Errorf("an application that is known: %d %s", status, body)
	}
	if status, body := s.open("/secret-app", "Authorization: "+drogueBasic); status != 101 {
		t.Errorf("a user from the same address: %d %s", status, body)
	}
}
