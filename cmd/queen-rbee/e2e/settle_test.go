package e2e

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// usage is what the default tenant has used by the queen's books.
func (q *queen) usage() (tokens, jobs int) {
	q.t.Helper()
	var out struct {
		Tenants []struct {
			ID    string `json:"tenant_id"`
			Usage struct {
				Tokens int `json:"tokens_today"`
				Jobs   int `json:"jobs_today"`
			} `json:"usage"`
		} `json:"tenants"`
	}
	q.json("GET", "/v2/tenants", nil, &out, 200)
	for _, t := range out.Tenants {
		if t.ID == "default" {
			return t.Usage.Tokens, t.Usage.Jobs
		}
	}
	return 0, 0
}

// TestUsageOutlivesAKill kills the queen the moment an answer has come, of every kind: the record says complete at once,
// and the tenant has used what was served, no more and no less. Then jobs that end early: the prompt was read all the same.
func TestUsageOutlivesAKill(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?ttft=1ms&itl=1ms\"}, slow: {ref: \"sim:slow?itl=20ms\"}}\nqueue: {reattach: 1s}\n")
	const prompt = 10 // tokens of the forty characters below
	body := func(model string, n int, stream bool) string {
		return fmt.Sprintf(`{"model":%q,"prompt":"0123456789012345678901234567890123456789","max_tokens":%d,"stream":%t}`, model, n, stream)
	}
	q.json("POST", "/v1/completions", body("demo", 1, false), nil, 200) // loaded
	tokens, jobs := prompt+1, 1
	for round, c := range []struct {
		n      int
		key    bool
		stream bool
	}{{2, false, false}, {2, true, false}, {90, false, false}, {90, true, false}, {2, false, true}, {90, false, true}, {2, false, false}} {
		var header []string
		if c.key {
			header = []string{"Idempotency-Key", fmt.Sprint("round-", round)}
		}
		res, err := q.do(t.Context(), "POST", "/v1/completions", body("demo", c.n, c.stream), header...)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%+v: %d %v", c, res.StatusCode, err)
		}
		q.kill()
		q.launch(q.addr())
		var rec struct {
			State  string `json:"state"`
			Tokens int    `json:"tokens_out"`
		}
		q.json("GET", "/v2/tasks/"+res.Header.Get("X-Rbee-Job-Id"), nil, &rec, 200)
		if rec.State != "complete" || rec.Tokens != c.n {
			t.Errorf("%+v: the record of an answer that was served says %+v", c, rec)
		}
		tokens, jobs = tokens+prompt+c.n, jobs+1
		if gotTokens, gotJobs := q.usage(); gotTokens != tokens || gotJobs != jobs {
			t.Errorf("%+v: used %d tokens in %d jobs, want %d in %d", c, gotTokens, gotJobs, tokens, jobs)
		}
	}
	endedEarly(t, q, body("slow", 1000, false), body("slow", 1000, true))
}

// endedEarly: one job is cancelled on request, one is left by its reader; both are charged the prompt and what came.
func endedEarly(t *testing.T, q *queen, plain, stream string) {
	t.Helper()
	before, _ := q.usage()
	var task struct {
		ID string `json:"job_id"`
	}
	q.json("POST", "/v2/tasks", plain[:len(plain)-len(`,"stream":false}`)]+"}", &task, 202)
	q.until("it has begun", 20*time.Second, func() bool { return q.streamBegan(task.ID) })
	q.json("DELETE", "/v2/tasks/"+task.ID, nil, nil, 202)
	res, err := q.do(t.Context(), "POST", "/v1/completions", stream)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	_ = events(res.Body, func(event) bool { n++; return n < 5 })
	_ = res.Body.Close()
	left := res.Header.Get("X-Rbee-Job-Id")
	want := before
	for _, id := range []string{task.ID, left} {
		q.until("job "+id+" is cancelled", 20*time.Second, func() bool { return q.record(id).State == "cancelled" })
		r := q.record(id)
		if r.PromptTokens != 10 || r.TokensOut == 0 {
			t.Errorf("job %s: %+v", id, r)
		}
		want += r.PromptTokens + r.TokensOut
	}
	q.until("both are settled", 10*time.Second, func() bool { got, _ := q.usage(); return got == want })
}

func (q *queen) record(id string) (r jobRecord) {
	q.t.Helper()
	q.json("GET", "/v2/tasks/"+id, nil, &r, 200)
	return r
}

// streamBegan reports whether a job has a token already.
func (q *queen) streamBegan(id string) (began bool) {
	_ = q.follow(q.t.Context(), id, "", func(ev event) bool { began = ev.name == "token"; return !began })
	return began
}
