package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// long is the number of rounds of a fault's row: short in a normal run, full in the long one.
func long(short, full int) int {
	if os.Getenv("RBEE_LONG") == "1" {
		return full
	}
	return short
}

// TestFault01KillQueenMidStream kills the queen with -9 while detached and attached jobs stream, starts her again and
// reads on with Last-Event-ID: detached jobs end, once, and what was read before and after is what a replay gives.
func TestFault01KillQueenMidStream(t *testing.T) {
	rounds := long(4, 100)
	q := start(t, "models: {demo: {ref: \"sim:demo?itl=3ms&ttft=5ms&slots=16\"}}\nqueue: {reattach: 3s}\n")
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"warm","max_tokens":1}`, nil, 200)
	rng := rand.New(rand.NewPCG(1, 2))
	jobs, lost, different := 0, 0, 0
	for round := range rounds {
		const n = 5
		ids := make([]string, n)
		seen := make([]strings.Builder, n)
		last := make([]string, n)
		var wg sync.WaitGroup
		for i := range n {
			var acc struct {
				JobID string `json:"job_id"`
			}
			q.json("POST", "/v2/tasks", fmt.Sprintf(`{"model":"demo","prompt":"round %d job %d","max_tokens":120}`, round, i), &acc, 202)
			ids[i] = acc.JobID
			wg.Go(func() {
				_ = q.follow(context.Background(), ids[i], "", func(ev event) bool {
					if ev.name == "token" {
						seen[i].WriteString(tokenText(ev))
					}
					if ev.id != "" {
						last[i] = ev.id
					}
					return true
				})
			})
		}
		var attached string
		wg.Go(func() {
			res, err := q.do(context.Background(), "POST", "/v1/completions", `{"model":"demo","prompt":"attached","max_tokens":2000,"stream":true}`)
			if err == nil {
				attached = res.Header.Get("X-Rbee-Job-Id")
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
		})
		<-time.After(time.Duration(20+rng.IntN(300)) * time.Millisecond)
		q.kill()
		wg.Wait()
		q.launch(q.addr())
		for i := range n {
			jobs++
			ends := 0
			if err := q.follow(t.Context(), ids[i], last[i], func(ev event) bool {
				switch ev.name {
				case "token":
					seen[i].WriteString(tokenText(ev))
				case "end":
					ends++
				case "error":
					t.Errorf("round %d: job %s: %s", round, ids[i], ev.data)
				}
				return true
			}); err != nil || (ends != 1 && !ended(q, ids[i])) {
				t.Errorf("round %d: job %s is lost: %v, %d ends", round, ids[i], err, ends)
				lost++
				continue
			}
			var replay strings.Builder
			ends = 0
			if err := q.follow(t.Context(), ids[i], "", func(ev event) bool {
				if ev.name == "token" {
					replay.WriteString(tokenText(ev))
				} else if ev.name == "end" {
					ends++
				}
				return true
			}); err != nil || ends != 1 {
				t.Fatalf("replay of %s: %v, %d ends", ids[i], err, ends)
			}
			if replay.String() != seen[i].String() || len(strings.Fields(replay.String())) != 120 {
				t.Errorf("round %d: job %s: read %d words, the replay has %d", round, ids[i], len(strings.Fields(seen[i].String())), len(strings.Fields(replay.String())))
				different++
			}
		}
		if attached != "" {
			q.until("the attached job without a reader is cancelled", 10*time.Second, func() bool {
				var rec jobRecord
				q.json("GET", "/v2/tasks/"+attached, nil, &rec, 200)
				return rec.State == "cancelled" || rec.State == "complete"
			})
		}
	}
	t.Logf("fault 01: %d kills, %d detached jobs, %d lost, %d different", rounds, jobs, lost, different)
}

func ended(q *queen, id string) bool {
	var rec jobRecord
	q.json("GET", "/v2/tasks/"+id, nil, &rec, 200)
	return rec.State == "complete"
}

// TestFault01AttachedReaderComesBack reads an attached stream, loses the queen, and reads on by the job's id.
func TestFault01AttachedReaderComesBack(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?itl=5ms\"}}\nqueue: {reattach: 20s}\n")
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"warm","max_tokens":1}`, nil, 200)
	var want completion
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"tale","max_tokens":200}`, &want, 200)
	res, err := q.do(t.Context(), "POST", "/v2/tasks", `{"model":"demo","prompt":"tale","max_tokens":200}`, "Accept", "text/event-stream")
	if err != nil {
		t.Fatal(err)
	}
	id := res.Header.Get("X-Rbee-Job-Id")
	var got strings.Builder
	last := ""
	n := 0
	_ = events(res.Body, func(ev event) bool {
		if ev.id != "" {
			last = ev.id
		}
		if ev.name == "token" {
			got.WriteString(tokenText(ev))
			n++
		}
		return n < 40
	})
	q.kill() // before the connection is closed: the queen never learns that the reader left
	_ = res.Body.Close()
	q.launch(q.addr())
	ends := 0
	if err := q.follow(t.Context(), id, last, func(ev event) bool {
		switch ev.name {
		case "token":
			got.WriteString(tokenText(ev))
		case "end":
			ends++
		case "error":
			t.Errorf("resume: %s", ev.data)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if ends != 1 || got.String() != want.Choices[0].Text {
		t.Fatalf("%d ends; read %d words, want %d", ends, len(strings.Fields(got.String())), len(strings.Fields(want.Choices[0].Text)))
	}
}

// twoStories starts a queen with two llama-server workers of the stories model.
func twoStories(t *testing.T) *queen {
	t.Helper()
	_, model := llamaServer(t)
	q := start(t, "models: {stories: {ref: \"file:"+model+"\", engine: llama.cpp, slots: 2, context: 2048, workers: 2, args: [\"-t\", \"1\", \"-tb\", \"1\"]}}\n")
	q.until("two workers are loaded", 30*time.Second, func() bool { return len(q.idleWorkers("stories")) == 2 })
	return q
}

// idleWorkers gives the pids of a model's workers that can take requests, by id.
func (q *queen) idleWorkers(model string) map[string]int {
	var list workerList
	q.json("GET", "/v2/workers/list", nil, &list, 200)
	out := map[string]int{}
	for _, w := range list.Workers {
		if w.Model == model && (w.State == "idle" || w.State == "busy") {
			out[w.WorkerID] = w.PID
		}
	}
	return out
}

// TestFault05KillWorkerMidStream kills a real llama-server in the middle of a stream: at temperature 0 the client's text
// is that of the undisturbed run.
func TestFault05KillWorkerMidStream(t *testing.T) {
	q := twoStories(t)
	const request = `{"model":"stories","prompt":"Once upon a time","max_tokens":300,"temperature":0,"ignore_eos":true`
	var want completion
	q.json("POST", "/v1/completions", request+`}`, &want, 200)
	rounds, exact := long(4, 40), 0
	for round := range rounds {
		res, err := q.do(t.Context(), "POST", "/v1/completions", request+`,"stream":true}`)
		if err != nil {
			t.Fatal(err)
		}
		worker := res.Header.Get("X-Rbee-Worker-Id")
		pid := q.idleWorkers("stories")[worker]
		if pid == 0 {
			t.Fatalf("round %d: no pid for worker %q", round, worker)
		}
		got, chunks, done, finish := "", 0, false, ""
		ids := map[string]bool{}
		if err := events(res.Body, func(ev event) bool {
			if ev.data == "[DONE]" {
				done = true
				return true
			}
			var c struct {
				ID      string
				Choices []struct {
					Text         string
					FinishReason string `json:"finish_reason"`
				}
				Error any
			}
			mustUnmarshal(t, ev.data, &c)
			if c.Error != nil {
				t.Errorf("round %d: %s", round, ev.data)
			}
			ids[c.ID] = true
			for _, ch := range c.Choices {
				got += ch.Text
				if ch.FinishReason != "" {
					finish = ch.FinishReason
				}
			}
			if chunks++; chunks == 5+round*11%150 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got == want.Choices[0].Text && done && finish == "length" && len(ids) == 1 {
			exact++
		} else {
			t.Errorf("round %d: done %v, finish %q, %d ids, text %d of %d bytes", round, done, finish, len(ids), len(got), len(want.Choices[0].Text))
		}
		q.until("two workers again", 30*time.Second, func() bool {
			pids := q.idleWorkers("stories")
			return len(pids) >= 2 && pids[worker] != pid
		})
	}
	t.Logf("fault 05: %d workers killed mid-stream, %d texts exact", rounds, exact)
}

// TestFault05RefusedContinuation: what cannot be continued ends in a clean error, never in [DONE].
func TestFault05RefusedContinuation(t *testing.T) {
	q := twoStories(t)
	for name, extra := range map[string]string{
		"n": `"n":2`, "logprobs": `"logprobs":1`, "echo": `"echo":true`, "suffix": `"suffix":" end"`, "grammar": `"grammar":"root ::= [a-z ]+"`,
	} {
		res, err := q.do(t.Context(), "POST", "/v1/completions", `{"model":"stories","prompt":"Once upon a time","max_tokens":800,"temperature":0,"ignore_eos":true,"stream":true,`+extra+`}`)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 200 {
			data, _ := io.ReadAll(res.Body)
			t.Logf("%s: the engine itself refuses: %s", name, data)
			_ = res.Body.Close()
			continue
		}
		worker := res.Header.Get("X-Rbee-Worker-Id")
		pid := q.idleWorkers("stories")[worker]
		failed, done, chunks := "", false, 0
		if err := events(res.Body, func(ev event) bool {
			if chunks++; chunks == 3 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			if ev.data == "[DONE]" {
				done = true
			} else if strings.Contains(ev.data, `"error"`) {
				failed = ev.data
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if done || !strings.Contains(failed, "worker_failed") {
			t.Errorf("%s: done %v, error %q after %d chunks", name, done, failed, chunks)
		}
		q.until("two workers again", 30*time.Second, func() bool {
			pids := q.idleWorkers("stories")
			return len(pids) >= 2 && pids[worker] != pid
		})
	}
}

// TestFault04DeadBeforeFirstToken kills workers between requests: clients notice nothing.
func TestFault04DeadBeforeFirstToken(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?ttft=40ms&itl=1ms&slots=4\", workers: 3}}\n")
	q.until("three workers are loaded", 30*time.Second, func() bool { return len(q.idleWorkers("demo")) == 3 })
	total, ok := long(60, 1000), 0
	rng := rand.New(rand.NewPCG(3, 4))
	var mu sync.Mutex
	var wg sync.WaitGroup
	gate := make(chan struct{}, 4)
	for i := range total {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if q.status("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`) == 200 {
				mu.Lock()
				ok++
				mu.Unlock()
			}
		})
		if i%15 == 7 {
			for _, pid := range q.idleWorkers("demo") {
				if rng.IntN(2) == 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
					break
				}
			}
		}
	}
	wg.Wait()
	t.Logf("fault 04: %d requests, %d succeeded", total, ok)
	if ok*100 < total*99 {
		t.Errorf("%d of %d succeeded, want 99 %%", ok, total)
	}
}

// TestFault06HungWorker: a server that accepts and never answers, or stops in the middle of a stream, ends in an error soon
// after its timer, and its slot is free again.
func TestFault06HungWorker(t *testing.T) {
	hung := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	half := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"+
			`data: {"id":"x","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"a","finish_reason":null}]}`+"\n\n")
		_, _ = io.Copy(io.Discard, c)
	})
	q := start(t, "hives: []\ntimeouts: {first_token: 500ms, inter_token: 500ms}\nexternals:\n"+
		"  - {name: hung, url: \"http://"+hung+"\", models: {hung: m}, slots: 1}\n  - {name: half, url: \"http://"+half+"\", models: {half: m}, slots: 1}\n")
	for range 3 {
		began := time.Now()
		if got := q.status("POST", "/v1/completions", `{"model":"hung","prompt":"go","max_tokens":5}`); got < 500 {
			t.Errorf("a server that never answers: status %d", got)
		}
		res, err := q.do(t.Context(), "POST", "/v1/completions", `{"model":"half","prompt":"go","max_tokens":5,"logprobs":1,"stream":true}`)
		if err != nil {
			t.Fatal(err)
		}
		failed, done := false, false
		_ = events(res.Body, func(ev event) bool {
			failed = failed || strings.Contains(ev.data, `"error"`)
			done = done || ev.data == "[DONE]"
			return true
		})
		_ = res.Body.Close()
		if !failed || done {
			t.Errorf("a server that stops in the middle: error %v, done %v", failed, done)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("both took %s", took)
		}
	}
}

func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}
