package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowd is a number of clients that ask again and again, and what they saw.
type crowd struct {
	q     *queen
	tr    *http.Transport
	pause time.Duration // after a refusal

	ok, refused, wrong atomic.Int64
	mu                 sync.Mutex
	took               []time.Duration // of the answers
}

// ask sends one request and judges the answer; false means that it was refused.
func (c *crowd) ask() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, "POST", c.q.url+"/v1/completions", bytes.NewReader([]byte(`{"model":"demo","prompt":"go","max_tokens":3}`)))
	if err != nil {
		c.wrong.Add(1)
		return false
	}
	res, err := c.tr.RoundTrip(req)
	if err != nil {
		c.wrong.Add(1)
		return false
	}
	data, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	switch {
	case res.StatusCode == 200 && bytes.Contains(data, []byte(`"length"`)):
		c.ok.Add(1)
		c.mu.Lock()
		c.took = append(c.took, time.Since(began))
		c.mu.Unlock()
		return true
	case (res.StatusCode == 429 || res.StatusCode == 503) && res.Header.Get("Retry-After") != "" && res.Header.Get("Retry-After-Ms") != "" &&
		res.Header.Get("X-Should-Retry") == "true":
		c.refused.Add(1)
	default:
		c.wrong.Add(1)
		c.q.t.Logf("status %d: %s", res.StatusCode, data)
	}
	return false
}

// run has n clients ask until there were so many answers.
func (c *crowd) run(n int, answers int64) {
	c.tr = &http.Transport{MaxIdleConnsPerHost: n}
	defer c.tr.CloseIdleConnections()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for c.ok.Load() < answers && c.wrong.Load() == 0 {
				if !c.ask() {
					<-time.After(c.pause)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(c.took)
}

// TestFault18Flood has ten times as many clients ask as slots and line can hold: what is refused says when to come back,
// what was accepted takes no longer than without the flood, and memory stays bounded.
func TestFault18Flood(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?ttft=20ms&itl=2ms&slots=4\", workers: 1}}\nqueue: {max: 4}\n")
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"warm","max_tokens":1}`, nil, 200)
	answers := int64(long(400, 3000))
	alone := &crowd{q: q, pause: 5 * time.Millisecond}
	alone.run(8, answers) // as many as there is room for
	before := rss(t, q.cmd.Process.Pid)
	flood := &crowd{q: q, pause: 40 * time.Millisecond}
	flood.run(80, answers)
	after := rss(t, q.cmd.Process.Pid)
	ratio := float64(percentile(flood.took, 99)) / float64(percentile(alone.took, 99))
	t.Logf("fault 18: %d answered, %d refused, %d wrong; p99 of the accepted %s alone, %s in the flood: %.2f; RSS %d -> %d MiB", flood.ok.Load(),
		flood.refused.Load(), flood.wrong.Load()+alone.wrong.Load(), percentile(alone.took, 99), percentile(flood.took, 99), ratio, before>>20, after>>20)
	if flood.wrong.Load()+alone.wrong.Load() > 0 || flood.ok.Load() == 0 || flood.refused.Load() == 0 {
		t.Error("every request must be answered or refused with Retry-After")
	}
	if after > 2*before {
		t.Errorf("memory grew from %d to %d MiB", before>>20, after>>20)
	}
	if os.Getenv("RBEE_LONG") == "1" && ratio > 1.5 {
		t.Errorf("the accepted take %.2f times as long in the flood, at most 1.5 is allowed", ratio)
	}
	q.until("nothing is left in line", 20*time.Second, func() bool { return q.count("queued")+q.count("running") == 0 })
}

// cost is the processor time that a request of a kind takes the queen, after so many that are not counted.
func (q *queen) cost(conns, before, n int, k hostile, want int) time.Duration {
	q.t.Helper()
	q.sendOver(conns, before, []hostile{k}, func(hostile, int, http.Header) {})
	began := cpu(q.t, q.cmd.Process.Pid)
	q.sendOver(conns, n, []hostile{k}, func(_ hostile, status int, h http.Header) {
		if status != want {
			q.t.Errorf("%s: %d %s, want %d", k.name, status, h.Get("X-Rbee-Error"), want)
		}
	})
	return (cpu(q.t, q.cmd.Process.Pid) - began) / time.Duration(n)
}

// usualAnswer is what a streamed answer of 69 tokens takes a queen whose line has room for all who ask.
func usualAnswer(t *testing.T) time.Duration {
	q := start(t, "models: {usual: {ref: \"sim:usual?ttft=5ms&itl=5ms&slots=64\", workers: 1}}\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	key := q.makeKey(admin, `{"tenant_id":"a","scope":"infer"}`).Key
	return q.cost(40, 40, long(240, 2400), hostile{name: "streamed answer", method: "POST", path: "/v1/chat/completions", header: []string{"Authorization", "Bearer " + key},
		body: `{"model":"usual","messages":[{"role":"user","content":"Tell me a story, please."}],"max_tokens":69,"stream":true}`}, 200)
}

// TestFault18RefusalsAreCheap compares the queen's processor time for an answer with that for each kind of refusal: a streamed
// answer of 69 tokens, the median of the request trace that the scheduler is measured with, from a worker that says 200 of them a
// second, and a whole one of 16 from one that says them as fast as it can, the cheapest there is. The ratio that is wanted is ten (docs/bench/admission.md says what was
// measured); the long form fails below ten against the first and below five against the second.
func TestFault18RefusalsAreCheap(t *testing.T) {
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
	}))
	defer stuck.Close()
	q := start(t, "models: {demo: {ref: \"sim:demo?ttft=1ms&itl=1us&slots=16\", workers: 1}}\nqueue: {max: 4}\n"+
		"externals: [{name: stuck, url: \""+stuck.URL+"\", protocol: openai, models: {full: full}, slots: 1, health: /}]\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	key := q.makeKey(admin, `{"tenant_id":"a","scope":"infer"}`).Key
	slow := q.makeKey(admin, `{"tenant_id":"slow","scope":"infer"}`).Key
	if status, _, data := q.ask(admin, "PUT", "/v2/tenants/slow", `{"rpm":1}`); status != 200 {
		t.Fatalf("%d %s", status, data)
	}
	q.ask(slow, "POST", "/v1/completions", `{"model":"demo","prompt":"x","max_tokens":1}`)
	auth := func(k string) []string { return []string{"Authorization", "Bearer " + k} }
	body := func(model string) string {
		return `{"model":"` + model + `","messages":[{"role":"user","content":"Tell me a story, please."}],"max_tokens":16}`
	}
	path := "/v1/chat/completions"
	cost := func(k hostile, want int) time.Duration {
		k.method, k.path = "POST", path
		return q.cost(8, 200, long(2000, 10_000), k, want)
	}
	answer := cost(hostile{name: "answer", body: body("demo"), header: auth(key)}, 200)
	usual := usualAnswer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var held sync.WaitGroup
	for range 8 { // every slot, and the line
		held.Go(func() {
			if res, err := q.do(ctx, "POST", path, body("full"), auth(key)...); err == nil {
				_ = res.Body.Close()
			}
		})
	}
	q.until("the line is full", 20*time.Second, func() bool {
		_, _, data := q.ask(admin, "GET", "/v2/tasks?state=queued", nil)
		return bytes.Count([]byte(data), []byte(`"job_id"`)) >= 2 // a tenant alone gets half of it
	})
	lines := ""
	for _, k := range []struct {
		hostile
		want int
	}{
		{hostile{name: "no key", body: body("demo")}, 401},
		{hostile{name: "not JSON", body: "nonsense", header: auth(key)}, 400},
		{hostile{name: "nested", body: `{"model":"demo","messages":` + string(bytes.Repeat([]byte("["), 20_000)), header: auth(key)}, 400},
		{hostile{name: "unknown model", body: body("none"), header: auth(key)}, 404},
		{hostile{name: "rate", body: body("demo"), header: auth(slow)}, 429},
		{hostile{name: "full line", body: body("full"), header: auth(key)}, 503},
	} {
		each := cost(k.hostile, k.want)
		lines += fmt.Sprintf("; %s %s (1/%.0f, 1/%.1f)", k.name, each, float64(usual)/float64(max(each, 1)), float64(answer)/float64(max(each, 1)))
		if os.Getenv("RBEE_LONG") == "1" && (each*10 > usual || each*5 > answer) {
			t.Errorf("%s: a refusal takes %s of processor time, an answer %s or %s: a tenth of the first and a fifth of the second are allowed", k.name, each, usual, answer)
		}
	}
	t.Logf("fault 18: processor time of the queen: an answer of 69 tokens, streamed, %s, of 16, whole, %s%s", usual, answer, lines)
	cancel()
	held.Wait()
}
