//go:build linux

package under

import (
	"context"
	"strings"
)

// Ingest is a running canopy-ingest.
type Ingest struct{ *service }

// IngestConfig says which ingest is started.
type IngestConfig struct {
	Program string   // path of canopy-ingest
	Kafka   []string // brokers
	NATS    string   // URL
	Topics  []string
	Dir     string // a folder for its log
	Env     []string
}

// StartIngest starts an ingest and returns when it is ready. Its log is ingest.log in
// cfg.Dir.
func StartIngest(ctx context.Context, cfg IngestConfig) (*Ingest, error) {
	addrs, err := freeAddrs(1)
	if err != nil {
		return nil, err
	}
	s, err := startService(ctx, "ingest", cfg.Program, cfg.Dir, addrs[0], append([]string{
		"KAFKA__BOOTSTRAP_SERVERS=" + strings.Join(cfg.Kafka, ","), "NATS__URL=" + cfg.NATS,
		"INGEST__TOPICS=" + strings.Join(cfg.Topics, ","), "INGEST__SHARDS=1",
	}, cfg.Env...))
	if err != nil {
		return nil, err
	}
	return &Ingest{s}, nil
}
