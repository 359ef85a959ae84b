package httpserver

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// need returns the scope that a request wants: /v1, /api and one's own tasks infer, reading /v2 and adding models
// operate, the rest admin. The empty scope is for everyone.
func need(method, path string) Scope {
	read := method == http.MethodGet || method == http.MethodHead
	switch {
	case path == "/" || path == "/ui" || strings.HasPrefix(path, "/ui/") || path == "/openapi.json", path == "/docs",
		path == "/health", path == "/ready":
		return ScopeNone
	case path == "/api/pull":
		return ScopeOperate
	case under(path, "/v1"), under(path, "/api"), under(path, "/v2/tasks"):
		return ScopeInfer
	case path == "/v2/workers/register", strings.HasPrefix(path, "/v2/hives/") && strings.HasSuffix(path, "/heartbeat"):
		return ScopeHive
	case under(path, "/v2/keys"), under(path, "/v2/tenants"):
		return ScopeAdmin
	case ofPage(path):
		return ScopeOperate
	case under(path, "/metrics"), under(path, "/v2") && read:
		return ScopeOperate
	case path == "/v2/models/download", path == "/v2/scheduler/dry-run", path == "/v2/scheduler/replay",
		strings.HasPrefix(path, "/v2/models/"), strings.HasPrefix(path, "/v2/operations/"):
		return ScopeOperate
	}
	return ScopeAdmin
}

// ofPage reports whether a path is below a worker's own page.
func ofPage(path string) bool {
	rest, ok := strings.CutPrefix(path, "/v2/workers/")
	_, rest, slash := strings.Cut(rest, "/")
	return ok && slash && strings.HasPrefix(rest, "proxy/")
}

func under(path, root string) bool {
	return path == root || strings.HasPrefix(path, root) && path[len(root)] == '/'
}

func (s Scope) rank() int {
	switch s {
	case ScopeInfer:
		return 1
	case ScopeOperate:
		return 2
	case ScopeAdmin:
		return 3
	}
	return 0
}

// allows reports whether a caller of scope s may do what wants scope want.
func (s Scope) allows(want Scope) bool {
	switch want {
	case ScopeNone:
		return true
	case ScopeHive:
		return s == ScopeHive || s == ScopeAdmin
	}
	return s.rank() >= want.rank()
}

func (c *call) authorize() error {
	want := need(c.r.Method, c.r.URL.Path)
	if want == ScopeNone || (under(c.r.URL.Path, "/metrics") && c.direct()) {
		return nil
	}
	id, err := c.s.auth.Authenticate(c.r.Context(), c.r)
	if err != nil {
		c.keyBad = true
		return err
	}
	if !id.Scope.allows(want) {
		return refuse(CodeForbidden, "this key has scope %s; %s %s needs scope %s", id.Scope, c.r.Method, clip(c.r.URL.Path, 200), want)
	}
	c.id = id
	if want != ScopeInfer { // what changes something is asked by the backends, for the audit log; jobs carry it in the Request
		c.r = c.withIdentity()
	}
	return nil
}

// direct reports whether the request came over a loopback listener and through no proxy that says so.
func (c *call) direct() bool {
	return c.onLoopback() && first(c.r.Header, "X-Forwarded-For") == "" && first(c.r.Header, "Forwarded") == ""
}

// checkBrowser refuses foreign Host and Origin headers on a loopback listener: a page whose name was re-bound to
// 127.0.0.1, or that posts across origins, must not reach a server that asks for no key.
func (c *call) checkBrowser() error {
	if !c.onLoopback() {
		return nil
	}
	r := c.r
	if !c.knownHost() {
		return refuse(CodeForbidden, "host %q is not this server: call it by a loopback name, or add the name to http.hosts in the configuration", clip(r.Host, 100))
	}
	origins, ok := r.Header["Origin"]
	if !ok {
		return nil
	}
	if len(origins) == 1 {
		u, err := url.Parse(origins[0])
		if err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) || contains(c.s.o.AllowedOrigins, origins[0]) {
			return nil
		}
	}
	return refuse(CodeForbidden, "requests from pages of another origin are refused: add it to http.origins in the configuration, or call from a program")
}

// share tells a browser that the scripts of an allowed origin may read the answer; nothing is said to any other. done means
// that the request only asked what would be allowed.
func (c *call) share() (done bool) {
	if len(c.s.o.AllowedOrigins) == 0 {
		return false
	}
	h := c.w.Header()
	h.Add("Vary", "Origin")
	origin := c.r.Header["Origin"]
	if len(origin) != 1 || !contains(c.s.o.AllowedOrigins, origin[0]) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin[0])
	h.Set("Access-Control-Expose-Headers", "Retry-After, X-Request-Id, X-Correlation-Id, X-Rbee-Job-Id, X-Rbee-Worker-Id, X-Rbee-Queue-Ms, X-Rbee-Error")
	asked := c.r.Header.Get("Access-Control-Request-Method")
	if c.r.Method != http.MethodOptions || asked == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE")
	if names := c.r.Header.Get("Access-Control-Request-Headers"); len(names) <= 1024 && printable(names) {
		h.Set("Access-Control-Allow-Headers", names) // clients send some of their own; the key is one of them
	}
	h.Set("Access-Control-Max-Age", "600")
	c.w.WriteHeader(http.StatusNoContent)
	return true
}

func hostOnly(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

func localName(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func contains(list []string, v string) bool {
	for _, x := range list {
		if strings.EqualFold(x, v) {
			return true
		}
	}
	return false
}

// withIdentity returns the request as handlers of the Options see it.
func (c *call) withIdentity() *http.Request {
	return c.r.WithContext(context.WithValue(c.r.Context(), identityKey{}, c.id))
}
