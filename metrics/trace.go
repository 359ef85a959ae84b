package metrics

import (
	"context"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Trace is the trace of one request: a span for the request, and children that are told after the fact, with their
// times, so that a stage costs nothing while it runs. A nil Trace, which is what an unsampled request has, does nothing.
type Trace struct {
	tracer trace.Tracer
	span   trace.Span
	ctx    context.Context
}

// StartTrace begins the span of a request, under the caller's traceparent when there is one. It returns nil when nobody
// collects traces or this one is not sampled: a traceparent that came in is then to be passed on as it is.
func (i *Instruments) StartTrace(traceparent, name string, at time.Time, attrs ...string) *Trace {
	if i.silent {
		return nil
	}
	ctx := i.parent(traceparent)
	ctx, span := i.tracer.Start(ctx, name, trace.WithTimestamp(at), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(pairs(attrs)...))
	if !span.IsRecording() {
		return nil
	}
	return &Trace{tracer: i.tracer, span: span, ctx: ctx}
}

// parent is a context with the span that a traceparent names.
func (i *Instruments) parent(traceparent string) context.Context {
	ctx := context.Background()
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(http.Header{"Traceparent": {traceparent}}))
}

// Traceparent is what goes out with calls that belong to the request; empty without a trace.
func (t *Trace) Traceparent() string {
	if t == nil {
		return ""
	}
	return traceparent(t.span.SpanContext())
}

// traceparent writes the header of version 00.
func traceparent(c trace.SpanContext) string {
	if !c.IsValid() {
		return ""
	}
	const digits = "0123456789abcdef"
	id, span := c.TraceID(), c.SpanID()
	b := append(make([]byte, 0, 55), "00-"...)
	for _, x := range id {
		b = append(b, digits[x>>4], digits[x&15])
	}
	b = append(b, '-')
	for _, x := range span {
		b = append(b, digits[x>>4], digits[x&15])
	}
	if c.IsSampled() {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// Child records a stage that began and ended at the given times. Keys and values of attributes alternate.
func (t *Trace) Child(name string, from, to time.Time, err error, attrs ...string) {
	if t == nil {
		return
	}
	_, span := t.tracer.Start(t.ctx, name, trace.WithTimestamp(from), trace.WithAttributes(pairs(attrs)...))
	finish(span, err, to)
}

// Event notes something that happened at a point of the request.
func (t *Trace) Event(name string, attrs ...string) {
	if t != nil {
		t.span.AddEvent(name, trace.WithAttributes(pairs(attrs)...))
	}
}

// Context carries the request's span, for Span and Inject; ctx itself without a trace.
func (t *Trace) Context(ctx context.Context) context.Context {
	if t == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, t.span)
}

// End ends the request's span with what became of it: code is empty for success.
func (t *Trace) End(code string, at time.Time, attrs ...string) {
	if t == nil {
		return
	}
	if code != "" {
		t.span.SetStatus(codes.Error, code)
	}
	if len(attrs) > 0 {
		t.span.SetAttributes(pairs(attrs)...)
	}
	t.span.End(trace.WithTimestamp(at))
}

// Remote is a span that another process measured and told of.
type Remote struct {
	Traceparent string // of the span that it continues
	Name        string
	Start, End  time.Time
	Code        string   // of the error, empty for success
	Attrs       []string // keys and values
}

// RecordRemote records the span of another process, as a service of its own name where Options.Remote is set. One whose
// traceparent is not valid, or not sampled, is dropped.
func (i *Instruments) RecordRemote(r Remote) {
	if i.silent {
		return
	}
	ctx := i.parent(r.Traceparent)
	if c := trace.SpanContextFromContext(ctx); !c.IsValid() || !c.IsSampled() {
		return
	}
	_, span := i.remote.Start(ctx, r.Name, trace.WithTimestamp(r.Start), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(pairs(r.Attrs)...))
	if r.Code != "" {
		span.SetStatus(codes.Error, r.Code)
	}
	span.End(trace.WithTimestamp(r.End))
}

func finish(span trace.Span, err error, at time.Time) {
	if err != nil {
		span.SetStatus(codes.Error, code(err))
	}
	span.End(trace.WithTimestamp(at))
}

func pairs(kv []string) []attribute.KeyValue {
	if len(kv) < 2 {
		return nil
	}
	out := make([]attribute.KeyValue, 0, len(kv)/2)
	for k := 0; k+1 < len(kv); k += 2 {
		if kv[k+1] != "" {
			out = append(out, attribute.String(kv[k], kv[k+1]))
		}
	}
	return out
}
