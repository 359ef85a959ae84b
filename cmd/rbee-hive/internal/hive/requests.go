package hive

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/metrics/correlate"
)

const maxRequestsKept = 1024

// requests remembers which client's request a worker or a download belongs to, for log lines and spans.
type requests struct {
	mu    sync.Mutex
	of    map[string]request // by worker id or model reference
	order []string
}

// request is what began some work.
type request struct {
	hiveapi.Request
	began time.Time
	told  bool // its span was sent
}

// begin remembers what a worker or reference is for. A later request for the same takes its place.
func (q *requests) begin(key string, r hiveapi.Request) {
	if key == "" || r == (hiveapi.Request{}) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.of == nil {
		q.of = map[string]request{}
	}
	if _, known := q.of[key]; !known {
		if q.order = append(q.order, key); len(q.order) > maxRequestsKept {
			delete(q.of, q.order[0])
			q.order = q.order[1:]
		}
	}
	q.of[key] = request{Request: r, began: time.Now()}
}

// correlation is the lookup of the log.
func (q *requests) correlation(key, value string) string {
	switch key {
	case "worker_id", "worker", "ref", "model_ref":
	default:
		return ""
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.of[value].CorrelationID
}

// end takes the span of what began under a key; false when there is none to tell, or it was told.
func (q *requests) end(key, name, code string, attrs map[string]string) (*hiveapi.Span, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r, ok := q.of[key]
	if !ok || r.told || r.Traceparent == "" {
		return nil, false
	}
	r.told = true
	q.of[key] = r
	return &hiveapi.Span{Traceparent: r.Traceparent, Name: name, StartAgo: time.Since(r.began), Code: code, Attrs: attrs}, true
}

// span tells the queen how long work for a traced request took.
func (h *Hive) span(key, name, code string, attrs map[string]string) {
	if s, ok := h.requests.end(key, name, code, attrs); ok {
		h.feed.publish(hiveapi.Event{Kind: hiveapi.EventSpan, Span: s})
	}
}

// spawned tells of a worker that has come up, or never will.
func (h *Hive) spawned(w hiveapi.Worker, gone bool) {
	code := ""
	switch {
	case w.State == hiveapi.WorkerFailed || gone:
		if code = w.ErrorCode; code == "" {
			code = "WORKER_FAILED"
		}
	case w.State == hiveapi.WorkerLoading:
		return
	}
	h.span(w.WorkerID, "spawn", code, map[string]string{"worker": w.WorkerID, "model": w.Model, "engine": w.Engine})
}

// downloaded tells of a model that has come, or not.
func (h *Hive) downloaded(ref, code string) {
	h.span(ref, "provision", code, map[string]string{"model_ref": ref})
}

// logLevel changes what is logged.
func (h *Hive) logLevel(w http.ResponseWriter, r *http.Request) {
	var in hiveapi.LogLevelRequest
	if !read(w, r, &in) {
		return
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(in.Level)); err != nil {
		refuse(w, http.StatusBadRequest, "INVALID_REQUEST", "level is debug, info, warn or error", nil)
		return
	}
	if old := h.level.Level(); old != l {
		h.level.Set(l)
		h.log.LogAttrs(context.WithoutCancel(r.Context()), max(l, slog.LevelInfo), "log level changed", slog.String("from", old.String()), slog.String("to", l.String()))
	}
	reply(w, http.StatusOK, map[string]string{"level": l.String()})
}

// logged writes a line for each command that a client's request caused.
func (h *Hive) logged(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if q := hiveapi.RequestOf(r.Header); q.CorrelationID != "" {
			h.log.Debug("command", "method", r.Method, "path", r.URL.Path, correlate.Key, q.CorrelationID)
		}
		next(w, r)
	}
}
