package httpserver

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Pages reaches the HTTP server of a worker.
type Pages interface {
	Page(ctx context.Context, workerID string) (Page, error)
}

// Page is how a worker's own server is reached.
type Page struct {
	Dial   func(ctx context.Context) (net.Conn, error)
	Host   string // for the Host header
	APIKey string // bearer key that the engine checks, "" = none
}

// The bounds of a page: requests at once, the time until its headers, the time of a whole answer and its size.
const (
	pagesAtOnce = 32
	pageHeaders = 5 * time.Minute
	pageTime    = time.Hour
	pageBytes   = 4 << 30
)

// pageRoot is GET /v2/workers/{worker_id}/proxy: a page's relative links need the slash.
func (c *call) pageRoot() error {
	c.w.Header().Set("Location", "proxy/")
	c.w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

// workerPage is /v2/workers/{worker_id}/proxy/...: the request goes to the worker as it is, without the caller's credentials.
func (c *call) workerPage() error {
	if c.s.o.Pages == nil {
		return notAvailable("workers' pages")
	}
	id, err := c.name("worker_id")
	if err != nil {
		return err
	}
	if c.s.pages.Add(1) > pagesAtOnce {
		c.s.pages.Add(-1)
		return refuse(CodeSystemAtCapacity, "more than %d requests to workers' pages at once: try again in a moment", pagesAtOnce)
	}
	defer c.s.pages.Add(-1)
	ctx, cancel := context.WithTimeout(c.r.Context(), pageTime)
	defer cancel()
	p, err := c.s.o.Pages.Page(ctx, id)
	if err != nil {
		return err
	}
	prefix := "/v2/workers/" + c.vars["worker_id"] + "/proxy"
	rest := strings.TrimPrefix(c.r.URL.EscapedPath(), prefix)
	path, err := url.PathUnescape(rest)
	if err != nil || !strings.HasPrefix(rest, "/") {
		return invalid("", "the path after proxy/ can't be read")
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: pageHeaders, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return p.Dial(ctx) }}
	defer transport.CloseIdleConnections()
	var failed error
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: p.Host, Path: path, RawPath: rest, RawQuery: r.In.URL.RawQuery}
			r.Out.Host = p.Host
			r.Out.Header = pageHeader(r.In.Header, p.APIKey)
		},
		ModifyResponse: func(res *http.Response) error { return c.pageAnswer(res, prefix, p.Host) },
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { failed = err },
	}
	in := c.r.WithContext(ctx)
	if in.Body != nil && in.Body != http.NoBody {
		in.Body = http.MaxBytesReader(c.w.ResponseWriter, in.Body, c.s.o.MaxUpload)
	}
	c.w.pace() // the worker's time counts here, too
	proxy.ServeHTTP(c.w, in)
	return c.pageFailure(id, failed)
}

func (c *call) pageFailure(id string, err error) error {
	var large *http.MaxBytesError
	var own *Error
	switch {
	case err == nil, c.r.Context().Err() != nil:
		return c.r.Context().Err()
	case errors.As(err, &large):
		return tooLarge(large.Limit)
	case errors.As(err, &own):
		return own
	}
	return &Error{ErrCode: CodeWorkerFailed, Message: "worker " + id + " does not answer: see GET /v2/workers/health and rbee logs --worker " + id, Cause: err}
}

// pageHeader is what a worker is told: what describes the request, and the worker's own key; never the caller's
// credentials, cookies or addresses.
func pageHeader(in http.Header, key string) http.Header {
	out := http.Header{}
	for _, k := range []string{"Accept", "Accept-Language", "Content-Type", "Range", "If-Range", "If-None-Match", "If-Modified-Since", "Last-Event-Id", "Traceparent"} {
		if v, ok := in[k]; ok {
			out[k] = v
		}
	}
	out["User-Agent"] = []string{"queen-rbee"}
	if key != "" {
		out["Authorization"] = []string{"Bearer " + key}
	}
	return out
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9._:\[\]-]{1,255}$`)

// pageAnswer makes a worker's answer one that may come from the queen's origin: it sets no cookies, leads nowhere else,
// and its scripts reach its own endpoints only.
func (c *call) pageAnswer(res *http.Response, prefix, host string) error {
	h := res.Header
	for k := range h {
		if strings.HasPrefix(k, "Access-Control-") || strings.HasPrefix(k, "X-Rbee-") {
			h.Del(k)
		}
	}
	for _, k := range []string{"Set-Cookie", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", "Www-Authenticate", "Service-Worker-Allowed", "Refresh", "Link",
		"X-Request-Id", "X-Correlation-Id", "Content-Security-Policy-Report-Only"} {
		h.Del(k)
	}
	if err := pageLocation(h, prefix, host); err != nil {
		return err
	}
	h.Set("Content-Security-Policy", pageRules(c.r, prefix))
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	res.Body = bounded{io.LimitReader(res.Body, pageBytes), res.Body}
	return nil
}

type bounded struct {
	io.Reader
	io.Closer
}

// pageRules confines a page's scripts to the worker's own paths.
func pageRules(r *http.Request, prefix string) string {
	own := "'none'"
	if hostForm.MatchString(r.Host) {
		scheme := "http://"
		if r.TLS != nil {
			scheme = "https://"
		}
		own = scheme + r.Host + prefix + "/"
	}
	return "sandbox allow-scripts allow-forms allow-same-origin allow-modals allow-downloads; default-src " + own + " data: blob:; script-src " + own +
		" 'unsafe-inline' 'unsafe-eval' blob:; style-src " + own + " 'unsafe-inline'; connect-src " + own + "; frame-src " + own + "; form-action " + own +
		"; base-uri 'none'; object-src 'none'"
}

// pageLocation keeps a redirect within the worker; the browser follows it, the queen does not.
func pageLocation(h http.Header, prefix, host string) error {
	to := h.Get("Location")
	if to == "" {
		return nil
	}
	u, err := url.Parse(to)
	outside := func() bool { return slices.Contains(strings.Split(u.Path, "/"), "..") }
	if err != nil || outside() || (u.Host != "" && u.Host != host) || u.Opaque != "" || (u.Scheme != "" && u.Scheme != "http") {
		return refuse(CodeWorkerFailed, "the worker redirects to somewhere else; the queen does not lead there")
	}
	u.Scheme, u.Host = "", ""
	if strings.HasPrefix(u.Path, "/") {
		u.Path, u.RawPath = prefix+u.Path, ""
	}
	h.Set("Location", u.String())
	return nil
}
