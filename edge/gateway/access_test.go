package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// All questions that strangers may have under way are about these, and stay unanswered. On a
// busy machine they may have ended before one more is asked, so that it takes another try.
func TestWhoFindsNoRoomForAQuestionGets503AndNot500(t *testing.T) {
	const room, tries = 16, 3
	for name, path := range map[string]string{
		"who it is":        "/open-app?api_key=" + drogueKey + "&username=",
		"what he may read": "/",
	} {
		t.Run(name, func(t *testing.T) {
			d := startCloud(t)
			s := startEdge(t, d.use(time.Minute, time.Minute))
			var answer *http.Response
			var body string
			for try := 0; try < tries && (answer == nil || answer.StatusCode != 503); try++ {
				d.set(func(d *cloud) { d.slow, d.held = "unanswered-", 0 })
				var waiting sync.WaitGroup
				for n := range room {
					waiting.Go(func() {
						if status, body := s.open(fmt.Sprintf("%sunanswered-%d-%d", path, try, n)); status != 500 {
							t.Errorf("a question without an answer: %d %s, want 500", status, body)
						}
					})
				}
				s.await("the questions", func() bool {
					d.mu.Lock()
					defer d.mu.Unlock()
					return d.held >= room
				})
				answer, body = s.ask(http.MethodGet, path+url.PathEscape(fmt.Sprint("one more ", try)), nil)
				waiting.Wait()
				d.set(func(d *cloud) { d.slow = "" })
				s.await("an answer", func() bool {
					status, _ := s.open("/open-app?username=alice&api_key=" + drogueKey)
					return status == 101
				})
			}
			want := `{"error":"Unavailable","message":"Too many clients are asked about"}`
			if retry := answer.Header.Get("Retry-After"); answer.StatusCode != 503 || retry != "5" || body != want {
				t.Errorf("got %s, Retry-After %q, %s; want 503 with 5, %s", answer.Status, retry, body, want)
			}
			if n := s.metric(`canopy_edge_over_limit_total{limit="questions"}`); n != 1 {
				t.Errorf("%v refusals are counted, want 1", n)
			}
		})
	}
}

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
