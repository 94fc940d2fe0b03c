package local

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
)

const (
	natsStartTimeout = 10 * time.Second

	// What a server for Canopy needs; deployments/nats/nats.conf has the same.
	natsPingInterval = 10 * time.Second
	natsMaxPingsOut  = 2
	natsMaxPending   = 256 << 20
	natsMaxPayload   = 8 << 20
	natsSyncInterval = 10 * time.Second

	// The server would refuse streams whose bounds exceed three quarters of the free disk.
	// Here those bounds are a limit, not a plan.
	natsMaxStore = 64 << 30
)

// runNATS serves NATS with JetStream at addr, its data in dir, until ctx ends. ready gets
// the address that was bound.
func runNATS(ctx context.Context, addr, dir string, log *zap.Logger, ready func(addr string)) error {
	host, port, err := splitAddr(addr)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	srv, err := server.NewServer(&server.Options{
		ServerName:        "canopy-local",
		Host:              host,
		Port:              port,
		JetStream:         true,
		StoreDir:          dir,
		JetStreamMaxStore: natsMaxStore,
		NoSigs:            true,
		PingInterval:      natsPingInterval,
		MaxPingsOut:       natsMaxPingsOut,
		MaxPending:        natsMaxPending,
		MaxPayload:        natsMaxPayload,
		SyncInterval:      natsSyncInterval,
	})
	if err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	serverLog := &natsLog{log: log.Sugar(), fatal: make(chan error, 1)}
	srv.SetLoggerV2(serverLog, false, false, false)
	srv.Start()
	defer func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	select {
	case err := <-serverLog.fatal:
		return err
	default:
	}
	if !srv.ReadyForConnections(natsStartTimeout) {
		return fmt.Errorf("not ready after %v", natsStartTimeout)
	}
	ready(srv.Addr().String())
	select {
	case <-ctx.Done():
		return nil
	case err := <-serverLog.fatal:
		return err
	}
}

// natsLog is the server's logger. The server goes on after Fatalf as if the process had
// ended, so the first such error is kept for runNATS.
type natsLog struct {
	log   *zap.SugaredLogger
	fatal chan error
}

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }
func (l *natsLog) Debugf(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l *natsLog) Tracef(format string, v ...any)  { l.log.Debugf(format, v...) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Warnf(format, v...) }
func (l *natsLog) Errorf(format string, v ...any)  { l.log.Errorf(format, v...) }

func (l *natsLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Errorf(format, v...):
	default:
	}
}
