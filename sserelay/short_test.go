package sserelay

import (
	"context"
	"net/http"
	"strconv"
	"testing"
)

// whole is a short answer as a worker sends it.
const whole = `{"id":"chatcmpl-w","object":"chat.completion","created":1700000000,"model":"m.gguf","system_fingerprint":"fp","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog, and the slow brown dog does not mind at all."},"logprobs":null,` +
	`"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"completion_tokens":24,"total_tokens":152}}`

// carryWhole carries a job whose worker answers at once with one body, on the goroutine of its only reader.
func carryWhole(ctx context.Context, h *Hub, job string, v View) (*Answer, error) {
	s, err := h.Open(ctx, job, StreamOptions{Model: "tiny"})
	if err != nil {
		return nil, err
	}
	v.Carry = func() {
		_ = s.Started(ctx, "worker-1", "local", 1)
		out, _ := s.Body(ctx, Chat, http.StatusOK, http.Header{"Content-Type": {"application/json"}}, []byte(whole))
		_ = s.End(ctx, Result{Finish: out.Finish, PromptTokens: out.PromptTokens, OutputTokens: out.OutputTokens})
	}
	return s.Result(ctx, v)
}

func BenchmarkShortAnswer(b *testing.B) {
	h := NewHub(nil, Options{})
	b.ReportAllocs()
	for i := range b.N {
		if _, err := carryWhole(b.Context(), h, "job_"+strconv.Itoa(i), View{Format: FormatChat}); err != nil {
			b.Fatal(err)
		}
	}
}
