// Package natstest runs real NATS servers inside tests, with the streams that ingest makes.
package natstest

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

const patience = 10 * time.Second

// Server is one NATS server with JetStream, on a free port that it keeps when it is
// started again.
type Server struct {
	t    testing.TB
	opts server.Options
	srv  *server.Server
}

// Start runs a server until the test ends. change may change its options.
func Start(t testing.TB, change ...func(*server.Options)) *Server {
	t.Helper()
	s := &Server{t: t, opts: options(t)}
	for _, c := range change {
		c(&s.opts)
	}
	s.Up()
	t.Cleanup(func() {
		if s.srv != nil {
			s.Down()
		}
	})
	return s
}

func options(t testing.TB) server.Options {
	return server.Options{
		Host: "127.0.0.1", Port: FreePort(t), JetStream: true, StoreDir: t.TempDir(),
		NoLog: true, NoSigs: true, MaxPayload: 8 << 20, MaxPending: 256 << 20,
	}
}

// Up starts the server again, on the same port and store.
func (s *Server) Up() {
	s.t.Helper()
	opts := s.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		s.t.Fatalf("make a NATS server: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		s.t.Fatalf("NATS server is not ready after %s", patience)
	}
	s.srv = srv
}

// Down stops the server, and its connections see an end.
func (s *Server) Down() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.srv = nil
}

// Running is the server itself, nil while it is down.
func (s *Server) Running() *server.Server { return s.srv }

// Reload changes options of the running server.
func (s *Server) Reload(change func(*server.Options)) {
	s.t.Helper()
	change(&s.opts)
	opts := s.opts
	if err := s.srv.ReloadOptions(&opts); err != nil {
		s.t.Fatalf("reload the NATS server's options: %v", err)
	}
}

// URL is where clients connect.
func (s *Server) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.opts.Port) }

// Connect gives a connection that is closed when the test ends.
func (s *Server) Connect(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	nc, err := nats.Connect(s.URL(), append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		s.t.Fatalf("connect to NATS: %v", err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// Connect gives a connection to the server at url, or to a proxy's, that is closed when
// the test ends.
func Connect(t testing.TB, url string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatalf("connect to NATS: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// StreamConfig is a stream as ingest makes it, with short limits.
func StreamConfig(shard, shards int) jetstream.StreamConfig {
	return stream.Config(jetstream.StreamConfig{
		Replicas:          1,
		MaxMsgsPerSubject: 1_000_000,
		Duplicates:        time.Minute,
	}, shard, shards)
}

// Streams makes all streams, and gives a context to publish with.
func Streams(t testing.TB, nc *nats.Conn, shards int) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatalf("make a JetStream context: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for shard := range shards {
		if _, err := js.CreateOrUpdateStream(ctx, StreamConfig(shard, shards)); err != nil {
			t.Fatalf("make stream %s: %v", subject.Stream(shard), err)
		}
	}
	return js
}

// Message is an event as ingest publishes it. channel may be empty: none.
func Message(shards int, application, channel, json string) *nats.Msg {
	m := nats.NewMsg(subject.In(subject.Shard(application, shards), application))
	m.Data = []byte(json)
	if channel != "" {
		m.Header.Set(event.HeaderChannel, event.EscapeHeader(channel))
	}
	m.Header.Set(event.HeaderAppended, strconv.FormatInt(time.Now().UnixMilli(), 10))
	return m
}
