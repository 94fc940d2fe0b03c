//go:build linux

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// brokerAddr and brokerDir are, for a broker that is to be started again, where it listens
// and what it keeps.
const (
	brokerAddr = "CANOPY_E2E_BROKER_ADDR"
	brokerDir  = "CANOPY_E2E_BROKER_DIR"
)

// runBroker is an embedded Kafka until ctx ends. By HTTP it is told to fail; see brokerFaults.
func runBroker(ctx context.Context) error {
	addr := cmp.Or(os.Getenv(brokerAddr), "127.0.0.1:0")
	faults := &brokerFaults{conns: map[*cuttableConn]struct{}{}}
	options := []kfake.Opt{kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			listener, err := net.Listen(network, addr)
			return cuttable{listener, faults}, err
		})}
	if dir := os.Getenv(brokerDir); dir != "" {
		options = append(options, kfake.DataDir(dir))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		return fmt.Errorf("make broker: %w", err)
	}
	defer cluster.Close()
	faults.cluster = cluster
	control := httptest.NewServer(faults)
	defer control.Close()
	fmt.Println(httpLine + control.Listener.Addr().String())
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
	signal.Ignore(syscall.SIGXFSZ) // a disk that is full is an error of write
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

// nodes are a cluster of them, each of which keeps each stream, or only one.
type nodes struct {
	t      *testing.T
	list   []*node
	routes []*natstest.Proxy // through which the nodes reach each other
	ends   [][2]int          // of each route: from which node, to which
	js     jetstream.JetStream
}

// startNodes runs as many nodes until the test ends; several are a cluster.
func startNodes(t *testing.T, size int) *nodes {
	t.Helper()
	c := &nodes{t: t}
	for i := range size {
		c.list = append(c.list, &node{
			name: fmt.Sprintf("node-%d", i), file: filepath.Join(t.TempDir(), "nats.conf"), client: natstest.FreePort(t), peer: natstest.FreePort(t),
		})
	}
	for i, n := range c.list {
		var routes []string
		for j, other := range c.list {
			if other == n {
				continue
			}
			p := natstest.StartProxy(t, fmt.Sprintf("127.0.0.1:%d", other.peer), nil)
			c.routes, c.ends = append(c.routes, p), append(c.ends, [2]int{i, j})
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
`, n.name, n.client, n.store())
	if len(routes) > 0 {
		text += fmt.Sprintf("cluster { name: storm, listen: 127.0.0.1:%d, no_advertise: true, advertise: \"127.0.0.1:1\", pool_size: -1, routes: [%s] }\n",
			n.peer, strings.Join(routes, ", "))
	}
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

// store is the folder of what the node keeps.
func (n *node) store() string { return filepath.Join(filepath.Dir(n.file), "store") }

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
		if allCurrent(at, len(c.list)) {
			whole = append(whole, shard)
		}
	}
	return led, whole
}

// allCurrent says whether a stream has a leader, and as many nodes all have all of it.
func allCurrent(at *jetstream.ClusterInfo, size int) bool {
	return at.Leader != "" && len(at.Replicas) == size-1 &&
		!slices.ContainsFunc(at.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline })
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

// refusedRoutes is how many connections between nodes were refused until now.
func (c *nodes) refusedRoutes() (n int) {
	for _, p := range c.routes {
		n += p.Refused()
	}
	return n
}

// joinRoutes gives the number of connections that were refused until now.
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
