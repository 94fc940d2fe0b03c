package obs

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"canopy/shared/config"
)

const (
	// warnInterval is the least time between two warnings for one reason.
	warnInterval = time.Minute

	maxShownHost = 100 // bytes
)

// The reasons why a request is refused, as canopy_health_refused_total has them.
const (
	reasonHost  = "host"
	reasonPage  = "page"
	reasonToken = "token"
	reasonBusy  = "busy"
)

var reasons = []string{reasonHost, reasonPage, reasonToken, reasonBusy}

// guard decides who may ask the health server what. Any goroutine may use it.
//
// A web page reaches an address of this machine or network in two ways. It can let its own
// name resolve to that address (DNS rebinding), and may then read the answers: such a
// request carries the page's name as Host, never an address. Or it sends requests whose
// answers it cannot read, by an image or a form: those carry what browsers tell of where a
// request comes from.
type guard struct {
	hosts    []string          // lower case; *.x stands for all below x
	token    [sha256.Size]byte // hash of the token for /debug
	hasToken bool
	local    bool // the server listens on loopback only

	log     *zap.Logger
	refused *prometheus.CounterVec
	warned  map[string]*rate.Sometimes // by reason
}

func newGuard(cfg config.Health, reg prometheus.Registerer, log *zap.Logger) *guard {
	g := &guard{
		log: log, token: sha256.Sum256([]byte(cfg.DebugToken)), hasToken: cfg.DebugToken != "",
		refused: Counters(reg, "canopy_health_refused_total",
			"Requests that the health server has refused, by reason: host, page, token, busy.", "reason", reasons...),
		warned: make(map[string]*rate.Sometimes),
	}
	for _, name := range cfg.Hosts {
		g.hosts = append(g.hosts, normal(name))
	}
	for _, reason := range reasons {
		g.warned[reason] = &rate.Sometimes{Interval: warnInterval}
	}
	return g
}

// normal is the spelling by which host names compare.
func normal(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// knows says whether a Host header names this server: by an address, as localhost, or by a
// name of RUNTIME__HEALTH__HOSTS, with any port. Probes that speak HTTP/1.0 send none;
// browsers always do.
func (g *guard) knows(host string) bool {
	if host == "" {
		return true
	}
	if name, port, err := net.SplitHostPort(host); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = name
	} else if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	host = normal(host)
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" {
		return true
	}
	return slices.ContainsFunc(g.hosts, func(known string) bool {
		if suffix, wild := strings.CutPrefix(known, "*"); wild {
			return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
		}
		return host == known
	})
}

// fromPage says whether a page of another site has sent r, as far as browsers tell.
func fromPage(r *http.Request) bool {
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "none" && site != "same-origin" {
			return true
		}
	}
	for _, name := range []string{"Origin", "Referer"} {
		for _, text := range r.Header.Values(name) {
			u, err := url.Parse(text)
			if err != nil || !strings.EqualFold(u.Host, r.Host) {
				return true
			}
		}
	}
	return false
}

// forwarded are the headers by which proxies tell that a request is somebody else's.
var forwarded = []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"}

// opensDebug says whether r may use /debug, and the answer if not. Without a token only
// programs of this machine may, and only where nobody else reaches the address at all:
// directly, or through a proxy that runs here.
func (g *guard) opensDebug(r *http.Request) (ok bool, status int, message string) {
	if !g.hasToken {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		handedOn := slices.ContainsFunc(forwarded, func(name string) bool { return r.Header.Get(name) != "" })
		if g.local && err == nil && peer.Addr().Unmap().IsLoopback() && !handedOn {
			return true, 0, ""
		}
		return false, http.StatusForbidden,
			"/debug is closed to all but programs of this machine, and where the health address is not loopback: set RUNTIME__HEALTH__DEBUG_TOKEN, and send it as Authorization: Bearer …"
	}
	var token string
	if values := r.Header.Values("Authorization"); len(values) == 1 {
		scheme, rest, _ := strings.Cut(values[0], " ")
		if strings.EqualFold(scheme, "Bearer") {
			token = strings.TrimSpace(rest)
		}
	}
	sum := sha256.Sum256([]byte(token)) // of one length, so that comparing tells nothing
	if subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1 {
		return true, 0, ""
	}
	return false, http.StatusUnauthorized,
		"/debug needs RUNTIME__HEALTH__DEBUG_TOKEN, as Authorization: Bearer …"
}

// refuse answers, counts, and warns now and then.
func (g *guard) refuse(w http.ResponseWriter, r *http.Request, reason string, status int, message string) {
	g.refused.WithLabelValues(reason).Inc()
	g.warned[reason].Do(func() {
		g.log.Warn("a request to the health address was refused", zap.String("reason", reason),
			zap.String("peer", r.RemoteAddr), zap.String("host", r.Host[:min(len(r.Host), maxShownHost)]))
	})
	head := w.Header()
	switch status {
	case http.StatusUnauthorized:
		head.Set("WWW-Authenticate", "Bearer")
	case http.StatusServiceUnavailable:
		head.Set("Retry-After", "1")
	}
	head.Set("Content-Type", "application/json")
	head.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{ // the client may be gone
		"error": strings.ReplaceAll(http.StatusText(status), " ", ""), "message": message,
	})
}

// unknownHost is what somebody reads who asks by a name that is not known here.
func unknownHost(host string) string {
	return fmt.Sprintf("%.*q is no name of this server: ask by its address, or add the name to RUNTIME__HEALTH__HOSTS",
		maxShownHost, host)
}
