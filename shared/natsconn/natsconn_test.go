package natsconn

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"

	"canopy/shared/config"
)

func TestConnectWaitsForAServerThatComesLater(t *testing.T) {
	first := startServer(t, natsserver.Options{Port: -1})
	url, port := first.ClientURL(), portOf(t, first)
	stopServer(first)

	c, h := record()
	nc, logs := connect(t, config.NATS{URL: url}, h)
	if err := Check(nc)(); err == nil || !strings.Contains(err.Error(), "not connected") {
		t.Errorf("without a server the check says %v", err)
	}
	got := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe("a", got); err != nil {
		t.Fatal(err)
	}
	startServer(t, natsserver.Options{Port: port})
	wait(t, c.connected, "the first connection")
	if err := Check(nc)(); err != nil {
		t.Errorf("with a server the check says %v", err)
	}
	if err := nc.Publish("a", nil); err != nil {
		t.Fatal(err)
	}
	wait(t, got, "a message on a subscription from before the connection")
	if n := logs.FilterMessage("cannot reach NATS, trying on").Len(); n < 1 || n > 2 {
		t.Errorf("that NATS is away was logged %d times: %v", n, logs.All())
	}
	if logs.FilterMessage("connected to NATS").Len() != 1 {
		t.Errorf("the connection was not logged once: %v", logs.All())
	}
}

func TestConnectComesBackAfterARestart(t *testing.T) {
	s := startServer(t, natsserver.Options{Port: -1})
	c, h := record()
	nc, logs := connect(t, config.NATS{URL: s.ClientURL()}, h)
	wait(t, c.connected, "the first connection")
	const restarts = 3
	for range restarts {
		stopServer(s)
		wait(t, c.disconnected, "the loss of the connection")
		if err := Check(nc)(); err == nil {
			t.Error("the check passes without a server")
		}
		s = startServer(t, natsserver.Options{Port: portOf(t, s)})
		wait(t, c.reconnected, "the connection to come back")
		if err := Check(nc)(); err != nil {
			t.Errorf("after a restart the check says %v", err)
		}
	}
	for message, want := range map[string]int{"lost the connection to NATS": restarts, "connected to NATS again": restarts, "connected to NATS": 1} {
		if n := logs.FilterMessage(message).Len(); n != want {
			t.Errorf("%q was logged %d times, want %d", message, n, want)
		}
	}
	nc.Close()
	wait(t, c.closed, "the end of the connection")
	if err := Check(nc)(); err == nil {
		t.Error("the check passes on a closed connection")
	}
}

func TestConnectGoesOnAfterRefusedAuthentication(t *testing.T) {
	strict := natsserver.Options{Port: -1, Username: "u", Password: "p"}
	s := startServer(t, strict)
	port := portOf(t, s)
	c, h := record()
	_, logs := connect(t, config.NATS{URL: s.ClientURL()}, h)
	// nats.go would give up at the second refusal if it were not told otherwise.
	eventually(t, "the server to refuse four times", func() bool {
		v, err := s.Varz(nil)
		return err == nil && v.TotalConnections >= 4
	})
	if lines := logs.FilterMessage("cannot reach NATS, trying on").All(); len(lines) != 1 ||
		!strings.Contains(lines[0].ContextMap()["error"].(string), "Authorization Violation") {
		t.Errorf("the refusals were not logged once: %v", lines)
	}
	stopServer(s)
	startServer(t, natsserver.Options{Port: port})
	wait(t, c.connected, "a connection to the server that asks for no password")
}

func TestConnectionIsNamedAndHasItsOwnInboxes(t *testing.T) {
	s := startServer(t, natsserver.Options{Port: -1})
	nc, _ := connect(t, config.NATS{URL: s.ClientURL()}, Handlers{}, nats.ReconnectBufSize(-1))
	if inbox := nc.NewInbox(); !strings.HasPrefix(inbox, InboxPrefix+".") {
		t.Errorf("an inbox is %s", inbox)
	}
	o := nc.Opts
	if o.Name != "test" || o.MaxReconnect != -1 || !o.RetryOnFailedConnect || !o.IgnoreAuthErrorAbort ||
		o.PingInterval != 10*time.Second || o.MaxPingsOut != 2 || o.ReconnectBufSize != -1 {
		t.Errorf("options are %+v", o)
	}
	clients, err := s.Connz(nil)
	if err != nil || len(clients.Conns) != 1 || clients.Conns[0].Name != "test" {
		t.Errorf("the server lists %+v, %v", clients, err)
	}
}

func TestLameDuckModeIsAnnounced(t *testing.T) {
	s := startServer(t, natsserver.Options{Port: -1, LameDuckDuration: 20 * time.Millisecond, LameDuckGracePeriod: time.Millisecond})
	c, h := record()
	_, logs := connect(t, config.NATS{URL: s.ClientURL()}, h)
	wait(t, c.connected, "the connection")
	go s.LameDuckShutdown()
	wait(t, c.lameDuck, "the announcement of the shutdown")
	wait(t, c.disconnected, "the loss of the connection")
	if logs.FilterMessage("the NATS server is about to shut down").Len() != 1 {
		t.Errorf("the announcement was not logged: %v", logs.All())
	}
}

func TestConnectRefusesMistakesOfConfiguration(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	for _, c := range []struct {
		cfg  config.NATS
		want []string
	}{
		{config.NATS{URL: "nats://user:sesame@a b:4222"}, []string{"NATS__URL"}},
		{config.NATS{CredentialsFile: none, TLS: config.NATSTLS{CAFile: none, CertFile: none}},
			[]string{"NATS__CREDENTIALS_FILE", "NATS__TLS__CA_FILE", "NATS__TLS__CERT_FILE"}},
		{config.NATS{TLS: config.NATSTLS{CAFile: junk, KeyFile: junk}}, []string{"no PEM certificate in " + junk, "NATS__TLS__KEY_FILE"}},
	} {
		nc, err := Connect(c.cfg, "test", Handlers{}, zap.NewNop())
		if err == nil {
			nc.Close()
			t.Errorf("%+v was taken", c.cfg)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %q does not name %q", c.cfg, err, want)
			}
		}
		if strings.Contains(err.Error(), "sesame") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}

func TestCredentialsFileSignsIn(t *testing.T) {
	operator, account, user := newKey(t, nkeys.PrefixByteOperator), newKey(t, nkeys.PrefixByteAccount), newKey(t, nkeys.PrefixByteUser)
	accountJWT := encode(t, jwt.NewAccountClaims(public(t, account)), operator)
	resolver := &natsserver.MemAccResolver{}
	if err := resolver.Store(public(t, account), accountJWT); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, natsserver.Options{Port: -1, TrustedKeys: []string{public(t, operator)}, AccountResolver: resolver})

	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(encode(t, jwt.NewUserClaims(public(t, user)), account), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "user.creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	c, h := record()
	connect(t, config.NATS{URL: s.ClientURL(), CredentialsFile: file}, h)
	wait(t, c.connected, "a connection by credentials")
}

func newKey(t *testing.T, kind nkeys.PrefixByte) nkeys.KeyPair {
	t.Helper()
	pair, err := nkeys.CreatePair(kind)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func public(t *testing.T, pair nkeys.KeyPair) string {
	t.Helper()
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(t *testing.T, claims jwt.Claims, by nkeys.KeyPair) string {
	t.Helper()
	token, err := claims.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestRefusedPermissionIsLoggedOnceWithItsSubject(t *testing.T) {
	s := startServer(t, natsserver.Options{Port: -1, Users: []*natsserver.User{{
		Username: "u", Password: "p",
		Permissions: &natsserver.Permissions{Publish: &natsserver.SubjectPermission{Deny: []string{"secret.>"}}},
	}}})
	c, h := record()
	nc, logs := connect(t, config.NATS{URL: s.ClientURL()}, h, nats.UserInfo("u", "p"))
	wait(t, c.connected, "the connection")
	subjects := []string{"secret.a", "secret.a", "secret.b", "secret.a"}
	for _, subject := range subjects {
		if err := nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	for range subjects {
		if err := wait(t, c.async, "every refusal to reach the handler"); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("the handler got %v", err)
		}
	}
	var logged []string
	for _, entry := range logs.FilterMessage("NATS refuses permission").FilterLevelExact(zap.ErrorLevel).All() {
		logged = append(logged, entry.ContextMap()["subject"].(string))
	}
	if want := []string{"secret.a", "secret.b"}; !slices.Equal(logged, want) {
		t.Errorf("refusals were logged for %q, want %q", logged, want)
	}
}
