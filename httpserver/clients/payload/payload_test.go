package payload

import "testing"

// TestRefusesWhatClientsRefuse: a checker that accepts anything would prove nothing.
func TestRefusesWhatClientsRefuse(t *testing.T) {
	c, err := New()
	if err != nil {
		t.Fatal(err)
	}
	const chunk = `{"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}`
	const line = `{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"x"},"done":false}`
	const last = `{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":1,"eval_count":1}`
	sse, nd := "text/event-stream; charset=utf-8", "application/x-ndjson"
	for _, tc := range []struct {
		name, path, kind, body string
		status                 int
		cut, ok                bool
	}{
		{"stream", "/v1/chat/completions", sse, "data: " + chunk + "\n\ndata: [DONE]\n\n", 200, false, true},
		{"cut stream", "/v1/chat/completions", sse, "data: " + chunk + "\n\ndata: {\"id\"", 200, true, true},
		{"error in a stream", "/v1/chat/completions", sse, `data: {"error":{"message":"lost","type":"server_error","param":null,"code":"worker_failed"}}` + "\n\n", 200, false, true},
		{"no done", "/v1/chat/completions", sse, "data: " + chunk + "\n\n", 200, false, false},
		{"more after done", "/v1/chat/completions", sse, "data: [DONE]\n\ndata: " + chunk + "\n\n", 200, false, false},
		{"another id", "/v1/chat/completions", sse, "data: " + chunk + "\n\ndata: {\"id\":\"b\"" + chunk[9:] + "\n\ndata: [DONE]\n\n", 200, false, false},
		{"error null", "/v1/chat/completions", sse, "data: " + chunk[:len(chunk)-1] + ",\"error\":null}\n\ndata: [DONE]\n\n", 200, false, false},
		{"chunk without choices", "/v1/chat/completions", sse, `data: {"id":"a","object":"chat.completion.chunk","created":1,"model":"m"}` + "\n\ndata: [DONE]\n\n", 200, false, false},
		{"whole chat is no chunk", "/v1/chat/completions", "application/json", chunk, 200, false, false},
		{"error", "/v1/chat/completions", "application/json", `{"error":{"message":"x","type":"t","param":null,"code":null}}`, 400, false, true},
		{"error without param", "/v1/chat/completions", "application/json", `{"error":{"message":"x","type":"t","code":null}}`, 400, false, false},
		{"error with a number", "/v1/chat/completions", "application/json", `{"error":{"message":"x","type":"t","param":null,"code":400}}`, 400, false, false},
		{"ollama", "/api/chat", nd, line + "\n" + last + "\n", 200, false, true},
		{"ollama without an end", "/api/chat", nd, line + "\n", 200, false, false},
		{"ollama's error", "/api/chat", "application/json", `{"error":"x"}`, 404, false, true},
		{"ollama's error as OpenAI's", "/api/chat", "application/json", `{"error":{"message":"x"}}`, 404, false, false},
		{"unknown path", "/v1/none", "application/json", `{}`, 200, false, false},
	} {
		if err := c.Answer("POST", tc.path, tc.status, tc.kind, []byte(tc.body), tc.cut); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
