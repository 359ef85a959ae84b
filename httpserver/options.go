package httpserver

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"
)

// Authenticator says who sent a request. Its errors are coded: UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED.
type Authenticator interface {
	Authenticate(ctx context.Context, r *http.Request) (Identity, error)
}

// Options of a Server. The zero value serves the job surface alone; each interface that is given adds its endpoints.
type Options struct {
	Jobs     Jobs
	Catalog  Catalog
	Models   Models
	Workers  Workers
	Hives    Hives
	Feed     Feed
	Logs     Logs
	Policies Policies
	Tenants  Tenants
	Keys     Keys
	Doctor   Doctor
	Admin    Admin
	Targets  Targets
	Loader   Loader
	Engines  Engines
	Pages    Pages

	Ready         func(context.Context) error // nil error: ready; nil func: always
	Metrics       http.Handler                // GET /metrics
	EngineMetrics http.Handler                // GET /metrics/engines
	Console       http.Handler                // GET /ui/...; nil: a plain status page
	Batches       http.Handler                // /v1/files and /v1/batches; use IdentityOf to know the caller

	Version       string // what /health and the API document say
	OllamaVersion string // the version of Ollama's API that /api/version claims, "" = 0.12.0

	MaxBody     int64         // largest JSON body, 0 = 8 MiB
	MaxUpload   int64         // largest multipart body, 0 = 64 MiB
	MaxDepth    int           // deepest JSON, 0 = 128
	BodyMemory  int64         // bytes that large bodies may hold at once, 0 = 8 times MaxUpload
	BodyTimeout time.Duration // longest time for a body to arrive, 0 = 60 s
	HeaderTime  time.Duration // longest time for a request's headers, 0 = 10 s
	IdleTimeout time.Duration // keep-alive, 0 = 120 s
	// WriteTimeout is the longest time for a part of an answer to be taken by the client, 0 = 60 s. Streams of jobs have their
	// Job's own.
	WriteTimeout time.Duration
	PingEvery    time.Duration // comment lines on event feeds, 0 = 15 s

	// AllowedHosts and AllowedOrigins add to what a loopback listener accepts in Host and Origin. Only scripts of an allowed
	// origin may read answers (CORS); there is no wildcard.
	AllowedHosts, AllowedOrigins []string

	// TLS, when not nil, is spoken on what Serve's listener accepts; where its NextProtos begin with h2, clients get HTTP/2.
	TLS *tls.Config
	// Poller, when not nil, lets long streams go on without a goroutine each: see Taker.
	Poller Poller
	// Observe is told of each answered request by a bounded route name, such as "/v2/tasks/{job_id}"; may be nil.
	Observe func(route, method string, status int, took time.Duration)
	Log     *slog.Logger     // nil = discard
	Clock   func() time.Time // nil = time.Now
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if o.MaxBody <= 0 {
		o.MaxBody = 8 << 20
	}
	if o.MaxUpload <= 0 {
		o.MaxUpload = 64 << 20
	}
	if o.MaxDepth <= 0 {
		o.MaxDepth = 128
	}
	if o.BodyMemory <= 0 {
		o.BodyMemory = 8 * o.MaxUpload
	}
	def(&o.BodyTimeout, 60*time.Second)
	def(&o.HeaderTime, 10*time.Second)
	def(&o.IdleTimeout, 120*time.Second)
	def(&o.WriteTimeout, 60*time.Second)
	def(&o.PingEvery, 15*time.Second)
	if o.OllamaVersion == "" {
		o.OllamaVersion = "0.12.0"
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o
}
