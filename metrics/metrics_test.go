package metrics

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestLabelsAreBounded(t *testing.T) {
	b := newBound(3)
	for i := range 10 {
		b.value(fmt.Sprint(i))
	}
	if got := b.value("0"); got != "0" {
		t.Errorf("a known value became %q", got)
	}
	if got := b.value("99"); got != other {
		t.Errorf("a value beyond the bound stayed %q", got)
	}
	if got := b.value(""); got != "" {
		t.Errorf("nothing became %q", got)
	}
	if len(b.seen) != 3 {
		t.Errorf("%d values kept", len(b.seen))
	}
}

func TestStatusClasses(t *testing.T) {
	for status, want := range map[int]string{0: "", 200: "2xx", 302: "3xx", 404: "4xx", 499: "4xx", 503: "5xx", 700: ""} {
		if got := class(status); got != want {
			t.Errorf("%d: %q", status, got)
		}
	}
}

type coded struct{}

func (coded) Error() string { return "x" }
func (coded) Code() string  { return "WORKER_FAILED" }

func TestNoProvidersDoNothing(t *testing.T) {
	m, err := New(nil, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := m.Span(t.Context(), SpanRequest, "model", "demo")
	end(errors.New("x"))
	if got := m.Traceparent(ctx); got != "" {
		t.Errorf("traceparent %q", got)
	}
	stop, err := m.ObserveFleet(func() Fleet { return Fleet{} })
	if err != nil || stop() != nil {
		t.Error(err)
	}
	if got := code(fmt.Errorf("wrapped: %w", coded{})); got != "WORKER_FAILED" {
		t.Errorf("code %q", got)
	}
}

func TestTraceIsCarried(t *testing.T) {
	m, err := New(nil, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx := m.Extract(t.Context(), http.Header{"Traceparent": {parent}})
	if got := m.Traceparent(ctx); got != parent {
		t.Errorf("traceparent %q", got)
	}
	out := http.Header{}
	m.Inject(ctx, out)
	if out.Get("traceparent") != parent {
		t.Errorf("injected %v", out)
	}
}

func BenchmarkRequestDone(b *testing.B) {
	m, err := New(nil, nil, Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	r := Request{Operation: "chat", Model: "demo", Status: 200, Duration: time.Second, FirstToken: time.Millisecond, PerToken: time.Millisecond, Prompt: 5, Output: 9}
	for b.Loop() {
		m.RequestStart(b.Context(), "chat")
		m.RequestDone(b.Context(), r)
	}
}
