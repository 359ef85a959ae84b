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

// TestOwnWords: the server's own answers have what engines may leave out, and the lines of a batch are checked with their bodies.
func TestOwnWords(t *testing.T) {
	engines, err := New()
	if err != nil {
		t.Fatal(err)
	}
	own := &Checker{Own: true, defs: engines.defs}
	const usage = `"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}`
	const chat = `{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}],` + usage + `}`
	const whole = `{"id":"a","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"x","refusal":null},"logprobs":null,"finish_reason":"stop"}],` + usage + `}`
	const text = `{"id":"a","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"x","finish_reason":null}]}`
	line := func(response, err string) string {
		return `{"id":"batch_req_1","custom_id":"c","response":` + response + `,"error":` + err + "}\n"
	}
	said := func(status, body string) string {
		return `{"status_code":` + status + `,"request_id":"r","body":` + body + `}`
	}
	for _, tc := range []struct {
		name, path, body string
		engine, own      bool
	}{
		{"chat as engines have it", "/v1/chat/completions", chat, true, false},
		{"chat as OpenAI has it", "/v1/chat/completions", whole, true, true},
		{"chunk of a completion", "/v1/completions", "data: " + text + "\n\ndata: [DONE]\n\n", true, false},
		{"input of a batch", "/v1/files/f/content", `{"custom_id":"c","method":"POST","url":"/v1/completions","body":{}}` + "\n", true, true},
		{"another file", "/v1/files/f/content", "hello", true, true},
		{"output of a batch", "/v1/files/f/content", line(said("200", whole), "null") + line("null", `{"code":"batch_expired","message":"x"}`), true, true},
		{"a body that is not whole", "/v1/files/f/content", line("null", `{"code":"x","message":"x"}`) + line(said("200", `{"object":"chat.completion"}`), "null"), false, false},
		{"an error without param", "/v1/files/f/content", line(said("400", `{"error":{"message":"x","type":"t","code":null}}`), "null"), false, false},
		{"neither answer nor error", "/v1/files/f/content", line("null", "null"), false, false},
		{"no request id", "/v1/files/f/content", line(`{"status_code":200,"body":{}}`, "null"), false, false},
	} {
		kind := "application/json"
		if tc.body[:5] == "data:" {
			kind = "text/event-stream"
		}
		for c, ok := range map[*Checker]bool{engines: tc.engine, own: tc.own} {
			if err := c.Answer("GET", tc.path, 200, kind, []byte(tc.body), false); (err == nil) != ok {
				t.Errorf("%s, own %v: %v", tc.name, c.Own, err)
			}
		}
	}
}
