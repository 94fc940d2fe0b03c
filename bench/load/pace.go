package load

import (
	"context"
	"time"
)

// pace calls send for events events, rate of them a second and evenly, or as fast as
// send returns if rate is 0. What send is late it makes up for, so the rate holds on
// average.
func pace(ctx context.Context, events int, rate float64, send func() error) error {
	start := time.Now()
	for i := range events {
		if rate > 0 {
			due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-ctx.Done():
				}
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := send(); err != nil {
			return err
		}
	}
	return nil
}
