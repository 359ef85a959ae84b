package prommetrics_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/metrics/prommetrics"
)

func Example() {
	ctx := context.Background()
	p, err := prommetrics.New(ctx, prommetrics.Options{Version: "1.0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer p.Shutdown(ctx)
	m, err := metrics.New(p.Meter(), p.Tracer(), metrics.Options{Version: "1.0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	m.Rejected(ctx, "RATE_LIMITED")
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	fmt.Println(strings.Contains(w.Body.String(), `rbee_admission_rejected_total{code="RATE_LIMITED"} 1`))
	// Output: true
}
