package local

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func TestTheLocalServerIsSetAsOperatorsAreTold(t *testing.T) {
	t.Setenv("CANOPY_INGEST_PASSWORD", "i")
	t.Setenv("CANOPY_EDGE_PASSWORD", "e")
	told, err := server.ProcessConfigFile("../nats/nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	type settings struct {
		ping, sync          time.Duration
		pings               int
		maxPending, payload int64
	}
	of := settings{told.PingInterval, told.SyncInterval, told.MaxPingsOut, told.MaxPending, int64(told.MaxPayload)}
	if local := (settings{natsPingInterval, natsSyncInterval, natsMaxPingsOut, natsMaxPending, natsMaxPayload}); of != local {
		t.Errorf("nats.conf has %+v, the local server %+v", of, local)
	}
	if told.SyncAlways {
		t.Error("nats.conf syncs for each event, the local server does not")
	}
}
