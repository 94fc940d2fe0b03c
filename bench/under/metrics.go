//go:build linux

package under

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Metrics are the program's own figures by name, labels included as they are written, for
// example `canopy_edge_closed_total{code="1013"}`.
func (s *service) Metrics(ctx context.Context) (map[string]float64, error) {
	text, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return parseMetrics(text)
}

// parseMetrics reads Prometheus' text format, as far as there are no time stamps in it.
func parseMetrics(text []byte) (map[string]float64, error) {
	all := map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if space < 0 || err != nil {
			return nil, fmt.Errorf("read metrics: %q", line)
		}
		all[line[:space]] = value
	}
	return all, nil
}
