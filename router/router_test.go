package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestStreamsThroughBothProtocols(t *testing.T) {
	for _, protocol := range []string{ProtocolOpenAI, ProtocolExecute} {
		for name, job := range map[string]func(int) *Job{"completion": complete, "chat": chat, "native": native} {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				w := startWorker(t, "a", protocol, answer)
				g := newRig(t, Options{}, w)
				j := job(5)
				j.Traceparent, j.CorrelationID = "00-aa-bb-01", "corr"
				h := g.submit(j)
				if err := h.Committed(context.Background()); err != nil {
					t.Fatal(err)
				}
				res := g.wait(h)
				s := g.streams.get(h.ID())
				if res.State != Complete || s.text != whole(5) || res.TokensOut != 5 || res.StopReason != "length" {
					t.Fatalf("result %+v, text %q", res, s.text)
				}
				c := w.next(t)
				if c.header.Get("Authorization") != "Bearer key-a" || c.header.Get("Traceparent") != "00-aa-bb-01" || c.header.Get("X-Correlation-Id") != "corr" {
					t.Errorf("headers %v", c.header)
				}
				if id, _ := h.Worker(); id != "a" || res.Attempt != 1 || res.FirstToken.IsZero() {
					t.Errorf("worker %q, result %+v", id, res)
				}
				g.free()
			})
		}
	}
}

func TestWholeAnswerKeepsTheConnection(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{}, w)
	for range 5 {
		j := complete(3)
		j.Stream, j.Body = false, []byte(`{"model":"m","prompt":"P","max_tokens":3}`)
		h := g.submit(j)
		if res := g.wait(h); res.State != Complete || res.Status != 200 {
			t.Fatalf("%+v", res)
		}
		if !strings.Contains(string(g.streams.get(h.ID()).body), whole(3)) {
			t.Fatal("body not relayed")
		}
	}
	if n := w.dialed.Load(); n != 1 {
		t.Errorf("%d connections for 5 answers", n)
	}
}

// A worker that advertises keep-alive and closes after each stream must never be asked again on that connection, and one
// that closes an idle connection costs nothing but another dial.
func TestKeepAliveTrap(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{Retries: -1}, w)
	for range 12 {
		if res := g.wait(g.submit(complete(3))); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	}
	closing := func(w *fakeWorker, c *call) bool { answer(w, c); return false } // whole, then closed without a word
	w.become(closing)
	for range 12 {
		j := complete(3)
		j.Stream, j.Body = false, []byte(`{"model":"m","prompt":"P","max_tokens":3}`)
		if res := g.wait(g.submit(j)); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	}
	if g.fleet.faults("a") != 0 {
		t.Error("a closed idle connection was reported as a fault")
	}
}

func TestFirstByteWaitsForTheCommit(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{}, w)
	g.queue.commit = make(chan struct{})
	h := g.submit(complete(3))
	w.next(t) // the worker is at it before the commit
	s := g.streams.get(h.ID())
	s.mu.Lock()
	early := len(s.started) + s.tokens
	s.mu.Unlock()
	if early != 0 {
		t.Error("something was emitted before the commit")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if h.Committed(ctx) == nil {
		t.Error("committed before the commit")
	}
	close(g.queue.commit)
	if res := g.wait(h); res.State != Complete {
		t.Fatalf("%+v", res)
	}
}

type codedError struct{ code string }

func (e codedError) Error() string { return "told " + e.code }
func (e codedError) Code() string  { return e.code }

func TestCommitFails(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{}, w)
	g.queue.fail = codedError{"SYSTEM_AT_CAPACITY"}
	h := g.submit(complete(3))
	if res := g.wait(h); res.State != Failed || res.Code != "SYSTEM_AT_CAPACITY" {
		t.Fatalf("%+v", res)
	}
	if s := g.streams.get(h.ID()); s.text != "" {
		t.Error("emitted what was never stored")
	}
	if g.fleet.faults("a") != 0 {
		t.Error("the worker was blamed")
	}
	g.free()
}

func TestStreamsOwnFailureEndsTheJob(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(1))
	g := newRig(t, Options{}, w)
	h := g.submit(complete(3))
	s := g.streams.get(h.ID())
	s.sees(t, 1)
	s.mu.Lock()
	s.copyErr = codedError{CodeInternal}
	s.mu.Unlock()
	g.end(mustTask(t, g, h.ID()), errCancelled)
	g.wait(h)

	w2 := startWorker(t, "b", ProtocolOpenAI, answer)
	g2 := newRig(t, Options{}, w2)
	g2.queue.commit = make(chan struct{})
	h = g2.submit(complete(3))
	g2.streams.get(h.ID()).copyErr = codedError{CodeInternal}
	close(g2.queue.commit)
	if res := g2.wait(h); res.Code != CodeInternal || res.Attempt != 1 {
		t.Fatalf("%+v", res)
	}
	if g2.fleet.faults("b") != 0 {
		t.Error("the worker was blamed for the journal")
	}
}

func mustTask(t *testing.T, g *rig, id string) *task {
	t.Helper()
	h, ok := g.Handle(id)
	if !ok {
		t.Fatal("no such job")
	}
	return h.t
}

func TestRefusals(t *testing.T) {
	g := newRig(t, Options{})
	_, err := g.Submit(context.Background(), complete(3))
	var r *RefusedError
	if !errors.As(err, &r) || r.Code() != "NO_HIVE_AVAILABLE" {
		t.Fatalf("%v", err)
	}
	if len(g.queue.jobs) != 0 || len(g.tasks) != 0 {
		t.Error("something of a refused job was kept")
	}
	if err := g.Cancel(context.Background(), "nobody"); !errors.Is(err, ErrNotFound) || codeOf(err, "") != CodeNotFound {
		t.Errorf("%v", err)
	}
}

func TestIdempotencyKeyReachesOneWorkerOnce(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{}, w)
	j := complete(3)
	j.IdempotencyKey = "k"
	g.wait(g.submit(j))
	j = complete(3)
	j.IdempotencyKey = "k"
	if _, err := g.Submit(context.Background(), j); !errors.Is(err, errDuplicate) {
		t.Fatalf("%v", err)
	}
	if w.count() != 1 {
		t.Errorf("%d calls", w.count())
	}
	g.free()
}

func TestLineKeepsOrderAndSlots(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	w.Slots = 2
	g := newRig(t, Options{}, w)
	gate := make(chan struct{})
	w.become(func(w *fakeWorker, c *call) bool { <-gate; return answer(w, c) })
	var hs []*Handle
	for i := range 10 {
		j := complete(2)
		j.ID = fmt.Sprintf("j%d", i)
		if i == 8 {
			j.Priority = "batch"
		}
		hs = append(hs, g.submit(j))
	}
	if p := hs[4].Position(); p != 3 {
		t.Errorf("position %d, want 3", p)
	}
	if p := hs[9].Position(); p != 7 {
		t.Errorf("an interactive job stands at %d, behind a batch job", p)
	}
	if st := g.Stats(); st.Waiting != 8 || st.Running != 2 {
		t.Errorf("%+v", st)
	}
	close(gate)
	for _, h := range hs {
		if res := g.wait(h); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	}
	if n := w.peak.Load(); n > 2 {
		t.Errorf("%d requests at once on a worker with 2 slots", n)
	}
	g.free()
}

func TestAnotherModelIsNotHeldUp(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(1))
	w.Slots = 1
	g := newRig(t, Options{}, w)
	h1 := g.submit(complete(2))
	for range 200 {
		g.submit(complete(2))
	}
	other := startWorker(t, "b", ProtocolOpenAI, answer)
	other.Node = "special"
	g.sched.add(other.Worker)
	g.sched.mu.Lock()
	g.sched.used["b"] = other.Slots // looks full until everybody waits
	g.sched.mu.Unlock()
	j := complete(2)
	j.Model, j.Node = "other", "special"
	h := g.submit(j)
	if h.Position() == 0 {
		t.Fatal("does not wait")
	}
	g.sched.mu.Lock()
	g.sched.workers[1].Node = "special"
	g.sched.used["b"] = 0
	g.sched.workers[0].Slots = 0
	g.sched.mu.Unlock()
	g.fleet.changed <- struct{}{}
	if res := g.wait(h); res.State != Complete {
		t.Fatalf("%+v", res)
	}
	_ = h1
}

func TestDeadlines(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(2))
	w.Slots = 1
	g := newRig(t, Options{}, w)
	j := complete(9)
	j.Deadline = time.Now().Add(80 * time.Millisecond)
	h1 := g.submit(j)
	j = complete(9)
	j.Deadline = time.Now().Add(90 * time.Millisecond)
	h2 := g.submit(j)
	for _, h := range []*Handle{h1, h2} {
		if res := g.wait(h); res.State != Failed || res.Code != CodeDeadline {
			t.Fatalf("%+v", res)
		}
	}
	g.free()
}

func TestQueueTimeout(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(1))
	w.Slots = 1
	g := newRig(t, Options{QueueTimeout: 30 * time.Millisecond}, w)
	g.submit(complete(2))
	if res := g.wait(g.submit(complete(2))); res.Code != CodeCapacity {
		t.Fatalf("%+v", res)
	}
}

func TestLineIsBounded(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(1))
	w.Slots = 1
	g := newRig(t, Options{MaxWaiting: 2}, w)
	for range 3 {
		g.submit(complete(2))
	}
	_, err := g.Submit(context.Background(), complete(2))
	if codeOf(err, "") != CodeCapacity {
		t.Fatalf("%v", err)
	}
}

// panicQueue panics when a job is over.
type panicQueue struct{ *fakeQueue }

func (panicQueue) Finish(context.Context, string, Result) error { panic("boom") }

// A neighbour that panics when it is told of a job's end does not keep the job in the books.
func TestPanicAtTheEnd(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	r := New(newScheduler(t, w), panicQueue{newQueue()}, newFleet(), tcpDialer{}, newStreams(), Options{})
	h, err := r.Submit(context.Background(), complete(2))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.Done():
	case <-time.After(patience):
		t.Fatal("it never ends")
	}
	if err := r.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestPanicOfANeighbour(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{Hooks: Hooks{OnTry: func(*Job, Worker, Outcome) { panic("boom") }}}, w)
	h := g.submit(complete(2))
	if res := g.wait(h); res.Code != CodeInternal {
		t.Fatalf("%+v", res)
	}
	g.free()
}
