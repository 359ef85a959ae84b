package auth

import (
	"context"
	"net"
	"net/http"
	"strings"
)

// Guard decides about whole HTTP requests: it reads the key from the Authorization header (Bearer) or X-Api-Key,
// applies the loopback rule and checks the scope. It is safe for concurrent use.
type Guard struct {
	Keys *Keys
	// RequireKey refuses requests without a key even while no key exists. When false, and the listener is loopback,
	// any or no key is accepted until the first one is made.
	RequireKey bool
	// Loopback says that the listener is bound to a loopback address only.
	Loopback bool
	// Anonymous is who a request without a key is, while the loopback rule holds; zero: tenant default, scope admin.
	Anonymous Identity
}

// Authenticate says who sent the request. Errors are *Error: ErrUnauthenticated or ErrDamped.
func (g *Guard) Authenticate(_ context.Context, r *http.Request) (Identity, error) {
	if !g.RequireKey && g.Loopback && !g.Keys.Any() {
		id := g.Anonymous
		if id.Tenant == "" {
			id = Identity{Tenant: "default", Scope: Admin, Anonymous: true}
		}
		return id, nil
	}
	presented, err := Presented(r.Header)
	if err != nil {
		return Identity{}, err
	}
	host, _, splitErr := net.SplitHostPort(r.RemoteAddr)
	if splitErr != nil {
		host = r.RemoteAddr
	}
	return g.Keys.VerifyFrom(host, presented)
}

// Presented reads the key out of the headers. Two Authorization headers, another scheme than Bearer, or one of more
// than 1 KiB are refused.
func Presented(h http.Header) (string, error) {
	values := h["Authorization"]
	if len(values) == 0 {
		values = h["X-Api-Key"]
		if len(values) == 1 && len(values[0]) <= 1024 && values[0] != "" {
			return values[0], nil
		}
	}
	switch {
	case len(values) == 0:
		return "", refuse(ErrUnauthenticated, "a key is needed: send Authorization: Bearer rbee_..., made with rbee key create")
	case len(values) > 1:
		return "", refuse(ErrUnauthenticated, "send one Authorization header, not %d", len(values))
	case len(values[0]) > 1024:
		return "", refuse(ErrUnauthenticated, "the Authorization header is too long")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", refuse(ErrUnauthenticated, "send the key as Authorization: Bearer rbee_...")
	}
	return token, nil
}

// Authorize checks the scope; need "" means that anyone may.
func (g *Guard) Authorize(id Identity, need Scope) error {
	if need == "" || id.Scope.Allows(need) {
		return nil
	}
	return refuse(ErrForbidden, "this needs a key of scope %s, yours has %s: ask the operator for one", need, id.Scope)
}

type identityKey struct{}

// FromContext returns who the request came from, as Protect put it there.
func FromContext(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// Protect wraps a handler: scope says what a request needs ("" lets everyone in), fail writes the refusal (nil: plain
// text with the right status). Wrap it outside the mux, so that its 404s and redirects are covered too.
func (g *Guard) Protect(next http.Handler, scope func(*http.Request) Scope, fail func(http.ResponseWriter, *http.Request, error)) http.Handler {
	if fail == nil {
		fail = plainRefusal
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		need := scope(r)
		if need == "" {
			next.ServeHTTP(w, r)
			return
		}
		id, err := g.Authenticate(r.Context(), r)
		if err == nil {
			err = g.Authorize(id, need)
		}
		if err != nil {
			fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

func plainRefusal(w http.ResponseWriter, _ *http.Request, err error) {
	e, _ := err.(*Error)
	status := http.StatusUnauthorized
	if e != nil && e.Kind == ErrForbidden {
		status = http.StatusForbidden
	} else if e != nil && e.Kind == ErrDamped {
		status = http.StatusTooManyRequests
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	http.Error(w, err.Error(), status)
}

// CheckListen refuses to listen beyond loopback while no key exists, with a sentence that says what to do.
func CheckListen(addr string, anyKey bool) error {
	if anyKey || IsLoopback(addr) {
		return nil
	}
	return refuse(ErrForbidden, "will not listen on %s without an API key, anyone on the network could use this machine: start on "+
		"127.0.0.1 first, run `rbee key create --scope admin`, then listen on %s", addr, addr)
}

// IsLoopback reports whether HOST:PORT names a loopback address. An empty host (all addresses) is not one.
func IsLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
