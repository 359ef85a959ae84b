package httpserver_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

const chatBody = `{"model":"stories","messages":[{"role":"user","content":"Once \u0041é"}],"max_tokens":8,"unknown":{"x":1}}`

func TestChat(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	resp, body := g.do(t, "POST", "/v1/chat/completions", chatBody, "X-Rbee-Session", "s1", "X-Rbee-Priority", "batch", "X-Request-Id", "abc")
	if resp.StatusCode != 200 || !strings.Contains(body, "Once upon a time") {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	r := g.f.Last()
	if r.Surface != httpserver.SurfaceChat || r.Model != "stories" || r.MaxTokens != 8 || r.PromptChars != 7 || string(r.Body) != chatBody ||
		r.Session != "s1" || r.Priority != "batch" || r.RequestID != "abc" || r.CorrelationID != "abc" || r.N != 1 || r.Stream {
		t.Fatalf("%+v", r)
	}
	for _, h := range []string{"X-Request-Id", "X-Correlation-Id", "X-Rbee-Job-Id", "X-Rbee-Worker-Id", "X-Ratelimit-Limit-Requests"} {
		if resp.Header.Get(h) == "" {
			t.Errorf("no %s", h)
		}
	}
}

func TestChatStream(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	resp, body := g.do(t, "POST", "/v1/chat/completions", `{"model":"stories","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}`)
	if resp.StatusCode != 200 || !strings.HasSuffix(body, "data: [DONE]\n\n") || !strings.Contains(body, `"choices":[],"usage"`) {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
}

func TestTaskAccepted(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	resp, body := g.do(t, "POST", "/v2/tasks", `{"model":"stories","prompt":"x","priority":"batch","deadline":"30s"}`)
	if resp.StatusCode != 202 || body != `{"job_id":"job-1","status":"queued","queue_position":0,"events_url":"/v2/tasks/job-1/events"}`+"\n" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	r := g.f.Last()
	if !r.Detach || r.Priority != "batch" || r.Deadline.IsZero() {
		t.Fatalf("%+v", r)
	}
	resp, body = g.do(t, "POST", "/v2/tasks", `{"model":"stories","prompt":"x"}`, "Accept", "text/event-stream")
	if resp.StatusCode != 200 || !strings.Contains(body, "event: end") || g.f.Last().Detach {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
}

// TestTraceparent: a caller's trace goes on; what is no traceparent is as if there were none.
func TestTraceparent(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, c := range []struct{ sent, want string }{
		{good, good}, {strings.ToUpper(good), ""}, {"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", ""}, {good[:36] + strings.Repeat("0", 16) + "-01", ""},
		{"01" + good[2:], ""}, {good + "-x", ""}, {good[:54], ""}, {strings.Replace(good, "-", "_", 3), ""}, {good[:3] + "g" + good[4:], ""}, {strings.Repeat("a", 55), ""},
	} {
		if resp, body := g.do(t, "POST", "/v1/chat/completions", chatBody, "Traceparent", c.sent); resp.StatusCode != 200 {
			t.Fatalf("%q: %d %s", c.sent, resp.StatusCode, body)
		}
		if got := g.f.Last().Traceparent; got != c.want {
			t.Errorf("%q was taken as %q", c.sent, got)
		}
	}
	if resp, _ := g.do(t, "POST", "/v1/chat/completions", chatBody, "Traceparent", good, "Traceparent", good); resp.StatusCode != 200 || g.f.Last().Traceparent != "" {
		t.Errorf("two of them: %d %q", resp.StatusCode, g.f.Last().Traceparent)
	}
}

// TestResultSaysWhere: what a Result says in its fields goes out as headers, and what it says in Header as well.
func TestResultSaysWhere(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	for _, c := range []struct {
		res  httpserver.Result
		want [3]string // X-Rbee-Worker-Id, X-Rbee-Queue-Ms, Content-Type
	}{
		{httpserver.Result{}, [3]string{"", "", "application/json"}},
		{httpserver.Result{ContentType: "text/plain", WorkerID: "w1", QueueMs: "7"}, [3]string{"w1", "7", "text/plain"}},
		{httpserver.Result{Header: http.Header{"x-rbee-worker-id": {"w2"}, "Content-Type": {"audio/wav"}}}, [3]string{"w2", "", "audio/wav"}},
		{httpserver.Result{Header: http.Header{"X-Rbee-Worker-Id": {"w2"}, "X-Rbee-Queue-Ms": {"8"}, "Content-Type": {"audio/wav"}}, WorkerID: "w1", ContentType: "text/plain"}, [3]string{"w1", "8", "text/plain"}},
		{httpserver.Result{Status: 400, WorkerID: "w1", Body: []byte(`{"error":"bad"}`)}, [3]string{"w1", "", "application/json"}},
		{httpserver.Result{WorkerID: "w1", Body: bytes.Repeat([]byte("x"), 100_000)}, [3]string{"w1", "", "application/json"}},
	} {
		g.f.OnResult = func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) { return &c.res, nil }
		resp, body := g.do(t, "POST", "/v1/chat/completions", chatBody)
		if got := [3]string{resp.Header.Get("X-Rbee-Worker-Id"), resp.Header.Get("X-Rbee-Queue-Ms"), resp.Header.Get("Content-Type")}; got != c.want {
			t.Errorf("%v, want %v", got, c.want)
		}
		if c.res.Status == 0 && (body != string(c.res.Body) || resp.ContentLength != int64(len(body))) {
			t.Errorf("%d bytes, %d stated, %d wanted", len(body), resp.ContentLength, len(c.res.Body))
		}
	}
}
