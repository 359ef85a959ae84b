package hiveapi

import (
	"context"
	"net/http"
	"regexp"
	"time"
)

// Request says which client's request a call to a hive belongs to: for its log lines and its spans.
type Request struct {
	CorrelationID string
	Traceparent   string // W3C trace context, version 00
}

type requestKey struct{}

// WithRequest makes the calls of a Client that are given the context carry the request's ids.
func WithRequest(ctx context.Context, r Request) context.Context {
	return context.WithValue(ctx, requestKey{}, r)
}

// RequestFrom returns what WithRequest has put into a context.
func RequestFrom(ctx context.Context) Request {
	r, _ := ctx.Value(requestKey{}).(Request)
	return r
}

var (
	plainID     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	traceparent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// set writes the ids into a request's header.
func (r Request) set(h http.Header) {
	if r.CorrelationID != "" {
		h.Set("X-Correlation-Id", r.CorrelationID)
	}
	if r.Traceparent != "" {
		h.Set("Traceparent", r.Traceparent)
	}
}

// RequestOf reads the ids of a call that a hive received; what is not well-formed is left out.
func RequestOf(h http.Header) Request {
	var r Request
	if id := h.Get("X-Correlation-Id"); plainID.MatchString(id) {
		r.CorrelationID = id
	}
	if tp := h.Get("Traceparent"); traceparent.MatchString(tp) {
		r.Traceparent = tp
	}
	return r
}

// Span is a piece of work that a hive did for a request. The hive has no way to a collector of traces: it tells its queen,
// in times before the event, so that the clocks of two machines need not agree.
type Span struct {
	Traceparent string            `json:"traceparent"` // of the call that asked for the work
	Name        string            `json:"name"`
	StartAgo    time.Duration     `json:"start_ago_ns"`
	EndAgo      time.Duration     `json:"end_ago_ns"`
	Code        string            `json:"code,omitempty"` // of the error that it ended in
	Attrs       map[string]string `json:"attrs,omitempty"`
}

// LogLevelRequest is the body of PathLogLevel.
type LogLevelRequest struct {
	Level string `json:"level"` // debug, info, warn or error
}

// SetLogLevel changes what the hive logs, until it ends.
func (c *Client) SetLogLevel(ctx context.Context, level string) error {
	return c.call(ctx, http.MethodPost, PathLogLevel, nil, LogLevelRequest{Level: level}, nil, true)
}
