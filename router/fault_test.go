package router

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func two(t *testing.T, protocol string, first script) (*fakeWorker, *fakeWorker) {
	return startWorker(t, "a", protocol, first), startWorker(t, "b", protocol, answer)
}

func TestFault04RetriedBeforeTheFirstToken(t *testing.T) {
	dead := func(w *fakeWorker, c *call) bool { w.l.Close(); return dieAt(0)(w, c) }
	for name, first := range map[string]script{
		"dies": dieAt(0), "port closed": dead, "500": refuseWith(500, "", `{"error":{"message":"oops"}}`), "502": refuseWith(502, "", "bad"),
		"redirect":  refuseWith(302, "Location: http://169.254.169.254/\r\n", ""),
		"wrong key": refuseWith(401, "", `{"error":{"message":"invalid key"}}`),
		"garbage":   func(w *fakeWorker, c *call) bool { _, _ = c.conn.Write([]byte("SSH-2.0-what\r\n\r\n")); return false },
		"endless header": func(w *fakeWorker, c *call) bool {
			_, _ = c.conn.Write([]byte("HTTP/1.1 200 OK\r\n"))
			for {
				if _, err := c.conn.Write([]byte("X: " + strings.Repeat("y", 1000) + "\r\n")); err != nil {
					return false
				}
			}
		},
		"stream without a token": answerUntil(0, nil),
	} {
		t.Run(name, func(t *testing.T) {
			a, b := two(t, ProtocolOpenAI, first)
			g := newRig(t, Options{}, a, b)
			h := g.submit(complete(5))
			res := g.wait(h)
			s := g.streams.get(h.ID())
			if res.State != Complete || s.text != whole(5) || res.Attempt != 2 || res.Worker != "b" {
				t.Fatalf("%+v, text %q", res, s.text)
			}
			if g.fleet.faults("a") != 1 || g.fleet.faults("b") != 0 {
				t.Errorf("faults %d and %d", g.fleet.faults("a"), g.fleet.faults("b"))
			}
			g.free()
		})
	}
}

func TestFault04NothingElsewhere(t *testing.T) {
	a, b := two(t, ProtocolOpenAI, dieAt(0))
	b.become(dieAt(0))
	g := newRig(t, Options{}, a, b)
	h := g.submit(complete(5))
	if res := g.wait(h); res.Code != CodeWorkerFailed || res.Attempt != 2 {
		t.Fatalf("%+v", res)
	}
	if strings.Contains(h.Result().Message, "127.0.0.1") {
		t.Errorf("the message shows an address: %s", h.Result().Message)
	}
	g.free()
}

func TestFault04WholeAnswerCut(t *testing.T) {
	cut := func(w *fakeWorker, c *call) bool {
		_, _ = c.conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{\"choices\":"))
		return false
	}
	a, b := two(t, ProtocolOpenAI, cut)
	g := newRig(t, Options{}, a, b)
	j := complete(5)
	j.Stream, j.Body = false, []byte(`{"model":"m","prompt":"P","max_tokens":5}`)
	if res := g.wait(g.submit(j)); res.State != Complete || res.Attempt != 2 {
		t.Fatalf("%+v", res)
	}
}

func TestFault05Continued(t *testing.T) {
	for name, job := range map[string]func(int) *Job{"completion": complete, "chat": chat, "native": native} {
		for _, protocol := range []string{ProtocolOpenAI, ProtocolExecute} {
			for _, cut := range []int{1, 4, 9} {
				t.Run(name+"/"+protocol, func(t *testing.T) {
					a, b := two(t, protocol, dieAt(cut))
					g := newRig(t, Options{}, a, b)
					h := g.submit(job(10))
					res := g.wait(h)
					s := g.streams.get(h.ID())
					if res.State != Complete || s.text != whole(10) || res.TokensOut != 10 {
						t.Fatalf("cut at %d: %+v, text %q", cut, res, s.text)
					}
					if !s.options[1].Continued || s.options[0].Continued {
						t.Errorf("options %+v", s.options)
					}
					c := b.next(t)
					if c.num("max_tokens", 0) != 10-cut {
						t.Errorf("max_tokens %d", c.num("max_tokens", 0))
					}
					g.free()
				})
			}
		}
	}
}

func TestFault05AllTokensOut(t *testing.T) {
	a, b := two(t, ProtocolOpenAI, dieAt(10))
	a.become(func(w *fakeWorker, c *call) bool { // everything but the end
		_, _ = c.conn.Write([]byte(sseHeader))
		for i := range 10 {
			emitToken(c, i)
		}
		return false
	})
	g := newRig(t, Options{}, a, b)
	h := g.submit(complete(10))
	res := g.wait(h)
	if res.State != Complete || res.StopReason != "length" || b.count() != 0 || g.streams.get(h.ID()).text != whole(10) {
		t.Fatalf("%+v", res)
	}
}

func TestFault05AtMostTwoRescues(t *testing.T) {
	ws := []*fakeWorker{startWorker(t, "a", ProtocolOpenAI, dieAt(2)), startWorker(t, "b", ProtocolOpenAI, dieAt(4)),
		startWorker(t, "c", ProtocolOpenAI, dieAt(6)), startWorker(t, "d", ProtocolOpenAI, answer)}
	g := newRig(t, Options{}, ws...)
	h := g.submit(complete(10))
	res := g.wait(h)
	if res.Code != CodeWorkerFailed || res.Attempt != 3 || g.streams.get(h.ID()).text != whole(6) {
		t.Fatalf("%+v %q", res, g.streams.get(h.ID()).text)
	}
	g.free()
}

func TestFault05Refusals(t *testing.T) {
	for _, field := range []string{`"n":2`, `"logprobs":3`, `"logprobs":true`, `"echo":true`, `"suffix":"x"`, `"best_of":2`, `"grammar":"root ::= x"`,
		`"json_schema":{"type":"object"}`, `"response_format":{"type":"json_object"}`, `"guided_json":{"a":1}`} {
		t.Run(field, func(t *testing.T) {
			a, b := two(t, ProtocolOpenAI, dieAt(3))
			g := newRig(t, Options{}, a, b)
			j := complete(10)
			j.Body = []byte(`{"model":"m","prompt":"P","max_tokens":10,"stream":true,` + field + `}`)
			refused(t, g, j, b)
		})
	}
	t.Run("no prefill", func(t *testing.T) {
		a, b := two(t, ProtocolOpenAI, dieAt(3))
		a.Capabilities.Prefill, b.Capabilities.Prefill = false, false
		refused(t, newRig(t, Options{}, a, b), chat(10), b)
	})
	t.Run("token prompt", func(t *testing.T) {
		a, b := two(t, ProtocolOpenAI, dieAt(3))
		j := complete(10)
		j.Body = []byte(`{"model":"m","prompt":[1,2,3],"max_tokens":10,"stream":true}`)
		refused(t, newRig(t, Options{}, a, b), j, b)
	})
	t.Run("raw", func(t *testing.T) {
		a, b := two(t, ProtocolOpenAI, dieAt(3))
		j := complete(10)
		j.Surface, j.Path = Raw, "/v1/responses"
		refused(t, newRig(t, Options{}, a, b), j, b)
	})
	t.Run("the engine refuses", func(t *testing.T) {
		a, b := two(t, ProtocolOpenAI, dieAt(3))
		b.become(refuseWith(400, "", `{"error":{"message":"prefill is incompatible with thinking"}}`))
		g := newRig(t, Options{}, a, b)
		res := g.wait(g.submit(chat(10)))
		if res.State != Failed || res.Code != CodeWorkerFailed {
			t.Fatalf("%+v", res)
		}
	})
	t.Run("the stream refuses", func(t *testing.T) { // tool calls under way
		a := startWorker(t, "a", ProtocolOpenAI, nil)
		b := startWorker(t, "b", ProtocolOpenAI, answer)
		gate := make(chan struct{})
		a.become(answerUntil(3, func(*fakeWorker, *call) { <-gate }))
		g := newRig(t, Options{}, a, b)
		h := g.submit(chat(10))
		s := g.streams.get(h.ID())
		s.sees(t, 3)
		s.mu.Lock()
		s.refuse = true
		s.mu.Unlock()
		close(gate)
		if res := g.wait(h); res.Code != CodeWorkerFailed || b.count() != 0 {
			t.Fatalf("%+v", res)
		}
	})
}

// refused checks that a job that lost its worker ends in a clean error, with what it emitted untouched.
func refused(t *testing.T, g *rig, j *Job, other *fakeWorker) {
	t.Helper()
	h := g.submit(j)
	res := g.wait(h)
	if res.State != Failed || res.Code != CodeWorkerFailed || other.count() != 0 {
		t.Fatalf("%+v, %d calls", res, other.count())
	}
	if s := g.streams.get(h.ID()); s.text != whole(3) {
		t.Errorf("text %q", s.text)
	}
	g.free()
}

func TestFault05NobodyElse(t *testing.T) {
	a := startWorker(t, "a", ProtocolOpenAI, dieAt(3))
	g := newRig(t, Options{RescueWait: 50 * time.Millisecond}, a)
	h := g.submit(complete(10))
	if res := g.wait(h); res.Code != CodeWorkerFailed || g.streams.get(h.ID()).text != whole(3) {
		t.Fatalf("%+v", res)
	}
	g.free()
}

func TestFault05WaitsForASlot(t *testing.T) {
	a, b := two(t, ProtocolOpenAI, dieAt(3))
	b.Slots = 1
	g := newRig(t, Options{RescueWait: patience}, a, b)
	gate := make(chan struct{})
	b.become(func(w *fakeWorker, c *call) bool { <-gate; return answer(w, c) })
	g.sched.mu.Lock()
	g.sched.workers[0].Slots = 1
	g.sched.mu.Unlock()
	j := complete(3)
	j.Node = b.Node
	busy := g.submit(j)
	b.next(t)
	h := g.submit(complete(10))
	g.streams.get(h.ID()).sees(t, 3)
	close(gate)
	if res := g.wait(h); res.State != Complete || g.streams.get(h.ID()).text != whole(10) {
		t.Fatalf("%+v", res)
	}
	g.wait(busy)
	if b.peak.Load() > 1 {
		t.Error("more requests than slots")
	}
	g.free()
}

func TestFault06Hangs(t *testing.T) {
	for name, c := range map[string]struct {
		script script
		first  time.Duration
		tokens int
	}{"before the first token": {hangAt(0), 100 * time.Millisecond, 0}, "between tokens": {hangAt(3), patience, 3}} {
		t.Run(name, func(t *testing.T) {
			a := startWorker(t, "a", ProtocolOpenAI, c.script)
			g := newRig(t, Options{FirstToken: c.first, InterToken: 500 * time.Millisecond, Retries: -1, Rescues: -1}, a)
			h := g.submit(complete(10))
			res := g.wait(h)
			if res.Code != CodeWorkerFailed || !strings.Contains(res.Message, "in time") || res.TokensOut != c.tokens {
				t.Fatalf("%+v", res)
			}
			<-a.next(t).gone
			if g.fleet.faults("a") != 1 {
				t.Error("not reported")
			}
			g.free()
		})
	}
	t.Run("whole answer", func(t *testing.T) {
		a := startWorker(t, "a", ProtocolOpenAI, hangAt(0))
		g := newRig(t, Options{Reply: 50 * time.Millisecond, Retries: -1}, a)
		j := complete(3)
		j.Stream, j.Body = false, []byte(`{"model":"m","prompt":"P","max_tokens":3}`)
		if res := g.wait(g.submit(j)); res.Code != CodeWorkerFailed {
			t.Fatalf("%+v", res)
		}
		g.free()
	})
	t.Run("nobody else", func(t *testing.T) {
		a := startWorker(t, "a", ProtocolOpenAI, hangAt(0))
		g := newRig(t, Options{FirstToken: 100 * time.Millisecond}, a)
		if res := g.wait(g.submit(complete(10))); res.Code != CodeWorkerFailed || a.count() != 1 {
			t.Fatalf("%+v, %d calls", res, a.count())
		}
		g.free()
	})
	t.Run("nobody else may", func(t *testing.T) {
		a := startWorker(t, "a", ProtocolOpenAI, hangAt(3))
		g := newRig(t, Options{InterToken: 500 * time.Millisecond}, a)
		g.sched.refuses = refuse("NO_HIVE_AVAILABLE", 0, nil, "no worker may take the job")
		if res := g.wait(g.submit(complete(10))); res.Code != CodeWorkerFailed || !strings.Contains(res.Message, "in time") || res.TokensOut != 3 {
			t.Fatalf("the client is not told what happened to its worker: %+v", res)
		}
		g.free()
	})
	t.Run("goes on elsewhere", func(t *testing.T) {
		a, b := two(t, ProtocolOpenAI, hangAt(3))
		g := newRig(t, Options{InterToken: 500 * time.Millisecond}, a, b)
		h := g.submit(complete(10))
		if res := g.wait(h); res.State != Complete || g.streams.get(h.ID()).text != whole(10) {
			t.Fatalf("%+v", res)
		}
	})
	t.Run("slow is not hung", func(t *testing.T) {
		a := startWorker(t, "a", ProtocolOpenAI, func(w *fakeWorker, c *call) bool {
			_, _ = c.conn.Write([]byte(sseHeader))
			for i := range 10 {
				<-time.After(150 * time.Millisecond)
				emitToken(c, i)
			}
			emitEnd(c)
			return false
		})
		g := newRig(t, Options{FirstToken: 1200 * time.Millisecond, InterToken: 1200 * time.Millisecond}, a) // shorter than the whole
		if res := g.wait(g.submit(complete(10))); res.State != Complete || res.Attempt != 1 {
			t.Fatalf("%+v", res)
		}
	})
}

func TestFault07ClientErrorsBlameNobody(t *testing.T) {
	for _, status := range []int{400, 404, 413, 422, 501} {
		a, b := two(t, ProtocolOpenAI, refuseWith(status, "", `{"error":{"message":"exceeds the context","type":"exceed_context_size_error"}}`))
		g := newRig(t, Options{}, a, b)
		h := g.submit(complete(5))
		res := g.wait(h)
		s := g.streams.get(h.ID())
		if res.State != Failed || res.Code != CodeInvalid || res.Status != status || s.status != status || !strings.Contains(string(s.body), "exceed_context") {
			t.Fatalf("%+v, body %s", res, s.body)
		}
		if b.count() != 0 || g.fleet.faults("a") != 0 {
			t.Error("retried, or held against the worker")
		}
		g.free()
	}
	// llama-server answers malformed requests with 500: the same from two workers is the request's fault
	a, b := two(t, ProtocolOpenAI, refuseWith(500, "", `{"error":{"message":"parse error"}}`))
	b.become(refuseWith(500, "", `{"error":{"message":"parse error"}}`))
	g := newRig(t, Options{}, a, b)
	res := g.wait(g.submit(complete(5)))
	if res.Code != CodeWorkerFailed || !strings.Contains(res.Message, "parse error") || g.fleet.faults("a")+g.fleet.faults("b") != 0 {
		t.Fatalf("%+v, faults %d %d", res, g.fleet.faults("a"), g.fleet.faults("b"))
	}
}

func TestFault07BusyIsNoFault(t *testing.T) {
	for _, status := range []int{429, 503} {
		a, b := two(t, ProtocolOpenAI, refuseWith(status, "Retry-After: 7\r\n", `{"error":{"message":"Loading model"}}`))
		g := newRig(t, Options{}, a, b)
		if res := g.wait(g.submit(complete(5))); res.State != Complete || res.Worker != "b" {
			t.Fatalf("%+v", res)
		}
		if g.fleet.faults("a") != 0 {
			t.Error("held against the worker")
		}
		g.free()
	}
	// alone and busy for a while: the job waits, and nobody storms
	var asked atomic.Int32
	a := startWorker(t, "a", ProtocolOpenAI, func(w *fakeWorker, c *call) bool {
		if asked.Add(1) < 3 {
			return refuseWith(503, "", "busy")(w, c)
		}
		return answer(w, c)
	})
	g := newRig(t, Options{}, a)
	g.sched.ignore = true
	if res := g.wait(g.submit(complete(5))); res.State != Complete || res.Attempt != 3 {
		t.Fatalf("%+v", res)
	}
	g.free()
}

func TestFault25ClientLeaves(t *testing.T) {
	streamed := func() *Job { return complete(50) }
	wholeAnswer := func() *Job {
		j := complete(50)
		j.Stream, j.Body = false, []byte(`{"model":"m","prompt":"P","max_tokens":50}`)
		return j
	}
	for name, c := range map[string]struct {
		job    func() *Job
		script script
		tokens int
	}{
		"streaming": {streamed, hangAt(5), 5}, "in prefill": {streamed, hangAt(0), 0}, "not streaming": {wholeAnswer, hangAt(0), 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := startWorker(t, "a", ProtocolExecute, c.script)
			a.Protocol = ProtocolOpenAI
			a.Capabilities.CancelCall = true
			g := newRig(t, Options{}, a)
			h := g.submit(c.job())
			s := g.streams.get(h.ID())
			s.attach()
			k := a.next(t)
			s.sees(t, c.tokens)
			s.leave()
			select {
			case <-k.gone:
			case <-time.After(patience):
				t.Fatal("the worker goes on")
			}
			if res := g.wait(h); res.State != CancelledJob || res.Code != CodeCancelled {
				t.Fatalf("%+v", res)
			}
			if k := a.next(t); k.path != "/v1/cancel" {
				t.Errorf("path %s", k.path)
			}
			if g.fleet.faults("a") != 0 {
				t.Error("held against the worker")
			}
			g.free()
		})
	}
	t.Run("in line", func(t *testing.T) {
		a := startWorker(t, "a", ProtocolOpenAI, hangAt(0))
		a.Slots = 1
		g := newRig(t, Options{}, a)
		g.submit(complete(5))
		h := g.submit(complete(5))
		s := g.streams.get(h.ID())
		s.attach()
		s.leave()
		if res := g.wait(h); res.State != CancelledJob {
			t.Fatalf("%+v", res)
		}
		if g.Stats().Waiting != 0 || a.count() > 1 {
			t.Error("still in line")
		}
	})
	t.Run("detached goes on", func(t *testing.T) {
		gate := make(chan struct{})
		a := startWorker(t, "a", ProtocolOpenAI, func(w *fakeWorker, c *call) bool { <-gate; return answer(w, c) })
		g := newRig(t, Options{}, a)
		h := g.submit(native(5))
		s := g.streams.get(h.ID())
		s.attach()
		s.leave()
		close(gate)
		if res := g.wait(h); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	})
}

func TestCancelInAnyState(t *testing.T) {
	a := startWorker(t, "a", ProtocolOpenAI, hangAt(2))
	a.Slots = 1
	g := newRig(t, Options{}, a)
	running, waiting := g.submit(native(5)), g.submit(native(5))
	ctx := context.Background()
	for range 2 {
		for _, h := range []*Handle{waiting, running} {
			_ = g.Cancel(ctx, h.ID())
		}
	}
	for _, h := range []*Handle{running, waiting} {
		if res := g.wait(h); res.State != CancelledJob || res.Code != CodeCancelled {
			t.Fatalf("%+v", res)
		}
		if err := g.Cancel(ctx, h.ID()); codeOf(err, "") != CodeNotFound {
			t.Errorf("%v", err)
		}
	}
	g.free()
}

// ration is a budget of a fifth of the requests, at least three.
type ration struct {
	mu              sync.Mutex
	requests, taken int
}

func (b *ration) Request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests++
}

func (b *ration) Take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken >= max(3, b.requests/5) {
		return false
	}
	b.taken++
	return true
}

func TestFault26RetryStorm(t *testing.T) {
	a, b := two(t, ProtocolOpenAI, dieAt(0))
	b.become(dieAt(0))
	g := newRig(t, Options{Budget: &ration{}, QueueTimeout: 300 * time.Millisecond}, a, b)
	const n = 100
	var hs []*Handle
	for range n {
		hs = append(hs, g.submit(complete(3)))
	}
	for _, h := range hs {
		if res := g.wait(h); res.Code != CodeWorkerFailed && res.Code != CodeCapacity {
			t.Fatalf("%+v", res)
		}
	}
	if calls := a.count() + b.count(); calls > n*12/10 {
		t.Errorf("%d attempts for %d requests", calls, n)
	}
	g.free()
}

// A worker that dies under many jobs at once: no leave to try again is a wait, not a failure.
func TestFault04BudgetDelaysOnly(t *testing.T) {
	a, b := two(t, ProtocolOpenAI, nil)
	a.Slots, b.Slots = 20, 20
	gate := make(chan struct{})
	a.become(func(w *fakeWorker, c *call) bool { <-gate; return dieAt(0)(w, c) })
	budget := &ration{}
	g := newRig(t, Options{Budget: budget}, a, b)
	var hs []*Handle
	for range 20 {
		hs = append(hs, g.submit(complete(3)))
	}
	for range hs {
		a.next(t)
	}
	close(gate)
	for g.Stats().Waiting < 10 {
		<-time.After(time.Millisecond)
	}
	budget.mu.Lock()
	budget.requests = 1000 // time passes
	budget.mu.Unlock()
	for _, h := range hs {
		if res := g.wait(h); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	}
	g.free()
}
