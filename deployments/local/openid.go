package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"canopy/deployments/local/issuer"
)

const (
	issuerTimeout = 10 * time.Second
	issuerGrace   = 500 * time.Millisecond
)

// users are those of the OpenID issuer, with their secrets.
var users = map[string]string{"alice": "alice", "bob": "bob"}

// runIssuer serves the OpenID issuer at addr until ctx ends. name is its URL, "" means
// the address; its key lies in keyFile. ready gets the URL and the address.
func runIssuer(ctx context.Context, addr, name, keyFile string, log *zap.Logger, ready func(name, addr string)) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = ln.Close() }() // a second close, after Shutdown, does no harm
	bound := ln.Addr().String()
	if name == "" {
		name = "http://" + bound
	}
	key, err := issuer.KeyFile(keyFile)
	if err != nil {
		return err
	}
	i, err := issuer.New(issuer.Config{URL: name, Audience: clientID, Users: users, Key: key})
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           i.Handler(),
		ReadHeaderTimeout: issuerTimeout,
		ReadTimeout:       issuerTimeout,
		WriteTimeout:      issuerTimeout,
		ErrorLog:          zap.NewStdLog(log),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	ready(name, bound)
	select {
	case err := <-done:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), issuerGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close() // a slow client does not keep the stack
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
