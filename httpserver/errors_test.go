package httpserver_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

type coded struct {
	code    string
	after   time.Duration
	details map[string]any
}

func (e *coded) Error() string             { return "it went wrong: " + e.code }
func (e *coded) Code() string              { return e.code }
func (e *coded) RetryAfter() time.Duration { return e.after }
func (e *coded) Details() map[string]any   { return e.details }

func TestErrorsByCode(t *testing.T) {
	for code, want := range map[string]struct {
		status      int
		openai      string
		kind        string
		shouldRetry string
	}{
		"INVALID_REQUEST":         {400, "invalid_request", "invalid_request_error", "false"},
		"INVALID_MODEL_REF":       {400, "invalid_model_ref", "invalid_request_error", "false"},
		"CONTEXT_LENGTH_EXCEEDED": {400, "context_length_exceeded", "invalid_request_error", "false"},
		"UNAUTHENTICATED":         {401, "invalid_api_key", "authentication_error", "false"},
		"FORBIDDEN":               {403, "forbidden", "permission_error", "false"},
		"MODEL_NOT_FOUND":         {404, "model_not_found", "invalid_request_error", "false"},
		"CONFLICT":                {409, "conflict", "invalid_request_error", "false"},
		"REQUEST_TOO_LARGE":       {413, "request_too_large", "invalid_request_error", "false"},
		"RATE_LIMITED":            {429, "rate_limit_exceeded", "rate_limit_error", "true"},
		"QUOTA_EXCEEDED":          {429, "insufficient_quota", "insufficient_quota", "false"},
		"WORKER_FAILED":           {502, "worker_failed", "server_error", ""},
		"HIVE_FAILED":             {502, "hive_failed", "server_error", ""},
		"PROVISION_FAILED":        {502, "provision_failed", "server_error", ""},
		"INSUFFICIENT_VRAM":       {503, "insufficient_vram", "server_error", "true"},
		"NO_HIVE_AVAILABLE":       {503, "no_hive_available", "server_error", "true"},
		"SYSTEM_AT_CAPACITY":      {503, "system_at_capacity", "server_error", "true"},
		"SHUTTING_DOWN":           {503, "shutting_down", "server_error", "true"},
		"MODEL_LOADING":           {503, "model_loading", "server_error", "true"},
		"DEADLINE_EXCEEDED":       {504, "deadline_exceeded", "server_error", "false"},
	} {
		t.Run(code, func(t *testing.T) {
			g := newRig(t, false, httpserver.Options{})
			g.f.Refuse = func(*httpserver.Request) error {
				return fmt.Errorf("submit: %w", &coded{code: code, after: 1500 * time.Millisecond, details: map[string]any{"x": 1}})
			}
			resp, body := g.do(t, "POST", "/v1/chat/completions", chatBody)
			var got struct {
				Error map[string]any `json:"error"`
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatal(err)
			}
			wantBody := map[string]any{"message": "it went wrong: " + code, "type": want.kind, "param": nil, "code": want.openai}
			if diff := cmp.Diff(wantBody, got.Error); diff != "" {
				t.Error(diff)
			}
			if resp.StatusCode != want.status || resp.Header.Get("X-Rbee-Error") != code || resp.Header.Get("X-Should-Retry") != want.shouldRetry {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			if limited := want.status == 429 || want.status == 503; limited != (resp.Header.Get("Retry-After") == "2" && resp.Header.Get("Retry-After-Ms") == "1500") {
				t.Errorf("retry hints: %v", resp.Header)
			}
			resp, body = g.do(t, "POST", "/v2/tasks", `{"model":"m","prompt":"x"}`, "X-Correlation-Id", "corr-1")
			wantNative := fmt.Sprintf(`{"error":{"code":%q,"message":"it went wrong: %s","details":{"x":1},"correlation_id":"corr-1"}}`+"\n", code, code)
			if resp.StatusCode != want.status || body != wantNative {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestErrorsWithoutCodeShowNothing(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	for _, err := range []error{errors.New("secret path /root/x"), &coded{code: "SOMETHING_NEW"}, &coded{code: "INTERNAL"}} {
		g.f.Refuse = func(*httpserver.Request) error { return err }
		resp, body := g.do(t, "POST", "/v1/chat/completions", chatBody)
		if resp.StatusCode != 500 || resp.Header.Get("X-Rbee-Error") != "INTERNAL" || contains(body, "secret", "SOMETHING", "went wrong:") {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
}

func TestLoadingBesideError(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	g.f.Refuse = func(*httpserver.Request) error {
		return &coded{code: "MODEL_LOADING", after: 7 * time.Second, details: map[string]any{"loading": map[string]any{"model": "stories", "progress": 0.5}}}
	}
	for _, path := range []string{"/v1/chat/completions", "/v2/tasks", "/api/chat"} {
		body := chatBody
		if path == "/v2/tasks" {
			body = `{"model":"m","prompt":"x"}`
		}
		resp, got := g.do(t, "POST", path, body)
		var v struct {
			Error   any            `json:"error"`
			Loading map[string]any `json:"loading"`
		}
		if err := json.Unmarshal([]byte(got), &v); err != nil || v.Loading["progress"] != 0.5 || v.Error == nil || resp.Header.Get("Retry-After") != "7" {
			t.Errorf("%s: %s %v", path, got, err)
		}
	}
}

// TestWorkersOwnRefusal: what a worker says instead of an answer is told in the shape of the client's surface, streaming
// or not, and what was passed through keeps its bytes.
func TestWorkersOwnRefusal(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	const size = `{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":512}}`
	const vllm = `{"object":"error","message":"maximum context length is 512","type":"BadRequestError","code":400}`
	const none = `{"error":{"code":501,"message":"start it with --embeddings","type":"not_supported_error"}}`
	const plain = `{"error":{"message":"bad grammar","type":"invalid_request_error","param":"grammar","code":"bad_grammar"}}`
	chat, raw := "/v1/chat/completions", "/v1/messages"
	for _, c := range []struct {
		path         string
		worker       int
		said         string
		status       int
		code, header string
		message      string
	}{
		{chat, 400, size, 400, "context_length_exceeded", "CONTEXT_LENGTH_EXCEEDED", "too long"},
		{chat, 400, vllm, 400, "context_length_exceeded", "CONTEXT_LENGTH_EXCEEDED", "maximum context length"},
		{chat, 400, plain, 400, "bad_grammar", "INVALID_REQUEST", "bad grammar"},
		{chat, 501, none, 404, "not_found", "NOT_FOUND", "--embeddings"},
		{chat, 422, "nonsense", 422, "invalid_request", "INVALID_REQUEST", "refused"},
		{raw, 400, size, 400, "", "CONTEXT_LENGTH_EXCEEDED", ""},
		{raw, 501, none, 404, "not_found", "NOT_FOUND", "--embeddings"},
		{"/api/chat", 400, size, 400, "", "CONTEXT_LENGTH_EXCEEDED", "too long"},
		{"/api/chat", 501, none, 404, "", "NOT_FOUND", "--embeddings"},
	} {
		header := http.Header{"Content-Type": {"application/json"}, "X-Rbee-Worker-Id": {"w-1"}}
		g.f.OnResult = func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
			return &httpserver.Result{Status: c.worker, Header: header, Body: []byte(c.said)}, nil
		}
		g.f.OnServe = func(_ context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
			w.Header().Set("Cache-Control", "no-cache, no-transform")
			w.WriteHeader(c.worker)
			_, err := w.Write([]byte(c.said))
			_ = http.NewResponseController(w).Flush()
			return err
		}
		for _, stream := range []string{"true", "false"} {
			resp, body := g.do(t, "POST", c.path, `{"model":"stories","stream":`+stream+`,"messages":[{"role":"user","content":"x"}]}`)
			name := fmt.Sprintf("%s stream=%s %s: %d %s", c.path, stream, c.said, resp.StatusCode, body)
			if resp.StatusCode != c.status || resp.Header.Get("X-Rbee-Error") != c.header || resp.Header.Get("X-Should-Retry") != "false" ||
				resp.Header.Get("Cache-Control") != "" || stream == "false" && resp.Header.Get("X-Rbee-Worker-Id") != "w-1" {
				t.Errorf("%s %v", name, resp.Header)
			}
			if c.path == raw && c.code == "" {
				if body != c.said {
					t.Errorf("%s: not the worker's own bytes", name)
				}
				continue
			}
			if c.path == "/api/chat" {
				if !strings.HasPrefix(body, `{"error":"`) || !strings.Contains(body, c.message) {
					t.Error(name)
				}
				continue
			}
			var v struct{ Error map[string]any }
			if err := json.Unmarshal([]byte(body), &v); err != nil || v.Error["code"] != c.code || !contains(fmt.Sprint(v.Error["message"]), c.message) {
				t.Errorf("%s: %v", name, err)
			}
			for _, field := range []string{"message", "type", "param", "code"} {
				if _, ok := v.Error[field]; !ok {
					t.Errorf("%s: no %s", name, field)
				}
			}
			if c.said == size && v.Error["n_ctx"] != 512.0 {
				t.Errorf("%s: the worker's other facts are lost", name)
			}
		}
	}
}

// TestServeErrors tells apart what a stream's error means before and after its first byte.
func TestServeErrors(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	stream := `{"model":"stories","stream":true,"messages":[{"role":"user","content":"x"}]}`
	g.f.OnServe = func(context, *httpserver.Request, http.ResponseWriter, httpserver.View) error {
		return &coded{code: "WORKER_FAILED"}
	}
	if resp, _ := g.do(t, "POST", "/v1/chat/completions", stream); resp.StatusCode != 502 {
		t.Fatalf("before headers: %d", resp.StatusCode)
	}
	g.f.OnServe = func(_ context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
		_, _ = w.Write([]byte("data: {}\n\n"))
		return &coded{code: "WORKER_FAILED"}
	}
	if resp, body := g.do(t, "POST", "/v1/chat/completions", stream); resp.StatusCode != 200 || body != "data: {}\n\n" {
		t.Fatalf("after headers: %d %q", resp.StatusCode, body)
	}
	g.f.OnServe = func(_ context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
		_, _ = w.Write([]byte("half of a body"))
		_ = http.NewResponseController(w).Flush()
		return errors.Join(httpserver.ErrAborted, errors.New("worker lost"))
	}
	if _, err := g.try("POST", "/v1/chat/completions", stream); err == nil {
		t.Fatal("an aborted body looked whole")
	}
	g.f.OnServe = func(context, *httpserver.Request, http.ResponseWriter, httpserver.View) error { panic("boom") }
	if resp, body := g.do(t, "POST", "/v1/chat/completions", stream); resp.StatusCode != 500 || contains(body, "boom") {
		t.Fatalf("panic: %d %s", resp.StatusCode, body)
	}
}
