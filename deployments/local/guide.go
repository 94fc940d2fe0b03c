package local

import (
	"encoding/base64"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"canopy/shared/topic"
)

// guideText is what Run prints. Every command in it can be pasted as it is.
var guideText = template.Must(template.New("guide").Parse(`
Canopy runs: {{.Running}}.

{{- if .HTTP}}
  edge          ws://{{.HTTP}}   (health http://{{.Health}})
{{- end}}
{{- if .IngestHealth}}
  ingest        health http://{{.IngestHealth}}
{{- end}}
  Kafka         {{.Kafka}}
  NATS          {{.NATSURL}}
  OpenID        {{.Issuer}}
  applications  {{.File}}
  data          {{.DataDir}}{{if .Temporary}} (removed at the end){{end}}
{{- if .APIKey}}
  API key       {{.User}}:{{.APIKey}}
{{- end}}
{{if .HTTP}}
Listen to the public application, or to one of its channels:
  websocat ws://{{.HTTP}}/{{.Public}}
  websocat ws://{{.HTTP}}/{{.Public}}/temperature
{{if .APIKey}}
Listen to the private application with the API key, as a header or in the URL:
  websocat -H='Authorization: Basic {{.Basic}}' ws://{{.HTTP}}/{{.Private}}
  websocat 'ws://{{.HTTP}}/{{.Private}}?username={{.User}}&api_key={{.APIKey}}'
{{end}}
Listen to it with a token, as a header or in the URL:
  TOKEN=$(curl -s -d 'grant_type=client_credentials&client_id={{.User}}&client_secret={{.User}}&ttl=60s' http://{{.IssuerAddr}}/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  websocat -H="Authorization: Bearer $TOKEN" ws://{{.HTTP}}/{{.Private}}
  websocat "ws://{{.HTTP}}/{{.Private}}?token=$TOKEN"
{{end}}
Send an event to the private application:
  echo '{"temp":21.5}' | kcat -P -b {{.Kafka}} -t {{.Topic}} -k {{.Private}}/my-device -H ce_specversion=1.0 -H ce_id=1 -H ce_type=io.drogue.event.v1 -H ce_source=drogue://{{.Private}}/my-device -H ce_subject=temperature -H content-type=application/json -H ce_application={{.Private}} -H ce_device=my-device

Another edge, and another ingest:
  {{.EdgeLine}}
  {{.IngestLine}}

Ctrl-C stops everything.
`))

// guide prints where everything is and what to try.
func guide(out io.Writer, cfg Config, at Addrs) error {
	settings := cfg.fill(at)
	return guideText.Execute(out, map[string]any{
		"Running":      strings.Join(running(cfg), ", "),
		"HTTP":         at.HTTP,
		"Health":       at.Health,
		"IngestHealth": at.IngestHealth,
		"Kafka":        strings.Join(settings.Kafka.BootstrapServers, ","),
		"NATSURL":      settings.NATS.URL,
		"Issuer":       at.Issuer,
		"IssuerAddr":   at.IssuerAddr,
		"File":         at.Applications,
		"DataDir":      at.DataDir,
		"Temporary":    cfg.DataDir == "",
		"APIKey":       at.APIKey,
		"User":         keyUser,
		"Basic":        base64.StdEncoding.EncodeToString([]byte(keyUser + ":" + at.APIKey)),
		"Public":       publicApplication,
		"Private":      privateApplication,
		"Topic":        topic.Of(privateApplication),
		"EdgeLine":     edgeLine(cfg, at),
		"IngestLine":   ingestLine(cfg, at),
	})
}

func running(cfg Config) []string {
	var names []string
	for _, name := range Parts {
		if cfg.runs(name) {
			names = append(names, name)
		}
	}
	return names
}

// edgeLine starts one more edge beside the stack.
func edgeLine(cfg Config, at Addrs) string {
	s := cfg.fill(at)
	words := []string{
		"HTTP__BIND_ADDR=" + beside(s.HTTP.BindAddr, at.HTTP, 100),
		"RUNTIME__HEALTH__BIND_ADDR=" + beside(s.Runtime.Health.BindAddr, at.Health, 100),
		"NATS__URL=" + quote(s.NATS.URL),
	}
	if file := s.Edge.ApplicationsFile; file != "" {
		words = append(words, "EDGE__APPLICATIONS_FILE="+quote(absolute(file)))
	}
	if client, ok := s.OAuth.Clients["0"]; ok {
		words = append(words, "OAUTH__ISSUER_URL="+quote(s.OAuth.IssuerURL), "OAUTH__CLIENTS__0__CLIENT_ID="+quote(client.ClientID))
	}
	return strings.Join(append(words, "bin/canopy-edge"), " ")
}

// ingestLine starts one more ingest, which must agree with the first one on the streams.
func ingestLine(cfg Config, at Addrs) string {
	s := cfg.fill(at)
	return strings.Join([]string{
		"KAFKA__BOOTSTRAP_SERVERS=" + strings.Join(s.Kafka.BootstrapServers, ","),
		"NATS__URL=" + quote(s.NATS.URL),
		"RUNTIME__HEALTH__BIND_ADDR=" + beside(s.Runtime.Health.BindAddr, at.Health, 101),
		"INGEST__SHARDS=" + strconv.Itoa(s.Ingest.Shards),
		"INGEST__REPLICAS=" + strconv.Itoa(s.Ingest.Replicas),
		"INGEST__RETENTION__BYTES=" + strconv.FormatInt(s.Ingest.Retention.Bytes, 10),
		"bin/canopy-ingest",
	}, " ")
}

// beside is the address some ports above the bound one, or above the configured one where
// nothing was bound; any free port where there is none.
func beside(configured, bound string, distance int) string {
	if bound == "" {
		bound = configured
	}
	host, port, err := splitAddr(bound)
	if err != nil || port == 0 || port+distance > 1<<16-1 {
		return anyPort
	}
	return net.JoinHostPort(host, strconv.Itoa(port+distance))
}

// absolute lets the printed line work from any folder.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// quote makes s one word of a shell.
func quote(s string) string {
	if strings.ContainsAny(s, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
