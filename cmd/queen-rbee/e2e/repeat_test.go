package e2e

import (
	"strings"
	"testing"
)

// TestRepeatIsNotRefused repeats a request with its Idempotency-Key when the tenant's limit is used up: it gets the answer
// of its own job, while anything new is refused and another body is a conflict.
func TestRepeatIsNotRefused(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?ttft=1ms&itl=1ms\", workers: 1}}\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	key := q.makeKey(admin, `{"tenant_id":"slow","scope":"infer"}`).Key
	if status, _, data := q.ask(admin, "PUT", "/v2/tenants/slow", `{"rpm":1}`); status != 200 {
		t.Fatalf("%d %s", status, data)
	}
	const path, body = "/v1/completions", `{"model":"demo","prompt":"once","max_tokens":5}`
	var first, again struct {
		ID      string
		Choices []struct{ Text string }
	}
	send := func(out any, want int, body string, header ...string) string {
		t.Helper()
		return q.json("POST", path, body, out, want, append(header, "Authorization", "Bearer "+key)...).Get("X-Rbee-Job-Id")
	}
	id := send(&first, 200, body, "Idempotency-Key", "k")
	if id == "" || len(first.Choices) != 1 || strings.TrimSpace(first.Choices[0].Text) == "" {
		t.Fatalf("job %q: %+v", id, first)
	}
	send(nil, 429, body)
	send(nil, 429, body, "Idempotency-Key", "other")
	for range 3 {
		if got := send(&again, 200, body, "Idempotency-Key", "k"); got != id || again.Choices[0].Text != first.Choices[0].Text {
			t.Errorf("the repeat got job %s: %+v; want %s: %+v", got, again, id, first)
		}
	}
	send(nil, 409, strings.Replace(body, "once", "twice", 1), "Idempotency-Key", "k")
}
