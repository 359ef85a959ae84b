package httpserver_test

import (
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
