package gateway

import (
	"io"
	"net/http"
	"strconv"
	"strings"
)

// metric reads one metric of the edge, whose name is given with its labels.
func (s *stack) metric(name string) float64 {
	s.t.Helper()
	v, ok := s.lookUp(name)
	if !ok {
		s.t.Fatalf("no metric %s", name)
	}
	return v
}

// metricOr0 is metric for one that begins to be when it is counted first.
func (s *stack) metricOr0(name string) float64 {
	s.t.Helper()
	v, _ := s.lookUp(name)
	return v
}

func (s *stack) lookUp(name string) (float64, bool) {
	s.t.Helper()
	answer, err := http.Get("http://" + s.admin + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return v, true
		}
	}
	return 0, false
}
