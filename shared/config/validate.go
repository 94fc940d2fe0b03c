package config

import (
	"net"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	// hostName is one, perhaps of a docker-compose service, with a *. before it or not.
	hostName   = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?$`)
	debugToken = regexp.MustCompile(`^[!-~]{16,1000}$`)
)

// check collects what is wrong with one configuration.
type check struct {
	cfg      reflect.Value
	problems Problems
}

func newCheck(cfg Config) *check { return &check{cfg: reflect.ValueOf(cfg)} }

// that adds a problem with the setting name, which must be one of Config, unless ok.
func (c *check) that(ok bool, name, expected string) {
	if ok {
		return
	}
	s, known := lookup(name)
	if !known || s.index == nil {
		c.problems.add("%s: %s", name, expected)
		return
	}
	c.problems.add("%s=%s: %s", name, s.show(c.value(s)), expected)
}

// hidden is that for a value that is not shown.
func (c *check) hidden(ok bool, name, expected string) {
	if !ok {
		c.problems.add("%s: %s", name, expected)
	}
}

func (c *check) value(s setting) any {
	v := c.cfg.FieldByIndex(s.index).Interface()
	if list, ok := v.([]string); ok {
		return strings.Join(list, ",")
	}
	return v
}

// common checks what both tiers use.
func (c *check) common(cfg Config) {
	r := cfg.Runtime
	c.health(r.Health)
	c.oneOf("RUNTIME__LOG__LEVEL", r.Log.Level, "debug", "info", "warn", "error")
	c.oneOf("RUNTIME__LOG__FORMAT", r.Log.Format, "json", "console")
	c.that(natsURLs(cfg.NATS.URL), "NATS__URL", "expected URLs such as nats://host:4222, separated by commas")
	c.pair("NATS__TLS__CERT_FILE", cfg.NATS.TLS.CertFile, "NATS__TLS__KEY_FILE", cfg.NATS.TLS.KeyFile)
}

func (c *check) health(h Health) {
	c.address("RUNTIME__HEALTH__BIND_ADDR", h.BindAddr)
	c.that(!slices.ContainsFunc(h.Hosts, func(name string) bool { return !hostName.MatchString(name) }),
		"RUNTIME__HEALTH__HOSTS", "expected host names without ports, such as canopy-edge, or *.svc for all below svc")
	c.hidden(h.DebugToken == "" || debugToken.MatchString(h.DebugToken),
		"RUNTIME__HEALTH__DEBUG_TOKEN", "expected 16 to 1000 characters of ASCII without blanks")
}

func (c *check) address(name, addr string) {
	c.that(isAddress(addr, 0), name, "expected host:port")
}

func (c *check) oneOf(name, value string, allowed ...string) {
	last := len(allowed) - 1
	c.that(slices.Contains(allowed, value), name,
		"expected "+strings.Join(allowed[:last], ", ")+" or "+allowed[last])
}

func (c *check) pair(name1, value1, name2, value2 string) {
	c.that(value1 == "" || value2 != "", name2, "expected a file, since "+name1+" is set")
	c.that(value2 == "" || value1 != "", name1, "expected a file, since "+name2+" is set")
}

func (c *check) duration(name string, d, least time.Duration) {
	c.that(d >= least, name, "expected at least "+least.String())
}

func (c *check) atLeast(name string, n, least int64, shown string) {
	c.that(n >= least, name, "expected at least "+shown)
}

// isAddress says whether addr is host:port with a port from lowest on. The host may be
// empty for every address of the machine.
func isAddress(addr string, lowest int) bool {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || strings.ContainsAny(host, " /@") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && int(n) >= lowest
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// natsURLs follows nats.go, which takes nats:// for granted and 4222 for the port.
func natsURLs(list string) bool {
	for _, text := range strings.Split(list, ",") {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return false
		}
	}
	return true
}

func isHTTPURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Hostname() != "" && (u.Scheme == "http" || u.Scheme == "https")
}

// hides says whether a URL holds a user, perhaps with a password, and a query, perhaps with
// a key: nobody may see them.
func hides(text string) (user, query bool) {
	u, err := url.Parse(text)
	return err == nil && u.User != nil, err == nil && (u.RawQuery != "" || u.Fragment != "")
}
