package compose

import (
	"net/http"
	"path/filepath"
	"testing"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// BenchmarkShortAnswer takes a short answer that is not streamed from its worker's body to its reader, and to SQLite.
func BenchmarkShortAnswer(b *testing.B) {
	j, err := sqlitequeue.OpenJournal(b.Context(), filepath.Join(b.TempDir(), "frames.db"), sqlitequeue.Options{
		Ended: func(meta uint32) bool { return sserelay.Meta(meta).Terminal() }})
	if err != nil {
		b.Fatal(err)
	}
	q := queue.New(queue.NewMemory(), queue.Options{})
	defer q.Close()
	ids := make([]string, b.N)
	for i := range ids {
		ids[i] = q.NewID()
	}
	h, header := sserelay.NewHub(j, sserelay.Options{}), http.Header{"Content-Type": {"application/json"}}
	const answer = `{"id":"chatcmpl-w","object":"chat.completion","created":1700000000,"model":"m.gguf","system_fingerprint":"fp","choices":[{"index":0,` +
		`"message":{"role":"assistant","content":"The quick brown fox jumps over the lazy dog, and the slow brown dog does not mind at all."},"logprobs":null,` +
		`"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"completion_tokens":24,"total_tokens":152}}`
	b.ReportAllocs()
	b.ResetTimer()
	for _, id := range ids {
		ctx := b.Context()
		s, err := h.Open(ctx, id, sserelay.StreamOptions{Model: "tiny"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Result(ctx, sserelay.View{Format: sserelay.FormatChat, Carry: func() {
			_ = s.Started(ctx, "worker-1", "local", 1)
			out, _ := s.Body(ctx, sserelay.Chat, http.StatusOK, header, []byte(answer))
			_ = s.End(ctx, sserelay.Result{Finish: out.Finish, PromptTokens: out.PromptTokens, OutputTokens: out.OutputTokens})
		}}); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}
