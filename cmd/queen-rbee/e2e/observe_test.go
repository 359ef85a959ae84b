package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// span is one span as a collector got it.
type span struct {
	trace, id, parent, name, service string
}

// collected is an OTLP receiver.
type collected struct {
	mu    sync.Mutex
	spans []span
}

func (c *collected) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var in collector.ExportTraceServiceRequest
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(b, &in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range in.ResourceSpans {
		service := ""
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans = append(c.spans, span{fmt.Sprintf("%x", s.TraceId), fmt.Sprintf("%x", s.SpanId), fmt.Sprintf("%x", s.ParentSpanId), s.Name, service})
			}
		}
	}
}

// of gives the spans of a trace by service and name.
func (c *collected) of(trace string) map[string]span {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]span{}
	for _, s := range c.spans {
		if s.trace == trace {
			out[s.service+"/"+s.name] = s
		}
	}
	return out
}

// TestOneTraceAcrossTheFleet: a request that finds its model cold has one trace in a real OTLP receiver, whose spans hang
// together across queen, hive and worker, and one correlation id in both logs.
func TestOneTraceAcrossTheFleet(t *testing.T) {
	c := &collected{}
	srv := httptest.NewServer(c)
	defer srv.Close()
	var parent sync.Map
	worker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parent.Store(r.URL.Path, r.Header.Get("Traceparent"))
		_, _ = io.WriteString(w, `{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}))
	defer worker.Close()
	q := start(t, "telemetry: {otlp_endpoint: \""+srv.URL+"\"}\nmodels: {demo: {ref: \"sim:demo?load=300ms\"}}\nexternals:\n  - {name: out, url: \""+worker.URL+"\", protocol: openai, models: {outside: x}, slots: 1}\n", "--log-format", "json")
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	q.json("POST", "/v1/chat/completions", map[string]any{"model": "demo", "max_tokens": 3, "messages": []map[string]string{{"role": "user", "content": "hello"}}},
		nil, 200, "traceparent", "00-"+trace+"-00f067aa0ba902b7-01", "X-Correlation-Id", "tour-1")
	want := []string{"queen-rbee/request", "queen-rbee/admit", "queen-rbee/schedule", "queen-rbee/queue", "queen-rbee/provision", "queen-rbee/spawn",
		"queen-rbee/relay", "rbee-hive/provision", "rbee-hive/spawn"}
	var spans map[string]span
	q.until("the whole trace", 20*time.Second, func() bool {
		spans = c.of(trace)
		return !slices.ContainsFunc(want, func(n string) bool { _, ok := spans[n]; return !ok })
	})
	request := spans["queen-rbee/request"]
	if request.parent != "00f067aa0ba902b7" {
		t.Errorf("the request is not the caller's child: %+v", request)
	}
	for _, n := range want[1:7] {
		if spans[n].parent != request.id {
			t.Errorf("%s is not a child of the request: %+v", n, spans[n])
		}
	}
	for _, n := range []string{"spawn", "provision"} {
		if spans["rbee-hive/"+n].parent != spans["queen-rbee/"+n].id {
			t.Errorf("the hive's %s does not continue the queen's", n)
		}
	}
	q.json("POST", "/v1/chat/completions", map[string]any{"model": "outside", "messages": []map[string]string{{"role": "user", "content": "hello"}}},
		nil, 200, "traceparent", "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	got, _ := parent.Load("/v1/chat/completions")
	if s, _ := got.(string); !strings.HasPrefix(s, "00-5bf92f3577b34da6a3ce929d0e0e4736-") || strings.Contains(s, "00f067aa0ba902b7") {
		t.Errorf("the worker got traceparent %v", got)
	}
	hive := q.hiveLog()
	if !regexp.MustCompile(`a worker is starting.*tour-1`).MatchString(hive) {
		t.Errorf("the hive's log has no correlation id:\n%s", hive)
	}
	if !regexp.MustCompile(`"loaded".*"correlation_id":"tour-1"`).MatchString(q.logs()) {
		t.Error("the queen's line about the load has no correlation id")
	}
}

// hiveLog is the local hive's own log.
func (q *queen) hiveLog() string {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := q.do(ctx, "GET", "/v2/logs?node=local&tail=500", nil)
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	return string(b)
}

// TestLogLevelChangesWhileItRuns: SIGHUP takes over log.level, in the queen and in her hive.
func TestLogLevelChangesWhileItRuns(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	ask := func(id string) {
		q.json("POST", "/v1/chat/completions", map[string]any{"model": "demo", "max_tokens": 1, "messages": []map[string]string{{"role": "user", "content": "x"}}},
			nil, 200, "X-Correlation-Id", id)
	}
	ask("before-1")
	if strings.Contains(q.logs(), "level=DEBUG") {
		t.Fatal("debug lines at level info")
	}
	text, err := os.ReadFile(q.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(q.config, append(text, "log: {level: debug}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := q.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	q.until("the hive's level changes", 10*time.Second, func() bool { return strings.Contains(q.hiveLog(), "log level changed") })
	ask("after-1")
	q.until("the job's debug line", 10*time.Second, func() bool {
		return regexp.MustCompile(`level=DEBUG msg=job .*correlation_id=after-1`).MatchString(q.logs())
	})
}

// TestPrometheusReadsTheFleet: a real Prometheus finds queen and engines by http_sd and has their series after traffic.
func TestPrometheusReadsTheFleet(t *testing.T) {
	bin, err := exec.LookPath("prometheus")
	need(t, err == nil, "prometheus (test data)")
	promtool, err := exec.LookPath("promtool")
	need(t, err == nil, "promtool (test data)")
	llama, model := llamaServer(t)
	q := start(t, fmt.Sprintf("engines: {mine: {adapter: llama.cpp, command: [%q, \"-m\", \"{model_path}\", \"--host\", \"127.0.0.1\", \"--port\", \"{port}\", \"-t\", \"1\", \"-tb\", \"1\", \"-np\", \"{slots}\", \"-c\", \"{context}\", \"--metrics\"]}}\nmodels: {stories: {ref: %q, engine: mine, slots: 1, context: 512}}\n", llama, "file:"+model))
	q.json("POST", "/v1/chat/completions", map[string]any{"model": "stories", "max_tokens": 8, "stream": true, "messages": []map[string]string{{"role": "user", "content": "Once"}}}, nil, 200)

	page := q.text("/metrics")
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = strings.NewReader(page)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 500ms, scrape_timeout: 400ms}\nscrape_configs: [{job_name: rbee, http_sd_configs: [{url: %q, refresh_interval: 1s}]}]\n", q.url+"/metrics/targets")
	if err := os.WriteFile(filepath.Join(dir, "p.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	free := httptest.NewServer(http.NotFoundHandler())
	listen := strings.TrimPrefix(free.URL, "http://")
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, bin, "--config.file="+dir+"/p.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+listen)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	for _, series := range []string{`up{job="queen"} == 1`, `up{job="engines"} == 1`, `rbee_hive_up{hive="local"} == 1`,
		`gen_ai_server_request_duration_seconds_count{gen_ai_request_model="stories",gen_ai_operation_name="chat",status="2xx"} == 1`,
		`gen_ai_server_time_to_first_token_seconds_count`, `gen_ai_client_token_usage_sum{gen_ai_token_type="output"} > 0`, `rbee_queue_depth`,
		`rbee_queue_wait_seconds_count > 0`, `rbee_schedule_duration_seconds_count > 0`, `rbee_hive_vram_bytes{state="free"}`, `rbee_worker_state{model="stories"} == 1`,
		`rbee_model_load_seconds_count{model="stories"} == 1`, `rbee_build_info`,
		`llamacpp:tokens_predicted_total{hive="local",model="stories",worker=~"w-.*"} > 0`, `llamacpp:requests_processing{hive="local"}`} {
		q.until("prometheus has "+series, 30*time.Second, func() bool { return has(ctx, listen, series) })
	}
}

// has asks a Prometheus whether an expression has a result.
func has(ctx context.Context, addr, expr string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = res.Body.Close() }()
	var out struct {
		Data struct{ Result []json.RawMessage }
	}
	return json.NewDecoder(res.Body).Decode(&out) == nil && len(out.Data.Result) > 0
}

// text is the body of an answer.
func (q *queen) text(path string) string {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := q.do(ctx, "GET", path, nil)
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		q.t.Fatalf("%s: %d %v", path, res.StatusCode, err)
	}
	return string(b)
}
