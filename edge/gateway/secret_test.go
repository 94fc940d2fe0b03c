package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"canopy/shared/config"
)

// logged is a log that is kept as the text that an operator sees.
type logged struct{ text chan string }

func startLog() (*zap.Logger, *logged) {
	l := &logged{text: make(chan string, 1)}
	l.text <- ""
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	return zap.New(zapcore.NewCore(encoder, l, zap.DebugLevel)), l
}

func (l *logged) Write(b []byte) (int, error) {
	l.text <- <-l.text + string(b)
	return len(b), nil
}

func (*logged) Sync() error { return nil }

func (l *logged) String() string {
	text := <-l.text
	l.text <- text
	return text
}

// TestNoSecretIsTold signs in in every way there is, rightly and wrongly, with everything
// that can fail failing, and looks for the secrets in all that anybody can read: the log
// in its smallest detail, metrics, probes, profiles, answers and close reasons.
func TestNoSecretIsTold(t *testing.T) {
	o, d := startOIDC(t), startCloud(t)
	for name, configure := range map[string]func(*config.Config){
		"file":   func(*config.Config) {},
		"Drogue": d.use(time.Second, time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			log, text := startLog()
			s := startEdgeLogging(t, log, func(c *config.Config) {
				trust(o)(c)
				configure(c)
			})
			good := o.sign(o.claims("alice"))
			forged := o.forge(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, o.kid(), o.claims("alice"))
			madeUp := strings.Replace(good, ".", "x.", 1)
			wrongKey := "drg_012345_01234567890123456789012345678920BetE"
			var told strings.Builder
			try := func(path string, header ...string) {
				status, body := s.open(path, header...)
				_, _ = fmt.Fprintln(&told, status, body)
			}
			all := func() {
				for _, token := range []string{good, forged, madeUp} {
					try("/secret-app?token=" + token)
					try("/secret-app", "Authorization: Bearer "+token)
					try("/secret-app?token=" + token + "&token=" + token)
					try("/secret-app?token="+token, "Authorization: Bearer "+token)
				}
				for _, key := range []string{"secret", drogueKey, wrongKey} {
					basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+key))
					try("/secret-app?username=alice&api_key=" + key)
					try("/secret-app", basic)
					try("/nothing", basic)
					try("/secret-app?token="+good, basic)
					try("/a/b/c?username=alice&api_key=" + key)
					try("/secret-app?api_key=" + key)
				}
			}
			all()
			socket := s.dial("/open-app?token="+good, nil)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := socket.Write(ctx, websocket.MessageText, []byte(`{"RefreshAccessToken":"`+forged+`"}`)); err != nil {
				t.Fatal(err)
			}
			_, _, err := socket.Read(ctx)
			_, _ = fmt.Fprintln(&told, err)
			d.set(func(c *cloud) { c.down = true })
			all()
			d.set(func(c *cloud) { c.down = false })
			for _, path := range []string{"/metrics", "/readiness", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=1"} {
				status, body := s.askHealth("GET", path, nil)
				if status != 200 && path != "/readiness" {
					t.Errorf("%s: %d", path, status)
				}
				_, _ = io.WriteString(&told, body)
			}
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(&told, text.String())
			for _, want := range []string{`"error":"Forbidden"`, "Failed to refresh token", "drogue_client_user_authorization", "edge serves"} {
				if !strings.Contains(told.String(), want) {
					t.Errorf("%q did not happen", want)
				}
			}
			parts := strings.Split(good, ".")
			for _, secret := range []string{
				good, parts[1], parts[2], forged, madeUp, drogueKey, wrongKey, "01234567890123456789", "hush", "the-edge-s-token",
				base64.StdEncoding.EncodeToString([]byte("alice:secret")), "api_key=secret", "alice:secret",
			} {
				if at := strings.Index(told.String(), secret); at >= 0 {
					t.Errorf("%q is told: %s", secret, told.String()[max(0, at-200):min(told.Len(), at+200)])
				}
			}
		})
	}
}
