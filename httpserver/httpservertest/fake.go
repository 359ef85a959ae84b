// Package httpservertest has an in-memory Submitter and Authenticator, so that whoever embeds httpserver can test
// against its HTTP surface without a queue, a scheduler or a worker. Every job is answered with the words "Once upon a
// time" in the view that was asked for.
package httpservertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// Submitter answers every job with a few words and keeps what it was asked. Its hooks may be set before it is used.
type Submitter struct {
	// Refuse is returned by Submit when it is set.
	Refuse func(*httpserver.Request) error
	// OnServe and OnResult replace the answers.
	OnServe  func(ctx context.Context, r *httpserver.Request, w http.ResponseWriter, v httpserver.View) error
	OnResult func(ctx context.Context, r *httpserver.Request, v httpserver.View) (*httpserver.Result, error)
	// Limits are the headers of Job.Limits.
	Limits http.Header

	mu       sync.Mutex
	requests []*httpserver.Request
	n        int
	keys     map[string]*job
}

// Submit implements httpserver.Submitter. Like a real queue it answers an idempotency key that it knows with the first
// job, and another body under that key with CONFLICT.
func (f *Submitter) Submit(_ context.Context, r *httpserver.Request) (httpserver.Job, error) {
	if f.Refuse != nil {
		if err := f.Refuse(r); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := r.Identity.Tenant + "/" + r.IdempotencyKey
	if first, ok := f.keys[key]; ok && r.IdempotencyKey != "" {
		if first.r.BodyHash != r.BodyHash {
			return nil, &httpserver.Error{ErrCode: httpserver.CodeConflict, Message: "another body was sent with this Idempotency-Key"}
		}
		return first, nil
	}
	f.n++
	j := &job{f: f, r: r, id: fmt.Sprintf("job-%d", f.n)}
	if f.requests = append(f.requests, r); len(f.requests) > 1000 {
		f.requests = f.requests[500:]
	}
	if r.IdempotencyKey != "" {
		if f.keys == nil {
			f.keys = map[string]*job{}
		}
		f.keys[key] = j
	}
	return j, nil
}

// Last returns the last request, or nil.
func (f *Submitter) Last() *httpserver.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) == 0 {
		return nil
	}
	return f.requests[len(f.requests)-1]
}

// Count returns how many jobs there were.
func (f *Submitter) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

type job struct {
	f  *Submitter
	r  *httpserver.Request
	id string
}

func (j *job) ID() string                      { return j.id }
func (j *job) Position() int                   { return 0 }
func (j *job) Committed(context.Context) error { return nil }
func (j *job) Limits() http.Header             { return j.f.Limits }

func words() []string { return []string{"Once", " upon", " a", " time"} }

func (j *job) Serve(ctx context.Context, w http.ResponseWriter, v httpserver.View) error {
	if j.f.OnServe != nil {
		return j.f.OnServe(ctx, j.r, w, v)
	}
	return Answer(w, v, j.id)
}

// Answer writes the words as a stream in the given view.
func Answer(w http.ResponseWriter, v httpserver.View, id string) error {
	h := w.Header()
	h.Set("X-Rbee-Worker-Id", "w1")
	h.Set("Content-Type", "text/event-stream")
	if v.Format == httpserver.FormatOllamaChat || v.Format == httpserver.FormatOllamaGenerate {
		h.Set("Content-Type", "application/x-ndjson")
	}
	w.WriteHeader(200)
	for i, word := range words() {
		if _, err := io.WriteString(w, event(v, id, i, word)); err != nil {
			return err
		}
		_ = http.NewResponseController(w).Flush()
	}
	_, err := io.WriteString(w, end(v, id))
	return err
}

func event(v httpserver.View, id string, i int, word string) string {
	q, _ := json.Marshal(word)
	switch v.Format {
	case httpserver.FormatChat, httpserver.FormatOpenAI:
		role := ""
		if i == 0 {
			role = `"role":"assistant",`
		}
		usage := ""
		if v.IncludeUsage {
			usage = `,"usage":null`
		}
		return fmt.Sprintf(`data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":%q,"choices":[{"index":0,"delta":{%s"content":%s},"finish_reason":null}]%s}`+"\n\n", id, v.Model, role, q, usage)
	case httpserver.FormatCompletion:
		return fmt.Sprintf(`data: {"id":"cmpl-%s","object":"text_completion","created":1,"model":%q,"choices":[{"index":0,"text":%s,"finish_reason":null}]}`+"\n\n", id, v.Model, q)
	case httpserver.FormatOllamaChat:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":%s},"done":false}`+"\n", v.Model, q)
	case httpserver.FormatOllamaGenerate:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","response":%s,"done":false}`+"\n", v.Model, q)
	}
	return fmt.Sprintf("id: %d\nevent: token\ndata: {\"t\":%s,\"i\":%d}\n\n", i+2, q, i)
}

func end(v httpserver.View, id string) string {
	switch v.Format {
	case httpserver.FormatChat, httpserver.FormatOpenAI:
		s := fmt.Sprintf(`data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":%q,"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n", id, v.Model)
		if v.IncludeUsage {
			s += fmt.Sprintf(`data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":1,"model":%q,"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`+"\n\n", id, v.Model)
		}
		return s + "data: [DONE]\n\n"
	case httpserver.FormatCompletion:
		return fmt.Sprintf(`data: {"id":"cmpl-%s","object":"text_completion","created":1,"model":%q,"choices":[{"index":0,"text":"","finish_reason":"stop"}]}`+"\n\ndata: [DONE]\n\n", id, v.Model)
	case httpserver.FormatOllamaChat:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","eval_count":4,"prompt_eval_count":3}`+"\n", v.Model)
	case httpserver.FormatOllamaGenerate:
		return fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","response":"","done":true,"done_reason":"stop","eval_count":4,"prompt_eval_count":3}`+"\n", v.Model)
	}
	return "id: 6\nevent: end\ndata: {\"tokens_out\":4,\"stop_reason\":\"stop\"}\n\n"
}

func (j *job) Result(ctx context.Context, v httpserver.View) (*httpserver.Result, error) {
	if j.f.OnResult != nil {
		return j.f.OnResult(ctx, j.r, v)
	}
	return Whole(v, j.id), nil
}

// Whole is the words as one body in the given view; an embedding for a raw one.
func Whole(v httpserver.View, id string) *httpserver.Result {
	text := strings.Join(words(), "")
	h := http.Header{"X-Rbee-Worker-Id": {"w1"}, "Content-Type": {"application/json"}}
	var body string
	switch v.Format {
	case httpserver.FormatChat:
		body = fmt.Sprintf(`{"id":"chatcmpl-%s","object":"chat.completion","created":1,"model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`, id, v.Model, text)
	case httpserver.FormatCompletion:
		body = fmt.Sprintf(`{"id":"cmpl-%s","object":"text_completion","created":1,"model":%q,"choices":[{"index":0,"text":%q,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}`, id, v.Model, text)
	case httpserver.FormatOllamaChat:
		body = fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":%q},"done":true,"done_reason":"stop"}`, v.Model, text)
	case httpserver.FormatOllamaGenerate:
		body = fmt.Sprintf(`{"model":%q,"created_at":"2026-01-01T00:00:00Z","response":%q,"done":true,"done_reason":"stop"}`, v.Model, text)
	default:
		body = `{"object":"list","model":"stories","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25]}],"usage":{"prompt_tokens":2,"total_tokens":2}}`
	}
	return &httpserver.Result{Status: 200, Header: h, Body: []byte(body)}
}

// Auth knows the keys "infer" (tenant t1, model stories only), "operate", "admin" and "hive"; unless Strict, everybody
// else is an admin of tenant default.
type Auth struct{ Strict bool }

// Authenticate implements httpserver.Authenticator.
func (a Auth) Authenticate(_ context.Context, r *http.Request) (httpserver.Identity, error) {
	switch strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") {
	case "infer":
		return httpserver.Identity{Tenant: "t1", KeyID: "k1", Scope: httpserver.ScopeInfer, Models: []string{"stories"}}, nil
	case "operate":
		return httpserver.Identity{Tenant: "t2", KeyID: "k2", Scope: httpserver.ScopeOperate}, nil
	case "admin":
		return httpserver.Identity{Tenant: "t3", KeyID: "k3", Scope: httpserver.ScopeAdmin}, nil
	case "hive":
		return httpserver.Identity{Tenant: "hives", KeyID: "h1", Scope: httpserver.ScopeHive, Node: "gpu1"}, nil
	}
	if !a.Strict {
		return httpserver.Identity{Tenant: "default", Scope: httpserver.ScopeAdmin}, nil
	}
	return httpserver.Identity{}, &httpserver.Error{ErrCode: httpserver.CodeUnauthenticated, Message: "a key is needed: make one with rbee key create"}
}

// Models is a Catalog with one model, stories, that an embedding asks for too.
type Models struct{}

// Names implements httpserver.Catalog.
func (Models) Names(context.Context) ([]httpserver.ModelName, error) {
	return []httpserver.ModelName{{Name: "stories", Ref: "sim:stories", OwnedBy: "simulator", Family: "llama", Parameters: 260_000, ContextLength: 512}}, nil
}

// OnHives implements httpserver.Catalog.
func (Models) OnHives(_ context.Context, node string) ([]httpserver.Model, error) {
	if node != "" && node != "local" {
		return nil, &httpserver.Error{ErrCode: httpserver.CodeNodeNotFound, Message: "no hive of that name"}
	}
	return []httpserver.Model{{Model: "stories", ModelRef: "sim:stories", Node: "local", State: "ready"}}, nil
}

// Union implements httpserver.Catalog.
func (m Models) Union(ctx context.Context) ([]httpserver.Model, error) { return m.OnHives(ctx, "") }
