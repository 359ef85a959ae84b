package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// TestReloadTakesOverWhatItCan: an engine with its model, an external server that comes and goes, the default limits; and
// the queen says what has to wait.
func TestReloadTakesOverWhatItCan(t *testing.T) {
	const models = "models:\n  demo: {ref: \"sim:demo\"}\n"
	q := start(t, models)
	text, err := os.ReadFile(q.config)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(more, said string) {
		t.Helper()
		if err := os.WriteFile(q.config, append(text[:len(text):len(text)], more...), 0o600); err != nil {
			t.Fatal(err)
		}
		before := strings.Count(q.logs(), said)
		_ = q.cmd.Process.Signal(syscall.SIGHUP)
		q.until("the queen says "+said, 20*time.Second, func() bool { return strings.Count(q.logs(), said) > before })
	}
	ask := func(model string) int {
		return q.status("POST", "/v1/completions", `{"model":"`+model+`","prompt":"x","max_tokens":1}`)
	}
	served := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"c","object":"text_completion","created":1,"model":"there","choices":[{"index":0,"text":"x","finish_reason":"stop","logprobs":null}],`+
			`"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}))
	defer served.Close()

	// an engine of the operator's own: the hive's simulator, started as any command is
	own := "  mine: {ref: \"file:" + q.config + "\", engine: mine}\nengines:\n  mine: {command: [\"" + filepath.Join(q.bin, "rbee-hive") +
		"\", sim-worker, --port, \"{port}\", --model, \"sim:mine\"], protocol: execute, health: /health, ready_timeout: 20s}\n"
	ext := "externals:\n  - {name: nas, url: \"" + served.URL + "\", models: {far: there}}\n"
	reload(own+ext+"queue: {max: 77}\n", "keys=queue")
	if got := ask("far"); got != 200 {
		t.Errorf("a new external server: %d", got)
	}
	if got := ask("mine"); got != 200 {
		t.Errorf("a new engine's model: %d", got)
	}
	reload("limits: {default: {rpm: 2}}\n", "configuration reloaded")
	if got := ask("far"); got != 404 {
		t.Errorf("an external server that is gone: %d", got)
	}
	for _, want := range []int{200, 200, 429} {
		if got := ask("demo"); got != want {
			t.Errorf("with a new default of two requests a minute: %d, want %d", got, want)
		}
	}
	reload("  odd: {ref: \"sim:odd\", engine: nope}\n", "nope")
	if got := ask("odd"); got != 404 {
		t.Errorf("a model of an engine that is not there: %d", got)
	}
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
