package gateway

import (
	"net/http"
	"slices"
	"strings"

	"canopy/shared/config"
)

// checkOrigin refuses a page from elsewhere that has a browser send Basic credentials:
// browsers remember them and add them by themselves, so that the page would act as the
// user. Tokens and keys in the query are known to the page that sends them.
//
// Allowed are the Origins of EDGE__ALLOWED_ORIGINS, or else the request's own: its Host,
// which proxies must pass on (X-Forwarded-Host is not believed), and its scheme as far as
// that is known.
func (a *admission) checkOrigin(r *http.Request) *refusal {
	origins := r.Header.Values("Origin")
	if len(origins) == 0 || !sendsBasic(r.Header) {
		return nil
	}
	origin, err := config.Origin(origins[0])
	if len(origins) > 1 || err != nil {
		return forbidden("Origin not allowed", err)
	}
	if len(a.origins) > 0 {
		if slices.Contains(a.origins, origin) {
			return nil
		}
		return forbidden("Origin not allowed", nil)
	}
	scheme := a.clientScheme(r)
	if scheme == "" {
		scheme, _, _ = strings.Cut(origin, ":")
	}
	if own, err := config.Origin(scheme + "://" + r.Host); err != nil || own != origin {
		return forbidden("Origin not allowed", err)
	}
	return nil
}

func sendsBasic(h http.Header) bool {
	return slices.ContainsFunc(h.Values("Authorization"), func(line string) bool {
		scheme, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		return strings.EqualFold(scheme, "Basic")
	})
}

// cors lets pages from everywhere read plain answers if HTTP__CORS__MODE is permissive.
// Nothing is allowed with credentials, since refusals tell what somebody may read.
func (a *admission) cors(w http.ResponseWriter, r *http.Request) {
	if a.allowsPages(r) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
	}
}

func (a *admission) allowsPages(r *http.Request) bool {
	return a.cfg.HTTP.CORS.Mode == "permissive" && r.Header.Get("Origin") != ""
}

// preflight answers the question that browsers ask before: true if the request is that.
func (a *admission) preflight(w http.ResponseWriter, r *http.Request) (answered bool) {
	if !a.allowsPages(r) || r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header := w.Header()
	header.Set("Access-Control-Allow-Methods", http.MethodGet)
	header.Set("Access-Control-Allow-Headers", "Authorization, *")
	header.Set("Access-Control-Max-Age", "3600")
	w.WriteHeader(http.StatusNoContent)
	a.answered(http.StatusNoContent)
	return true
}
