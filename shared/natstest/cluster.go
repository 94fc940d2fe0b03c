package natstest

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/subject"
)

// nowhere is an address that refuses connections.
const nowhere = "127.0.0.1:1"

// lookEvery is how often a condition is looked at that nobody announces.
const lookEvery = 5 * time.Millisecond

// Cluster is several NATS servers that keep each stream three times. Its methods are
// called by the test's goroutine.
type Cluster struct {
	Nodes  []*Server
	routes [][]*Proxy // through which each node reaches each other one; nil for itself
	t      testing.TB
}

// StartCluster runs a cluster of three servers, connected with each other, until the
// test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	const nodes = 3
	c := &Cluster{t: t}
	var ports []int
	for range nodes {
		ports = append(ports, FreePort(t))
	}
	for i := range nodes {
		s := &Server{t: t, opts: options(t)}
		s.opts.ServerName = fmt.Sprintf("node-%d", i)
		c.routes = append(c.routes, make([]*Proxy, nodes))
		for j, port := range ports {
			if i == j {
				continue
			}
			p := StartProxy(t, fmt.Sprintf("127.0.0.1:%d", port), nil)
			c.routes[i][j] = p
			s.opts.Routes = append(s.opts.Routes, &url.URL{Scheme: "nats-route", Host: p.listener.Addr().String()})
		}
		// Clients are not told of the other nodes, so that a proxy in front of one is not
		// passed by. Nor are the nodes, who would find a way around theirs.
		s.opts.Cluster = server.ClusterOpts{
			Name: "test", Host: "127.0.0.1", Port: ports[i], Advertise: nowhere, NoAdvertise: true, PoolSize: -1,
		}
		c.Nodes = append(c.Nodes, s)
		s.Up()
		t.Cleanup(func() {
			if s.srv != nil {
				s.Down()
			}
		})
	}
	return c
}

// Isolate cuts a node off from the others, until Rejoin. Its clients stay connected.
func (c *Cluster) Isolate(node int) { c.eachRoute(node, (*Proxy).Refuse) }

// Rejoin lets a node connect with the others again.
func (c *Cluster) Rejoin(node int) { c.eachRoute(node, func(p *Proxy) { p.Admit() }) }

// eachRoute visits the proxies from and to a node.
func (c *Cluster) eachRoute(node int, do func(*Proxy)) {
	for other := range c.routes {
		if other != node {
			do(c.routes[node][other])
			do(c.routes[other][node])
		}
	}
}

// URL is where clients connect: all nodes, separated by commas.
func (c *Cluster) URL() string {
	var urls []string
	for _, s := range c.Nodes {
		urls = append(urls, s.URL())
	}
	return strings.Join(urls, ",")
}

// Streams makes all streams with three replicas, as soon as the cluster can, and gives a
// context to publish with.
func (c *Cluster) Streams(shards int) jetstream.JetStream {
	c.t.Helper()
	nc, err := nats.Connect(c.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		c.t.Fatalf("connect to the cluster: %v", err)
	}
	c.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatalf("make a JetStream context: %v", err)
	}
	deadline := time.Now().Add(2 * patience)
	for shard := range shards {
		cfg := StreamConfig(shard, shards)
		cfg.Replicas = len(c.Nodes)
		for {
			ctx, cancel := context.WithTimeout(context.Background(), patience/5)
			_, err := js.CreateOrUpdateStream(ctx, cfg)
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				c.t.Fatalf("make stream %s: %v", cfg.Name, err)
			}
		}
	}
	return js
}

// Leader gives the node that leads shard's stream, nil if none does now.
func (c *Cluster) Leader(shard int) *Server {
	for _, s := range c.Nodes {
		if s.Leads(shard) {
			return s
		}
	}
	return nil
}

// Leads says whether the server believes to lead shard's stream.
func (s *Server) Leads(shard int) bool {
	return s.srv != nil && s.srv.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, subject.Stream(shard))
}

// AwaitLeader waits until a node other than before leads shard's stream, and gives it.
func (c *Cluster) AwaitLeader(shard int, before *Server) *Server {
	c.t.Helper()
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); <-time.After(lookEvery) {
		for _, s := range c.Nodes {
			if s != before && s.Leads(shard) {
				return s
			}
		}
	}
	c.t.Fatalf("stream %s has no new leader after %s", subject.Stream(shard), 2*patience)
	return nil
}

// StepDown makes the leader of shard's stream give up its role.
func (c *Cluster) StepDown(nc *nats.Conn, shard int) {
	c.t.Helper()
	if _, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+subject.Stream(shard), nil, patience); err != nil {
		c.t.Fatalf("step down the leader of %s: %v", subject.Stream(shard), err)
	}
}

// AwaitReplicas waits until every node holds all of shard's stream.
func (c *Cluster) AwaitReplicas(js jetstream.JetStream, shard int) {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); <-time.After(lookEvery) {
		if err = c.lagging(js, shard); err == nil {
			return
		}
	}
	c.t.Fatalf("after %s: %v", 2*patience, err)
}

// lagging says which node lacks something of shard's stream, or nil.
func (c *Cluster) lagging(js jetstream.JetStream, shard int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience/5)
	defer cancel()
	stream, err := js.Stream(ctx, subject.Stream(shard))
	if err != nil {
		return err
	}
	for _, peer := range stream.CachedInfo().Cluster.Replicas {
		if !peer.Current || peer.Offline {
			return fmt.Errorf("%s lags by %d", peer.Name, peer.Lag)
		}
	}
	return nil
}
