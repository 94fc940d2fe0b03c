package local

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"canopy/shared/obs"
)

func TestThePartsOfTheStackSayHowTheyAre(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	health := "LOCAL__HEALTH_ADDR=" + free.Addr().String()
	_ = free.Close()
	cfg := load(t, health)
	ask := func() (string, error) {
		var out bytes.Buffer
		err := cfg.Ask(obs.Ask{Timeout: limit}, &out)
		return out.String(), err
	}
	if _, err := ask(); err == nil {
		t.Error("something answers before the stack runs")
	}
	w := start(t, health)
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		answer, err := ask() // the first reading may be on its way
		if answer == "ready\n" && err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the stack answers %q, %v", answer, err)
		}
	}
	w.stop()
	if _, err := ask(); err == nil {
		t.Error("something answers after the end")
	}
}

func TestSensorsThatNobodyHearsAreNotReady(t *testing.T) {
	var l lately
	if l.check() == nil {
		t.Error("ready before the first reading")
	}
	l.note(time.Now().Add(-sensorSilence + 5*time.Second))
	if err := l.check(); err != nil {
		t.Error(err)
	}
	l.note(time.Now().Add(-sensorSilence - time.Second))
	if l.check() == nil {
		t.Error("ready after a long silence")
	}
}

func TestNobodyIsAskedWithoutAnAddress(t *testing.T) {
	if err := load(t).Ask(obs.Ask{}, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "LOCAL__HEALTH_ADDR") {
		t.Errorf("got %v", err)
	}
}
