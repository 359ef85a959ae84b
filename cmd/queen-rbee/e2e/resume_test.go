package e2e

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
)

// TestResumeGivesTheSameChunks reads streams of OpenAI's surface, and then the same jobs with format=openai: the chunks are
// the same, with an id each, whether the usage was asked for or not, now and after a kill of the queen.
func TestResumeGivesTheSameChunks(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?ttft=1ms&itl=1ms\"}}\n")
	type read struct {
		id     string
		chunks []string
	}
	var all []read
	for path, what := range map[string]string{"/v1/chat/completions": `"messages":[{"role":"user","content":"hello"}]`, "/v1/completions": `"prompt":"hello"`} {
		for _, usage := range []bool{false, true} {
			body := fmt.Sprintf(`{"model":"demo",%s,"max_tokens":20,"stream":true,"stream_options":{"include_usage":%t}}`, what, usage)
			res, err := q.do(t.Context(), "POST", path, body)
			if err != nil {
				t.Fatal(err)
			}
			r := read{id: res.Header.Get("X-Rbee-Job-Id")}
			if err := events(res.Body, func(ev event) bool { r.chunks = append(r.chunks, ev.data); return true }); err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if n := len(r.chunks); n < 20 || r.chunks[n-1] != "[DONE]" {
				t.Fatalf("%s: %q", path, r.chunks)
			}
			all = append(all, r)
		}
	}
	again := func(when string) {
		t.Helper()
		for _, r := range all {
			res, err := q.do(t.Context(), "GET", "/v2/tasks/"+r.id+"/events?format=openai", nil, "Last-Event-ID", "5")
			if err != nil {
				t.Fatal(err)
			}
			var chunks, ids []string
			if err := events(res.Body, func(ev event) bool { chunks, ids = append(chunks, ev.data), append(ids, ev.id); return true }); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if !slices.Equal(chunks, r.chunks[5:]) || len(ids) == 0 || ids[0] != "6" || ids[len(ids)-1] != fmt.Sprint(len(r.chunks)) {
				t.Errorf("%s: ids %q\n%q\nwant\n%q", when, ids, chunks, r.chunks[5:])
			}
		}
	}
	again("at once")
	for _, r := range all { // it leaves memory after a while
		q.until("the job is stored as complete", 10*time.Second, func() bool { return q.record(r.id).State == "complete" })
	}
	q.kill()
	q.launch(q.addr())
	again("after a kill")
}
