package prommetrics

import (
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func TestSamplerLimitsTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := func(s sdktrace.Sampler) (n int) {
			for range 10 * tracesPerSecond {
				if s.ShouldSample(sdktrace.SamplingParameters{ParentContext: t.Context()}).Decision == sdktrace.RecordAndSample {
					n++
				}
			}
			return n
		}
		s := root(0)
		if n := count(s); n != tracesPerSecond {
			t.Errorf("%d traces at once, want %d", n, tracesPerSecond)
		}
		<-time.After(time.Second)
		if n := count(s); n != tracesPerSecond {
			t.Errorf("%d traces a second later, want %d", n, tracesPerSecond)
		}
		if n := count(root(1)); n != 10*tracesPerSecond {
			t.Errorf("ratio 1: %d traces", n)
		}
	})
}
