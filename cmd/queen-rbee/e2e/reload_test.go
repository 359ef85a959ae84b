package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHangUpReloadsTheConfiguration(t *testing.T) {
	q := start(t, "models:\n  demo: {ref: \"sim:demo\"}\n")
	text, err := os.ReadFile(q.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(q.config, append(text, "  second: {ref: \"sim:second\"}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := q.status("POST", "/v1/completions", `{"model":"second","prompt":"x","max_tokens":1}`); got != 404 {
		t.Fatalf("before the reload: %d", got)
	}
	_ = q.cmd.Process.Signal(syscall.SIGHUP)
	q.until("the new model is offered", 10*time.Second, func() bool {
		return q.status("POST", "/v1/completions", `{"model":"second","prompt":"x","max_tokens":1}`) == 200
	})
	// a broken file keeps what was there
	if err := os.WriteFile(q.config, []byte("modles: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = q.cmd.Process.Signal(syscall.SIGHUP)
	q.until("the refusal is logged", 10*time.Second, func() bool { return strings.Contains(q.logs(), "modles") })
	q.json("POST", "/v1/completions", `{"model":"second","prompt":"x","max_tokens":1}`, nil, 200)
}

// TestFeedTellsWhatChanges follows GET /v2/events while a worker is loaded and a job runs.
func TestFeedTellsWhatChanges(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	res, err := q.do(t.Context(), "GET", "/v2/events", nil, "Accept", "text/event-stream")
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v %v", err, res)
	}
	defer func() { _ = res.Body.Close() }()
	seen := map[string]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = events(res.Body, func(ev event) bool {
			seen[ev.name] = true
			return !(seen["job"] && seen["worker_added"])
		})
	}()
	<-time.After(200 * time.Millisecond)
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"x","max_tokens":1}`, nil, 200)
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the feed did not tell of the worker and the job")
	}
}
