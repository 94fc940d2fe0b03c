package rawtls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"testing"
	"time"
)

func TestAServerReadsWhatStandsBetweenRecordsThatYieldNothing(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	got := make(chan []byte, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			got <- []byte(err.Error())
			return
		}
		defer func() { _ = conn.Close() }()
		b, err := io.ReadAll(conn)
		if err != nil {
			b = []byte(err.Error())
		}
		got <- b
	}()
	c, err := Dial(ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("before ")); err != nil {
		t.Fatal(err)
	}
	if err := c.KeyUpdates(2 * inARow); err != nil {
		t.Fatal(err)
	}
	if err := c.Useless(inARow, Application, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Crumbs(2); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(" behind")); err != nil {
		t.Fatal(err)
	}
	if err := c.TCP.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	want := append([]byte("before "), Frame(9, make([]byte, 125))[:5]...)
	want = append(want, " behind"...)
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("the server read %q, want %q", b, want)
	}
}
