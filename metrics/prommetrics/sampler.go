package prommetrics

import (
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// tracesPerSecond is how many requests a second are traced by default: at a home's traffic all of them, and in a flood
// few enough that traces cost next to nothing.
const tracesPerSecond = 100

// limited is a sampler of at most so many traces a second.
type limited struct{ *rate.Limiter }

func newLimited(perSecond int) limited {
	return limited{rate.NewLimiter(rate.Limit(perSecond), perSecond)}
}

// ShouldSample implements sdktrace.Sampler.
func (l limited) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	res := sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	if l.Allow() {
		res.Decision = sdktrace.RecordAndSample
	}
	return res
}

// Description implements sdktrace.Sampler.
func (l limited) Description() string { return fmt.Sprintf("AtMost{%v/s}", l.Limit()) }

// root is the sampler of requests whose caller did not decide.
func root(ratio float64) sdktrace.Sampler {
	switch {
	case ratio <= 0:
		return newLimited(tracesPerSecond)
	case ratio < 1:
		return sdktrace.TraceIDRatioBased(ratio)
	}
	return sdktrace.AlwaysSample()
}
