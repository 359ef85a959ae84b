package metrics

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Span starts a span under the one in ctx. end must be called once, with the error that the work ended in: its
// code is recorded and not its text.
func (i *Instruments) Span(ctx context.Context, name string, attrs ...string) (_ context.Context, end func(error)) {
	ctx, span := i.tracer.Start(ctx, name)
	if !span.IsRecording() {
		return ctx, func(error) { span.End() }
	}
	for k := 0; k+1 < len(attrs); k += 2 {
		span.SetAttributes(attribute.String(attrs[k], attrs[k+1]))
	}
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, code(err))
		}
		span.End()
	}
}

func code(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return "error"
}

// Extract takes over the trace of an incoming request (traceparent).
func (i *Instruments) Extract(ctx context.Context, h http.Header) context.Context {
	if h.Get("traceparent") == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(h))
}

// Inject writes the trace into an outgoing request's header.
func (i *Instruments) Inject(ctx context.Context, h http.Header) {
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
}

// Traceparent returns the traceparent of the span in ctx, empty when there is none.
func (i *Instruments) Traceparent(ctx context.Context) string {
	return traceparent(trace.SpanContextFromContext(ctx))
}
