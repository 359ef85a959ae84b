package httpserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBackend answers every job with a few words; it keeps what it was asked.
type fakeBackend struct {
	mu        sync.Mutex
	requests  []*Request
	refuse    error
	onServe   func(ctx context.Context, w http.ResponseWriter, v View) error
	onResult  func(ctx context.Context, v View) (*Result, error)
	committed error
}

func (f *fakeBackend) Submit(_ context.Context, r *Request) (Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, f.refuse
	}
	f.requests = append(f.requests, r)
	return &fakeJob{f: f, r: r, id: fmt.Sprintf("job-%d", len(f.requests))}, nil
}

func (f *fakeBackend) last(t *testing.T) *Request {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		t.Fatal("no request reached the submitter")
	}
	return f.requests[len(f.requests)-1]
}

func (f *fakeBackend) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

type fakeJob struct {
	f  *fakeBackend
	r  *Request
	id string
}

func (j *fakeJob) ID() string                      { return j.id }
func (j *fakeJob) Position() int                   { return 0 }
func (j *fakeJob) Committed(context.Context) error { return j.f.committed }
func (j *fakeJob) Limits() http.Header             { return http.Header{"X-Ratelimit-Limit-Requests": {"60"}} }

var fakeWords = []string{"Once", " upon", " a", " time"}

func (j *fakeJob) Serve(ctx context.Context, w http.ResponseWriter, v View) error {
	if j.f.onServe != nil {
		return j.f.onServe(ctx, w, v)
	}
	h := w.Header()
	h.Set("X-Rbee-Worker-Id", "w1")
	h.Set("Content-Type", "text/event-stream")
	if v.Format == FormatOllamaChat || v.Format == FormatOllamaGenerate {
		h.Set("Content-Type", "application/x-ndjson")
	}
	w.WriteHeader(200)
	for i, word := range fakeWords {
		if _, err := io.WriteString(w, fakeEvent(v, j.id, i, word)); err != nil {
			return err
		}
		_ = http.NewResponseController(w).Flush()
	}
	_, err := io.WriteString(w, fakeEnd(v, j.id))
	return err
}

func fakeEvent(v View, id string, i int, word string) string {
	q, _ := json.Marshal(word)
	switch v.Format {
	case FormatChat, FormatOpenAI:
		role := ""
		if i == 0 {
			role = `"role":"assistant",`
		}
		usage := ""
		if v.IncludeUsage {
			usage = `,"usage":null`
		}
		return fmt.Sprintf(`data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":%q,"choices":[{"index":0,"delta":{%s"content":%s},"finish_reason":null}]%s}`+"\n\n", id, v.Model, role, q, usage)
	case FormatCompletion:
		return fmt.Sprintf(`data: {"id":"cmpl-%s","object":"text_completion","created":1,"model":%q,"choices":[{"index":0,"text":%s,"finish_reason":null}]}`+"\n\n", id, v.Model, q)
	case FormatOllamaChat:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":%s},"done":false}`+"\n", v.Model, q)
	case FormatOllamaGenerate:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","response":%s,"done":false}`+"\n", v.Model, q)
	}
	return fmt.Sprintf("id: %d\nevent: token\ndata: {\"t\":%s,\"i\":%d}\n\n", i+2, q, i)
}

func fakeEnd(v View, id string) string {
	switch v.Format {
	case FormatChat, FormatOpenAI:
		s := fmt.Sprintf(`data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":%q,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n", id, v.Model)
		if v.IncludeUsage {
			s += fmt.Sprintf(`data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":%q,"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`+"\n\n", id, v.Model)
		}
		return s + "data: [DONE]\n\n"
	case FormatCompletion:
		return fmt.Sprintf(`data: {"id":"cmpl-%s","object":"text_completion","created":1,"model":%q,"choices":[{"index":0,"text":"","finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n", id, v.Model)
	case FormatOllamaChat:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","eval_count":4,"prompt_eval_count":3}`+"\n", v.Model)
	case FormatOllamaGenerate:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","response":"","done":true,"done_reason":"stop","eval_count":4,"prompt_eval_count":3}`+"\n", v.Model)
	}
	return "id: 6\nevent: end\ndata: {\"tokens_out\":4,\"stop_reason\":\"stop\"}\n\n"
}

func (j *fakeJob) Result(ctx context.Context, v View) (*Result, error) {
	if j.f.onResult != nil {
		return j.f.onResult(ctx, v)
	}
	text := strings.Join(fakeWords, "")
	h := http.Header{"X-Rbee-Worker-Id": {"w1"}, "Content-Type": {"application/json"}}
	var body string
	switch v.Format {
	case FormatChat:
		body = fmt.Sprintf(`{"id":"chatcmpl-%s","object":"chat.completion","created":1,"model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`, j.id, v.Model, text)
	case FormatCompletion:
		body = fmt.Sprintf(`{"id":"cmpl-%s","object":"text_completion","created":1,"model":%q,"choices":[{"index":0,"text":%q,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`, j.id, v.Model, text)
	case FormatOllamaChat:
		body = fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":%q},"done":true,"done_reason":"stop"}`, v.Model, text)
	case FormatOllamaGenerate:
		body = fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","response":%q,"done":true,"done_reason":"stop"}`, v.Model, text)
	default:
		body = `{"object":"list","model":"stories","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25]}],"usage":{"prompt_tokens":2,"total_tokens":2}}`
	}
	return &Result{Status: 200, Header: h, Body: []byte(body)}, nil
}

// fakeAuth knows three keys; without Strict anybody is an admin.
type fakeAuth struct{ strict bool }

func (a fakeAuth) Authenticate(_ context.Context, r *http.Request) (Identity, error) {
	switch strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") {
	case "infer":
		return Identity{Tenant: "t1", KeyID: "k1", Scope: ScopeInfer, Models: []string{"stories"}}, nil
	case "operate":
		return Identity{Tenant: "t2", KeyID: "k2", Scope: ScopeOperate}, nil
	case "admin":
		return Identity{Tenant: "t3", KeyID: "k3", Scope: ScopeAdmin}, nil
	case "hive":
		return Identity{Tenant: "hives", KeyID: "h1", Scope: ScopeHive, Node: "gpu1"}, nil
	}
	if !a.strict {
		return Identity{Tenant: "default", Scope: ScopeAdmin}, nil
	}
	return Identity{}, refuse(CodeUnauthenticated, "a key is needed: make one with rbee key create")
}

type rig struct {
	f   *fakeBackend
	s   *Server
	ts  *httptest.Server
	url string
}

func newRig(t testing.TB, auth fakeAuth, o Options) *rig {
	t.Helper()
	f := &fakeBackend{}
	s, err := New(f, auth, o)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.Handler())
	t.Cleanup(ts.Close)
	return &rig{f, s, ts, ts.URL}
}

func (r *rig) do(t testing.TB, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := r.ts.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}
