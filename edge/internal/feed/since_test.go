package feed

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestATimeThatNoStreamCanHoldIsTheNearestThatOneCan(t *testing.T) {
	begin := Since{kind: fromTime, at: earliestTime}
	for text, want := range map[string]Since{
		"9999-12-31T23:59:59-23:59":      {}, // in UTC the year 10000, which JSON cannot say
		"9999-12-31T23:59:59Z":           {},
		"2262-04-11T23:47:16.854775808Z": {}, // beyond 64 bits of nanoseconds
		"2262-04-11T23:47:16.854775807Z": {kind: fromTime, at: latestTime},
		"0000-01-01T00:00:00+23:59":      begin, // the year -1
		"0000-01-01T00:00:00Z":           begin,
		"0001-01-01T00:00:00Z":           begin,
		"1677-09-21T00:12:43Z":           begin,
		"1969-12-31T23:59:59.999999999Z": begin,
		"1970-01-01T00:00:00.000000001Z": {kind: fromTime, at: time.Unix(0, 1)},
	} {
		got, err := ParseSince(text)
		if err != nil || got.kind != want.kind || !got.at.Equal(want.at) {
			t.Errorf("%s: got %+v, error %v, want %+v", text, got, err, want)
		}
	}
}

func TestASinceThatIsNoneIsRefused(t *testing.T) {
	for _, text := range []string{
		"", "latest", "2026-02-29T00:00:00Z", "2026-01-01T00:00:60Z", "2026-01-01T24:00:00Z",
		"10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01",
		"ffffffffffffffff-18446744073709551616", "ffffffffffffffff-99999999999999999999", "FFFFFFFFFFFFFFFF-00000000000000000001",
		"+fffffffffffffff-00000000000000000001", "ffffffffffffffff--0000000000000000001",
		strings.Repeat("0", 10<<10), strings.Repeat("2026-01-01T00:00:00Z", 512), "2026-01-01T00:00:00." + strings.Repeat("1", 10<<10),
	} {
		_, err := ParseSince(text)
		if !errors.Is(err, ErrSince) || len(err.Error()) > 500 {
			t.Errorf("%.40q: error %.200v", text, err)
		}
	}
}
