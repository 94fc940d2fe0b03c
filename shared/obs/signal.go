package obs

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"go.uber.org/zap"
)

// Signals gives the context of a daemon: the first SIGTERM or SIGINT ends it, so that the
// daemon drains, and a second one ends the process at once with status 1. It is called
// once, from main, and takes both signals for the rest of the process's life.
func Signals(log *zap.Logger) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan os.Signal, 2)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		log.Info("stopping", zap.Stringer("signal", <-got))
		cancel()
		log.Warn("ending at once", zap.Stringer("signal", <-got))
		os.Exit(1)
	}()
	return ctx
}
