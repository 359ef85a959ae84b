package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// found makes a rig around what an earlier queen left; prepare fills queue and streams before the router starts.
func found(t *testing.T, o Options, w *fakeWorker, prepare func(g *rig)) *rig {
	g := &rig{t: t, sched: newScheduler(t, w), queue: newQueue(), fleet: newFleet(), streams: newStreams(), ended: map[string]int{}}
	prepare(g)
	g.start(o)
	return g
}

// left adds a running job of the earlier queen with n tokens in its journal.
func (g *rig) left(j *Job, id string, n int) *fakeStream {
	j.ID, j.Submitted, j.Attempt = id, time.Now(), 1
	g.queue.jobs[id], g.queue.state[id] = j, "running"
	g.queue.recover = append(g.queue.recover, j)
	st, _ := g.streams.Open(j, true)
	s := st.(*fakeStream)
	s.text, s.tokens = whole(n), n
	return s
}

func (g *rig) over(s *fakeStream) Result {
	g.t.Helper()
	select {
	case <-s.over:
	case <-time.After(patience):
		g.t.Fatal("no terminal event")
	}
	if h, ok := g.Handle(s.job.ID); ok {
		<-h.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.terminals) != 1 {
		g.t.Errorf("%d terminal events", len(s.terminals))
	}
	return s.terminals[0]
}

func TestFault01DetachedGoesOnFromTheJournal(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	var ss []*fakeStream
	g := found(t, Options{}, w, func(g *rig) {
		for n := range 10 {
			ss = append(ss, g.left(native(10), fmt.Sprintf("d%d", n), n))
		}
	})
	for _, s := range ss {
		if res := g.over(s); res.Code != "" || s.text != whole(10) {
			t.Fatalf("%+v, text %q", res, s.text)
		}
		if s.started[0] != "a/2" {
			t.Errorf("%v", s.started)
		}
	}
	g.free()
}

// A reader that comes back as soon as the program listens finds its job.
func TestRecoverBeforeRun(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := &rig{t: t, sched: newScheduler(t, w), queue: newQueue(), fleet: newFleet(), streams: newStreams(), ended: map[string]int{}}
	s := g.left(native(10), "d", 4)
	r := New(g.sched, g.queue, g.fleet, tcpDialer{}, g.streams, Options{})
	for range 2 {
		if err := r.Recover(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	h, ok := r.Handle("d")
	if !ok || h.Position() != 1 {
		t.Fatal("not there")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- r.Run(ctx) }()
	<-h.Done()
	cancel()
	if err := <-ran; err != nil || s.text != whole(10) {
		t.Fatalf("%v %q", err, s.text)
	}
}

func TestFault01TerminalInTheJournal(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := found(t, Options{}, w, func(g *rig) {
		s := g.left(native(10), "d", 10)
		_ = s.terminal(Result{State: Complete, StopReason: "length"})
	})
	for g.queue.stateOf("d") != "complete" {
		<-time.After(time.Millisecond)
	}
	if w.count() != 0 || len(g.streams.get("d").terminals) != 1 {
		t.Error("a finished job was run again")
	}
}

func TestFault01AttachedWaitsForItsReader(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	var back, gone, queued *fakeStream
	g := found(t, Options{Reattach: 300 * time.Millisecond}, w, func(g *rig) {
		back, gone = g.left(complete(10), "back", 4), g.left(complete(10), "gone", 4)
		j := complete(10)
		j.ID, j.Submitted = "queued", time.Now()
		g.queue.jobs["queued"], g.queue.state["queued"] = j, "queued"
		g.queue.order = append(g.queue.order, "queued")
	})
	back.attach()
	if res := g.over(back); res.Code != "" || back.text != whole(10) {
		t.Fatalf("%+v", res)
	}
	if res := g.over(gone); res.Code != CodeCancelled || gone.text != whole(4) {
		t.Fatalf("%+v", res)
	}
	for queued == nil {
		queued = g.streams.get("queued")
	}
	if res := g.over(queued); res.Code != CodeCancelled {
		t.Fatalf("%+v", res)
	}
	if w.count() != 1 {
		t.Errorf("%d calls", w.count())
	}
	g.free()
}

func TestWaitingJobsOfTheEarlierQueen(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	const n = 300
	g := found(t, Options{}, w, func(g *rig) {
		for i := range n {
			j := native(1)
			j.ID, j.Submitted = fmt.Sprintf("q%d", i), time.Now()
			g.queue.jobs[j.ID], g.queue.state[j.ID] = j, "queued"
			g.queue.order = append(g.queue.order, j.ID)
		}
	})
	for i := range n {
		for g.queue.stateOf(fmt.Sprintf("q%d", i)) != "complete" {
			<-time.After(time.Millisecond)
		}
	}
	if w.peak.Load() > int32(w.Slots) {
		t.Error("more requests than slots")
	}
	g.free()
}

// A job that somebody else took or ended is left alone but for its readers.
func TestClaimConflict(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := found(t, Options{}, w, func(g *rig) {
		j := native(1)
		j.ID, j.Submitted = "x", time.Now()
		g.queue.jobs["x"], g.queue.state["x"], g.queue.conflict["x"] = j, "queued", true
		g.queue.order = append(g.queue.order, "x")
	})
	for g.streams.get("x") == nil {
		<-time.After(time.Millisecond)
	}
	if res := g.over(g.streams.get("x")); res.Code != CodeCancelled || len(g.queue.results["x"]) != 0 || w.count() != 0 {
		t.Fatalf("%+v", res)
	}
	g.free()
}

func TestRefreshTakesInWhatItDoesNotKnow(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	g := newRig(t, Options{}, w)
	j := native(1)
	j.ID, j.Submitted = "late", time.Now()
	g.queue.mu.Lock()
	g.queue.jobs["late"], g.queue.state["late"] = j, "queued"
	g.queue.order = append(g.queue.order, "late")
	g.queue.mu.Unlock()
	g.Refresh()
	for g.queue.stateOf("late") != "complete" {
		<-time.After(time.Millisecond)
	}
}

func TestFairOrderComesFromTheQueue(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(0))
	w.Slots = 1
	g := newRig(t, Options{}, w)
	g.submit(complete(1))
	var hs []*Handle
	for i := range 5 {
		j := complete(1)
		j.ID = fmt.Sprintf("j%d", i)
		hs = append(hs, g.submit(j))
	}
	g.queue.mu.Lock()
	slices.Reverse(g.queue.order)
	g.queue.mu.Unlock()
	g.Refresh()
	for late := time.Now().Add(patience); hs[0].Position() != 5 && time.Now().Before(late); {
		<-time.After(time.Millisecond)
	}
	for i, h := range hs {
		if h.Position() != 5-i {
			t.Errorf("j%d stands at %d", i, h.Position())
		}
	}
}

func TestFault27DrainLetsRunningJobsFinish(t *testing.T) {
	gate := make(chan struct{})
	w := startWorker(t, "a", ProtocolOpenAI, func(w *fakeWorker, c *call) bool { <-gate; return answer(w, c) })
	w.Slots = 1
	g := newRig(t, Options{}, w)
	run, attached, detached := g.submit(complete(3)), g.submit(complete(3)), g.submit(native(3))
	w.next(t)
	drained := make(chan error)
	go func() { drained <- g.Drain(context.Background()) }()
	<-detached.Done()
	if g.queue.stateOf(detached.ID()) != "queued" || len(g.streams.get(detached.ID()).terminals) != 0 || detached.Result().State != "" {
		t.Error("a detached job that waits is the next queen's")
	}
	_, err := g.Submit(context.Background(), complete(3))
	var r *RefusedError
	if !errors.Is(err, ErrShuttingDown) || !errors.As(err, &r) || r.Code() != CodeShuttingDown || r.RetryAfter() <= 0 {
		t.Fatalf("%v", err)
	}
	close(gate)
	for _, h := range []*Handle{run, attached} {
		if res := g.wait(h); res.State != Complete {
			t.Fatalf("cut before the deadline: %+v", res)
		}
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	g.free()
}

func TestFault27CutAtTheDeadline(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(3))
	w.Slots = 2
	g := newRig(t, Options{}, w)
	attached, detached, waiting := g.submit(complete(10)), g.submit(native(10)), g.submit(complete(10))
	g.streams.get(attached.ID()).sees(t, 3)
	g.streams.get(detached.ID()).sees(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Handle{attached, waiting} {
		if res := g.wait(h); res.State != Failed || res.Code != CodeShuttingDown {
			t.Fatalf("%+v", res)
		}
	}
	<-detached.Done()
	if s := g.streams.get(detached.ID()); len(s.terminals) != 0 || g.queue.stateOf(detached.ID()) != "running" {
		t.Error("a detached job was ended by the shutdown")
	}
	g.free()

	// and the next queen goes on with it
	w2 := startWorker(t, "b", ProtocolOpenAI, answer)
	s := g.streams.get(detached.ID())
	next := &rig{t: t, sched: newScheduler(t, w2), queue: g.queue, fleet: newFleet(), streams: g.streams, ended: map[string]int{}}
	next.queue.recover = []*Job{s.job}
	next.start(Options{})
	if res := next.over(s); res.Code != "" || s.text != whole(10) {
		t.Fatalf("%+v %q", res, s.text)
	}
}

// A job that was taken over is counted like any other for its tenant's share.
func TestRecoveredJobsAreCounted(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	var s *fakeStream
	g := found(t, Options{Slots: func(string) int { return 4 }}, w, func(g *rig) { s = g.left(native(10), "d", 3) })
	g.over(s)
	g.shares.mu.Lock()
	defer g.shares.mu.Unlock()
	if u := g.shares.models["m"].tenants[""]; u == nil || u.inside != 0 || u.running != 0 || u.peak != 1 {
		t.Errorf("%+v", u)
	}
}
