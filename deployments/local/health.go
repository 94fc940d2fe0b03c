package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"canopy/shared/config"
	"canopy/shared/obs"
)

const (
	healthPart = "health"

	checkTimeout = 2 * time.Second

	// Behind a broker that is away the first reading is given up after deliveryTimeout.
	sensorSilence = deliveryTimeout + 5*time.Second
)

// serveHealth starts the process's own health server, if it has an address, before all
// parts, so that it answers for as long as one of them runs.
func (s *stack) serveHealth(ctx context.Context) error {
	if s.cfg.HealthAddr == "" {
		return nil
	}
	log := s.log.Named(healthPart)
	s.health = obs.NewHealth(config.Health{BindAddr: s.cfg.HealthAddr}, obs.NewRegistry(), log)
	if err := s.health.Listen(); err != nil {
		return err
	}
	return s.crew.start(ctx, healthPart, func(ctx context.Context, ready func()) error {
		ready()
		return s.health.Run(ctx)
	})
}

// watch lets readiness depend on a part that has started. One that ends by itself ends the
// process, so only what can fail while it runs is asked for.
func (s *stack) watch(name string) {
	if s.health == nil {
		return
	}
	client := &http.Client{Timeout: checkTimeout}
	switch name {
	case Issuer:
		url := "http://" + s.at.IssuerAddr + "/.well-known/openid-configuration"
		s.health.AddCheck(name, func() error { return answers(client, url) })
	case Ingest:
		url := "http://" + s.at.IngestHealth + "/readiness"
		s.health.AddCheck(name, func() error { return answers(client, url) })
	case Edge:
		url := "http://" + s.at.Health + "/readiness"
		s.health.AddCheck(name, func() error { return answers(client, url) })
	case Sensors:
		s.health.AddCheck(name, s.sent.check)
	}
}

func answers(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", url, response.StatusCode)
	}
	return nil
}

// lately remembers when something happened last. Any goroutine may use it.
type lately struct{ at atomic.Int64 } // in Unix nanoseconds

func (l *lately) note(now time.Time) { l.at.Store(now.UnixNano()) }

func (l *lately) check() error {
	if at := l.at.Load(); at == 0 || time.Since(time.Unix(0, at)) > sensorSilence {
		return errors.New("no reading has reached Kafka lately")
	}
	return nil
}

// Ask asks the stack that runs in another process with the same settings how it is.
func (c Config) Ask(command obs.Ask, out io.Writer) error {
	if c.HealthAddr == "" {
		return errors.New("LOCAL__HEALTH_ADDR is not set: there is nobody to ask")
	}
	return command.Do(c.HealthAddr, out)
}
