// Package correlate puts the correlation id of a request on log lines that know only what belongs to it: a job, a worker,
// a download. Libraries log what they know; the program says which request that belongs to. It imports the standard
// library only.
package correlate

import (
	"context"
	"log/slog"
)

// Key is the attribute that holds a correlation id.
const Key = "correlation_id"

// Lookup says which request an attribute of a log line belongs to: the correlation id, or "" when it does not know.
type Lookup func(key, value string) string

// Handler adds Key to each record that has not got it and of which Lookup knows the request.
type Handler struct {
	next   slog.Handler
	lookup Lookup
	found  bool // WithAttrs has set the id already
}

var _ slog.Handler = (*Handler)(nil)

// New wraps a handler. The lookup is called from any goroutine that logs, once for each string attribute until it knows;
// it must not log.
func New(next slog.Handler, lookup Lookup) *Handler { return &Handler{next: next, lookup: lookup} }

// Enabled implements slog.Handler.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if h.found {
		return h.next.Handle(ctx, r)
	}
	id, has := "", false
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == Key {
			has = true
			return false
		}
		if id == "" && a.Value.Kind() == slog.KindString {
			id = h.lookup(a.Key, a.Value.String())
		}
		return true
	})
	if !has && id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String(Key, id))
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	for _, a := range attrs {
		if a.Key == Key {
			out.found = true
		}
	}
	if !out.found {
		for _, a := range attrs {
			if a.Value.Kind() != slog.KindString {
				continue
			}
			if id := h.lookup(a.Key, a.Value.String()); id != "" {
				attrs = append(append([]slog.Attr(nil), attrs...), slog.String(Key, id))
				out.found = true
				break
			}
		}
	}
	out.next = h.next.WithAttrs(attrs)
	return &out
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	out := *h
	out.next = h.next.WithGroup(name)
	return &out
}
