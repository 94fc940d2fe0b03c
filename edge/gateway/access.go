package gateway

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/drogue"
	"canopy/edge/internal/session"
)

// source knows the API keys and who may read what: the applications file, or Drogue's
// services.
type source interface {
	authn.KeyVerifier
	session.Authorizer
	// Run keeps the answers up to date until ctx ends.
	Run(ctx context.Context) error
}

// openAccess makes the source of access that the configuration names.
func (e *edge) openAccess(reg prometheus.Registerer) error {
	if e.cfg.UserAuth.URL == "" {
		file, err := authz.OpenFile(e.cfg.Edge.ApplicationsFile, e.log, reg)
		e.access = file
		return err
	}
	services, err := drogue.New(e.cfg, e.log, reg)
	if err != nil {
		return err
	}
	for name, check := range services.Checks() {
		e.health.AddCheck(name, check)
	}
	e.access = services
	return nil
}
