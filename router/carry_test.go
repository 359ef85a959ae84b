package router

import (
	"context"
	"testing"
	"time"
)

// inline is a whole answer that its submitter carries.
func inline(n int) *Job {
	j := complete(n)
	j.Stream, j.Inline = false, true
	j.Body = []byte(`{"model":"m","prompt":"P","max_tokens":3}`)
	return j
}

// carrying has the job carried by a goroutine of the test's; what Carry said comes once it has returned.
func carrying(h *Handle) <-chan bool {
	back := make(chan bool, 1)
	go func() { back <- h.Carry() }()
	return back
}

func returned(t *testing.T, back <-chan bool) bool {
	t.Helper()
	select {
	case ok := <-back:
		return ok
	case <-time.After(patience):
		t.Fatal("Carry does not return")
		return false
	}
}

func TestInlineJobIsCarriedByItsSubmitter(t *testing.T) {
	a := startWorker(t, "a", ProtocolOpenAI, dieAt(0))
	b := startWorker(t, "b", ProtocolOpenAI, answer)
	g := newRig(t, Options{LateCommit: true}, a, b)
	h := g.submit(inline(3))
	if a.count()+b.count() != 0 {
		t.Error("posted before anybody carried it")
	}
	if !h.Carry() {
		t.Fatal("not carried here")
	}
	if h.Carry() {
		t.Error("carried twice")
	}
	if res := g.wait(h); res.State != Complete || res.Worker != "b" || res.Attempt != 2 || res.PromptTokens != 3 {
		t.Errorf("%+v", res)
	}
	if id, _ := h.Worker(); id != "b" {
		t.Errorf("worker %q", id)
	}
	g.free()
}

func TestInlineJobThatHasToWait(t *testing.T) {
	gate := make(chan struct{})
	w := startWorker(t, "a", ProtocolOpenAI, func(w *fakeWorker, c *call) bool { <-gate; return answer(w, c) })
	w.Slots = 1
	g := newRig(t, Options{}, w)
	first := g.submit(inline(3))
	back := carrying(first)
	second := g.submit(inline(3))
	if second.Carry() {
		t.Error("carried here, though it waits")
	}
	if second.Position() != 1 {
		t.Errorf("position %d", second.Position())
	}
	close(gate)
	if !returned(t, back) {
		t.Error("not carried")
	}
	for _, h := range []*Handle{first, second} {
		if res := g.wait(h); res.State != Complete {
			t.Errorf("%+v", res)
		}
	}
	g.free()
}

// A carrier whose job goes back into the line returns, and the dispatcher goes on with the job.
func TestInlineJobGoesBackIntoTheLine(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, refuseWith(503, "", "busy"))
	g := newRig(t, Options{QueueTimeout: patience}, w)
	h := g.submit(inline(3))
	if !h.Carry() {
		t.Fatal("not carried here")
	}
	w.become(answer)
	if res := g.wait(h); res.State != Complete || res.Attempt < 2 {
		t.Errorf("%+v", res)
	}
	g.free()
}

func TestInlineJobIsCancelled(t *testing.T) {
	for name, stop := range map[string]func(*rig, *Handle){
		"on request":      func(g *rig, h *Handle) { _ = g.Cancel(context.Background(), h.ID()) },
		"its reader left": func(g *rig, h *Handle) { s := g.streams.get(h.ID()); s.attach(); s.leave() },
	} {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, "a", ProtocolOpenAI, hangAt(0))
			g := newRig(t, Options{}, w)
			h := g.submit(inline(3))
			back := carrying(h)
			c := w.next(t)
			stop(g, h)
			returned(t, back)
			<-c.gone // the worker's connection is closed
			if res := g.wait(h); res.State != CancelledJob || res.Code != CodeCancelled {
				t.Errorf("%+v", res)
			}
			g.free()
		})
	}
}

// Drain waits for a job that its submitter carries, and cuts it like any other.
func TestDrainCutsAnInlineJob(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(0))
	g := newRig(t, Options{}, w)
	h := g.submit(inline(3))
	back := carrying(h)
	w.next(t)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Drain(gone); err != nil {
		t.Fatal(err)
	}
	if res := g.wait(h); res.Code != CodeShuttingDown {
		t.Errorf("%+v", res)
	}
	returned(t, back)
	g.free()
}
