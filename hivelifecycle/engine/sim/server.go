package sim

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const maxBody = 32 << 20

// Options of a Server; all of them may be left out.
type Options struct {
	Alias  string       // the model's name in answers; "" = Config.Name
	APIKey string       // bearer key that everything but /health asks for; "" = none
	Logger *slog.Logger // nil = silent
	// Exit ends the process, for the faults that are a crash; nil = os.Exit.
	Exit func(code int)
}

// Server answers like an engine that has loaded one model. It is an http.Handler.
type Server struct {
	c      Config
	o      Options
	text   text
	cache  *cache
	faults faults
	slots  chan struct{}
	loaded atomic.Bool
	mux    *http.ServeMux
	ids    atomic.Int64
	jobs   jobs

	busy, waiting               atomic.Int64
	promptTotal, cachedTotal    atomic.Int64
	predictedTotal, answerTotal atomic.Int64
}

// New returns a server for the model that c describes; it is loaded already, see Load.
func New(c Config, o Options) *Server {
	if c.Slots <= 0 {
		c.Slots = DefaultSlots
	}
	if c.Prefill <= 0 {
		c.Prefill = DefaultPrefill
	}
	if o.Alias == "" {
		o.Alias = c.Name
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Exit == nil {
		o.Exit = os.Exit
	}
	s := &Server{c: c, o: o, text: text{vocabulary()}, cache: newCache(), faults: faults{list: c.Faults}, slots: make(chan struct{}, c.Slots), mux: http.NewServeMux()}
	s.loaded.Store(true)
	s.mux.HandleFunc("GET /health", s.health)
	s.mux.HandleFunc("GET /metrics", s.metrics)
	s.mux.HandleFunc("GET /v1/models", s.models)
	s.mux.HandleFunc("POST /v1/chat/completions", s.chat)
	s.mux.HandleFunc("POST /v1/completions", s.completions)
	s.mux.HandleFunc("POST /v1/embeddings", s.embeddings)
	s.mux.HandleFunc("POST /v1/execute", s.execute)
	s.mux.HandleFunc("POST /v1/cancel", s.cancel)
	return s
}

// Load spends Config.Load in ten steps, calling progress with the share that is done; until it returns, everything
// answers 503. It fails when the reference asks for that.
func (s *Server) Load(ctx context.Context, progress func(share float64)) error {
	s.loaded.Store(false)
	const steps = 10
	for i := range steps {
		if i == steps/2 && s.faults.static(FailLoad) {
			return errors.New("error loading model: the file is damaged (asked for by fail=load)")
		}
		if i == steps/2 && s.faults.static(FailOOM) {
			return errors.New("failed to allocate buffer: out of memory (asked for by fail=oom)")
		}
		if s.c.Load > 0 {
			if err := sleep(ctx, s.c.Load/steps); err != nil {
				return err
			}
			progress(float64(i+1) / steps)
		}
	}
	s.loaded.Store(true)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/health" {
		if s.o.APIKey != "" {
			key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if subtle.ConstantTimeCompare([]byte(key), []byte(s.o.APIKey)) != 1 {
				fail(w, http.StatusUnauthorized, "authentication_error", "invalid API key")
				return
			}
		}
		if !s.loaded.Load() && r.URL.Path != "/metrics" {
			fail(w, http.StatusServiceUnavailable, "unavailable_error", "Loading model")
			return
		}
	}
	s.mux.ServeHTTP(w, r)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	switch {
	case !s.loaded.Load():
		fail(w, http.StatusServiceUnavailable, "unavailable_error", "Loading model")
	case s.faults.static(FailHealth):
		fail(w, http.StatusInternalServerError, "server_error", "sick (asked for by fail=health)")
	default:
		reply(w, http.StatusOK, map[string]any{"status": "ok"})
	}
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]any{
		"id": s.o.Alias, "object": "model", "created": 0, "owned_by": "simulator",
		"description": "a simulated engine, not a language model"}}})
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	line := func(name, kind string, v int64) {
		_, _ = fmt.Fprintf(w, "# TYPE sim:%s %s\nsim:%s %d\n", name, kind, name, v)
	}
	line("requests_processing", "gauge", s.busy.Load())
	line("requests_deferred", "gauge", s.waiting.Load())
	line("slots", "gauge", int64(s.c.Slots))
	line("prompt_tokens_total", "counter", s.promptTotal.Load())
	line("cached_tokens_total", "counter", s.cachedTotal.Load())
	line("tokens_predicted_total", "counter", s.predictedTotal.Load())
	line("requests_total", "counter", s.answerTotal.Load())
}

// read decodes a bounded body; on failure it has answered.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "invalid_request_error", "the body can't be read or is over 32 MiB")
		return false
	}
	if err := json.Unmarshal(body, into); err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", "the body is not the JSON that this path takes: "+err.Error())
		return false
	}
	return true
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

func fail(w http.ResponseWriter, status int, kind, message string) {
	reply(w, status, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": status}})
}

// jobs are the running ones by id, for /v1/cancel.
type jobs struct {
	mu sync.Mutex
	m  map[string]context.CancelCauseFunc
}

var errCancelled = errors.New("cancelled")

func (j *jobs) add(id string, cancel context.CancelCauseFunc) (remove func()) {
	if id == "" {
		return func() {}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.m == nil {
		j.m = make(map[string]context.CancelCauseFunc)
	}
	j.m[id] = cancel
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.m, id)
	}
}

func (j *jobs) cancel(id string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	c, ok := j.m[id]
	if ok {
		c(errCancelled)
	}
	return ok
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) {
	var in struct {
		JobID string `json:"job_id"`
	}
	if read(w, r, &in) {
		reply(w, http.StatusOK, map[string]any{"job_id": in.JobID, "cancelled": s.jobs.cancel(in.JobID)})
	}
}
