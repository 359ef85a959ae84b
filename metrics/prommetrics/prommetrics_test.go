package prommetrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/metrics"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everything uses each instrument once.
func everything(t testing.TB, m *metrics.Instruments) {
	ctx := t.Context()
	m.RequestStart(ctx, "chat")
	m.RequestDone(ctx, metrics.Request{Operation: "chat", Model: "demo", Status: 503, Code: "WORKER_FAILED", Duration: time.Second,
		FirstToken: 20 * time.Second, PerToken: 5 * time.Millisecond, Prompt: 12, Output: 7, Cached: 3})
	m.QueueWait(ctx, "batch", time.Second)
	m.Rejected(ctx, "RATE_LIMITED")
	m.ScheduleDuration(ctx, "route", 3*time.Microsecond)
	m.ModelLoad(ctx, "local", "demo", 2*time.Second)
	m.DownloadBytes(ctx, "local", 1<<20)
	m.Evicted(ctx, "worker")
	m.Retried(ctx, "spawn")
	m.Rescued(ctx, "continue")
	m.StreamAborted(ctx, "client")
	if _, err := m.ObserveFleet(func() metrics.Fleet {
		return metrics.Fleet{
			Queue:   []metrics.Depth{{Priority: "interactive", Jobs: 2}, {Priority: "batch"}},
			Hives:   []metrics.Hive{{Name: "local", Up: true, Devices: []metrics.Device{{ID: "cpu0", Total: 100, Free: 40}}}, {Name: "gpu1"}},
			Workers: []metrics.Workers{{Hive: "local", Model: "demo", State: "idle", Count: 1}},
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func provider(t testing.TB, o Options) (*Provider, *metrics.Instruments) {
	t.Helper()
	p, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	m, err := metrics.New(p.Meter(), p.Tracer(), metrics.Options{Version: "1.2.3", Commit: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	return p, m
}

func scrape(t testing.TB, p *Provider) string {
	t.Helper()
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestEverySeriesIsThereAndNoOther(t *testing.T) {
	p, m := provider(t, Options{NoRuntime: true})
	everything(t, m)
	page := scrape(t, p)
	var got []string
	for _, found := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(page, -1) {
		got = append(got, found[1])
	}
	want := metrics.Series()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("series\n got %v\nwant %v", got, want)
	}
	for _, line := range []string{
		`rbee_hive_up{hive="local"} 1`, `rbee_hive_up{hive="gpu1"} 0`,
		`rbee_hive_vram_bytes{device="cpu0",hive="local",state="used"} 60`,
		`rbee_worker_state{hive="local",model="demo",state="idle"} 1`,
		`rbee_queue_depth{priority="interactive"} 2`,
		`rbee_model_load_seconds_count{hive="local",model="demo"} 1`,
		`rbee_stream_aborted_total{side="client"} 1`,
		`rbee_requests_active{gen_ai_operation_name="chat"} 0`,
		`gen_ai_server_request_duration_seconds_count{error_type="WORKER_FAILED",gen_ai_operation_name="chat",gen_ai_provider_name="queen-rbee",gen_ai_request_model="demo",status="5xx"} 1`,
		`gen_ai_server_time_to_first_token_seconds_bucket{gen_ai_operation_name="chat",gen_ai_provider_name="queen-rbee",gen_ai_request_model="demo",le="20"} 1`,
		`gen_ai_client_token_usage_sum{gen_ai_operation_name="chat",gen_ai_provider_name="queen-rbee",gen_ai_request_model="demo",gen_ai_token_type="output"} 7`,
	} {
		if !strings.Contains(page, line+"\n") {
			t.Errorf("%s is missing", line)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestPromtoolIsContent(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		missing(t, "promtool, which checks metric data, is not installed: make deps")
	}
	p, m := provider(t, Options{})
	everything(t, m)
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(scrape(t, p))
	if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// missing skips for want of a tool; under RBEE_CI that is a failure.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip("test data tool: " + what)
}

func TestManyModelsStayBounded(t *testing.T) {
	p, m := provider(t, Options{NoRuntime: true})
	for i := range 5000 {
		m.RequestStart(t.Context(), "chat")
		m.RequestDone(t.Context(), metrics.Request{Operation: "chat", Model: fmt.Sprint("m", i), Status: 200, Duration: time.Second})
	}
	if n := strings.Count(scrape(t, p), "gen_ai_server_request_duration_seconds_count{"); n > 201 {
		t.Errorf("%d series of 5,000 models", n)
	}
}

// TestValuesAreReadWhole reads while many record: what was recorded before a scrape is in it, each value once.
func TestValuesAreReadWhole(t *testing.T) {
	p, m := provider(t, Options{NoRuntime: true})
	const workers, each = 8, 1001
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				m.RequestStart(t.Context(), "chat")
				m.ScheduleDuration(t.Context(), "route", time.Microsecond)
				m.QueueWait(t.Context(), "batch", time.Millisecond)
				m.RequestDone(t.Context(), metrics.Request{Operation: "chat", Model: "m", Status: 200, Duration: time.Second, FirstToken: time.Second, Prompt: 3, Output: 2})
				if i%100 == 0 {
					scrape(t, p)
				}
			}
		})
	}
	wg.Wait()
	m.RequestStart(t.Context(), "chat")
	text := scrape(t, p)
	for series, want := range map[string]int{
		`gen_ai_server_request_duration_seconds_count{`: workers * each, `gen_ai_server_time_to_first_token_seconds_count{`: workers * each,
		`rbee_schedule_duration_seconds_count{`: workers * each, `rbee_queue_wait_seconds_count{`: workers * each, `rbee_requests_active{`: 1,
		`gen_ai_token_type="input"`: 3 * workers * each, `gen_ai_token_type="output"`: 2 * workers * each,
	} {
		got := -1
		for line := range strings.Lines(text) {
			if strings.Contains(line, series) && !strings.Contains(line, "_bucket{") && (strings.Contains(line, "_count{") == strings.Contains(series, "_count{")) {
				_, v, _ := strings.Cut(line, "} ")
				n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				if err != nil {
					t.Fatal(err)
				}
				got = int(n)
			}
		}
		if got != want {
			t.Errorf("%s: %d, want %d", series, got, want)
		}
	}
}

// BenchmarkRecorded is what a request's metrics cost with the SDK behind them.
func BenchmarkRecorded(b *testing.B) {
	_, m := provider(b, Options{NoRuntime: true})
	r := metrics.Request{Operation: "chat", Model: "demo", Status: 200, Duration: time.Second, FirstToken: time.Millisecond, Prompt: 5, Output: 9}
	b.ReportAllocs()
	for b.Loop() {
		m.RequestStart(b.Context(), "chat")
		m.ScheduleDuration(b.Context(), "route", time.Microsecond)
		m.QueueWait(b.Context(), "interactive", time.Millisecond)
		m.RequestDone(b.Context(), r)
	}
}

// receiver is an OTLP receiver that keeps the spans.
type receiver struct {
	mu    sync.Mutex
	spans map[string]string // name -> parent's name or id
	trace map[string]bool
	seen  *collector.ExportTraceServiceRequest
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b, err := io.ReadAll(req.Body)
	var in collector.ExportTraceServiceRequest
	if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("X-Token") != "t" || proto.Unmarshal(b, &in) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := map[string]string{}
	for _, rs := range in.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				ids[string(s.SpanId)] = s.Name
				r.trace[string(s.TraceId)] = true
			}
			for _, s := range ss.Spans {
				r.spans[s.Name] = ids[string(s.ParentSpanId)]
			}
		}
	}
	r.seen = &in
}

func TestTraceReachesAnOTLPReceiver(t *testing.T) {
	r := &receiver{spans: map[string]string{}, trace: map[string]bool{}}
	srv := httptest.NewServer(r)
	defer srv.Close()
	p, m := provider(t, Options{OTLPEndpoint: srv.URL, OTLPHeaders: map[string]string{"X-Token": "t"}, Service: "queen"})
	ctx, end := m.Span(t.Context(), metrics.SpanRequest)
	for _, name := range []string{metrics.SpanAdmit, metrics.SpanQueue, metrics.SpanSchedule, metrics.SpanRelay} {
		_, done := m.Span(ctx, name, "model", "demo")
		done(nil)
	}
	if m.Traceparent(ctx) == "" {
		t.Error("no traceparent for the worker")
	}
	end(errors.New("lost"))
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) != 5 || len(r.trace) != 1 || r.spans[metrics.SpanRelay] != metrics.SpanRequest || r.spans[metrics.SpanRequest] != "" {
		t.Errorf("spans %v in %d traces", r.spans, len(r.trace))
	}
	if len(r.seen.ResourceSpans) != 1 || !strings.Contains(r.seen.ResourceSpans[0].Resource.String(), "queen") {
		t.Errorf("resource %v", r.seen.ResourceSpans)
	}
}

func TestReceiverThatIsAwayBlocksNobody(t *testing.T) {
	var mu sync.Mutex
	failed := 0
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	p, err := New(ctx, Options{OTLPEndpoint: "http://127.0.0.1:1", OnError: func(error) { mu.Lock(); failed++; mu.Unlock() }})
	if err != nil {
		t.Fatal(err)
	}
	m, err := metrics.New(p.Meter(), p.Tracer(), metrics.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, end := m.Span(t.Context(), metrics.SpanRequest)
	end(nil)
	_ = p.Flush(ctx) // fails at the latest with its context
	short, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	_ = p.Shutdown(short)
	mu.Lock()
	defer mu.Unlock()
	if failed == 0 {
		t.Error("nobody was told")
	}
}

func TestBadEndpoint(t *testing.T) {
	for _, bad := range []string{"127.0.0.1:4318", "ftp://x", "://", "http://"} {
		if _, err := New(t.Context(), Options{OTLPEndpoint: bad}); err == nil || !strings.Contains(err.Error(), "otlp_endpoint") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	p, err := New(t.Context(), Options{NoPrometheus: true})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	p.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("without Prometheus: %d", w.Code)
	}
}

// TestPrometheusScrapes lets a real Prometheus scrape the endpoint.
func TestPrometheusScrapes(t *testing.T) {
	bin, err := exec.LookPath("prometheus")
	if err != nil {
		missing(t, "prometheus, which stores metric data, is not installed: make deps")
	}
	p, m := provider(t, Options{})
	everything(t, m)
	scraped := make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Handler().ServeHTTP(w, r)
		scraped <- struct{}{}
	}))
	defer srv.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs: [{job_name: queen, static_configs: [{targets: [%q]}]}]\n", strings.TrimPrefix(srv.URL, "http://"))
	if err := os.WriteFile(dir+"/p.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	listen := freeAddr(t)
	cmd := exec.CommandContext(ctx, bin, "--config.file="+dir+"/p.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+listen)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	for range 3 {
		select {
		case <-scraped:
		case <-time.After(30 * time.Second):
			t.Fatal("prometheus did not scrape")
		}
	}
	for try := 0; ; try++ {
		body := query(listen, "rbee_hive_vram_bytes")
		if strings.Contains(body, `"state":"used"`) && strings.Contains(body, `"60"`) {
			break
		}
		if try > 100 {
			t.Fatalf("answer %s", body)
		}
		<-time.After(100 * time.Millisecond)
	}
	http.DefaultClient.CloseIdleConnections()
}

func query(addr, q string) string {
	resp, err := http.Get("http://" + addr + "/api/v1/query?query=" + q)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func freeAddr(t *testing.T) string {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	return strings.TrimPrefix(s.URL, "http://")
}
