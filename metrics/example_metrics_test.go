package metrics_test

import (
	"context"
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/metrics"
)

func Example() {
	// A program passes prommetrics' Meter() and Tracer(); nil does nothing.
	m, err := metrics.New(nil, nil, metrics.Options{Version: "1.0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, end := m.Span(context.Background(), metrics.SpanRequest)
	m.RequestStart(ctx, "chat")
	m.RequestDone(ctx, metrics.Request{Operation: "chat", Model: "demo", Status: 200, Duration: time.Second, Output: 7})
	end(nil)
	fmt.Println(len(metrics.Series()) > 15)
	// Output: true
}
