//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"

	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// nodeFile names, for a NATS node in a process of its own, its configuration.
const nodeFile = "CANOPY_E2E_NODE"

// runBroker is an embedded Kafka until ctx ends.
func runBroker(ctx context.Context) error {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, "127.0.0.1:0") }))
	if err != nil {
		return fmt.Errorf("make broker: %w", err)
	}
	defer cluster.Close()
	fmt.Println(healthLine + cluster.ListenAddrs()[0])
	<-ctx.Done()
	return nil
}

// runNode is a NATS server, as its file configures it, until ctx ends.
func runNode(ctx context.Context) error {
	opts, err := server.ProcessConfigFile(os.Getenv(nodeFile))
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	opts.NoSigs = true
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("make NATS server: %w", err)
	}
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(patience) {
		return fmt.Errorf("NATS server is not ready after %v", patience)
	}
	fmt.Println(healthLine + srv.MonitorAddr().String())
	<-ctx.Done()
	return nil
}

// node is a NATS server in a process of its own.
type node struct {
	*process
	name, file   string
	client, peer int // ports for clients and for the other nodes
}

// nodes are a cluster of three of them, which keep each stream three times.
type nodes struct {
	t      *testing.T
	list   []*node
	routes []*natstest.Proxy // through which the nodes reach each other
	js     jetstream.JetStream
}

// startNodes runs the cluster until the test ends.
func startNodes(t *testing.T) *nodes {
	t.Helper()
	const size = 3
	c := &nodes{t: t}
	for i := range size {
		c.list = append(c.list, &node{
			name: fmt.Sprintf("node-%d", i), file: filepath.Join(t.TempDir(), "nats.conf"), client: natstest.FreePort(t), peer: natstest.FreePort(t),
		})
	}
	for _, n := range c.list {
		var routes []string
		for _, other := range c.list {
			if other == n {
				continue
			}
			p := natstest.StartProxy(t, fmt.Sprintf("127.0.0.1:%d", other.peer), nil)
			c.routes = append(c.routes, p)
			routes = append(routes, strings.Replace(p.URL(), "nats:", "nats-route:", 1))
		}
		n.configure(t, routes)
		c.up(n)
	}
	nc := natstest.Connect(t, c.url())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c.js = js
	return c
}

// configure writes the node's configuration. What is not about the cluster is as in
// deployments/nats/nats.conf. Neither clients nor nodes are told of other nodes: they would
// find ways around the proxies.
func (n *node) configure(t *testing.T, routes []string) {
	t.Helper()
	text := fmt.Sprintf(`
server_name: %s
listen: 127.0.0.1:%d
http: 127.0.0.1:-1
ping_interval: "10s"
ping_max: 2
max_pending: 256MB
max_payload: 8MB
jetstream { store_dir: %q, max_file_store: 64GB, sync_interval: 10s }
cluster { name: storm, listen: 127.0.0.1:%d, no_advertise: true, advertise: "127.0.0.1:1", pool_size: -1, routes: [%s] }
`, n.name, n.client, filepath.Join(filepath.Dir(n.file), "store"), n.peer, strings.Join(routes, ", "))
	if err := os.WriteFile(n.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// up starts a node, or starts it again with what it has stored.
func (c *nodes) up(n *node) {
	c.t.Helper()
	// A node keeps the ids of all records of INGEST__DUPLICATES, and Go's usual collector would
	// go over those millions all the time.
	n.process = startProcess(c.t, nodeChild, []string{nodeFile + "=" + n.file, "GOGC=400", "GOMEMLIMIT=4GiB"})
}

// url is where clients connect: all nodes.
func (c *nodes) url() string {
	var urls []string
	for _, n := range c.list {
		urls = append(urls, n.url())
	}
	return strings.Join(urls, ",")
}

func (n *node) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.client) }

// monitor reads numbers of the node's monitoring page, 0 for those that are not there.
func (n *node) monitor(page string, names ...string) (values []int) {
	n.t.Helper()
	response, err := http.Get("http://" + n.health + "/" + page)
	if err != nil {
		n.t.Fatalf("read %s of %s: %v", page, n.name, err)
	}
	defer func() { _ = response.Body.Close() }()
	var all map[string]any
	if err := json.NewDecoder(response.Body).Decode(&all); err != nil {
		n.t.Fatalf("read %s of %s: %v", page, n.name, err)
	}
	for _, name := range names {
		value, _ := all[name].(float64)
		values = append(values, int(value))
	}
	return values
}

// leaders gives the number of streams that each node leads, and the shards of those whose
// replicas are all up to date.
func (c *nodes) leaders(shards int) (led map[string]int, whole []int) {
	led = map[string]int{}
	for shard := range shards {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		stream, err := c.js.Stream(ctx, subject.Stream(shard))
		cancel()
		if err != nil || stream.CachedInfo().Cluster == nil {
			return led, whole // there is no leader now who could answer
		}
		at := stream.CachedInfo().Cluster
		led[at.Leader]++
		current := func(p *jetstream.PeerInfo) bool { return p.Current && !p.Offline }
		if at.Leader != "" && len(at.Replicas) == len(c.list)-1 && !slices.ContainsFunc(at.Replicas, func(p *jetstream.PeerInfo) bool { return !current(p) }) {
			whole = append(whole, shard)
		}
	}
	return led, whole
}

// awaitLeaders waits until all streams have leaders, and none of them is lost.
func (c *nodes) awaitLeaders(shards int, lost *node) {
	c.t.Helper()
	eventually(c.t, "streams have leaders", func() bool {
		led, _ := c.leaders(shards)
		n := 0
		for name, streams := range led {
			if name != "" && (lost == nil || name != lost.name) {
				n += streams
			}
		}
		return n == shards
	})
}

// cutRoutes ends the connections between all nodes until joinRoutes.
func (c *nodes) cutRoutes() {
	for _, p := range c.routes {
		p.Refuse()
	}
}

// joinRoutes gives the number of connections that were refused meanwhile.
func (c *nodes) joinRoutes() (refused int) {
	for _, p := range c.routes {
		refused += p.Admit()
	}
	return refused
}

// countRoutes is how many connections to other nodes all nodes have.
func (c *nodes) countRoutes() (n int) {
	for _, one := range c.list {
		n += one.monitor("routez", "num_routes")[0]
	}
	return n
}
