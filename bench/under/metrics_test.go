//go:build linux

package under

import "testing"

func TestMetricsAreReadByNameAndLabels(t *testing.T) {
	got, err := parseMetrics([]byte("# HELP a Words with 1 number.\n# TYPE a gauge\na 1.5e+06\nb{code=\"1013\"} 7\n\n"))
	if err != nil || len(got) != 2 || got["a"] != 1.5e6 || got[`b{code="1013"}`] != 7 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a", "a x", "a 1 x"} {
		if got, err := parseMetrics([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
}
