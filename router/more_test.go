package router

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// notifying is a stream that tells of its last reader's going without a channel.
type notifying struct{ *fakeStream }

func (n notifying) OnIdle(fn func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notify = fn
}

type notifyingStreams struct{ *fakeStreams }

func (n notifyingStreams) Open(j *Job, recovered bool) (Stream, error) {
	s, err := n.fakeStreams.Open(j, recovered)
	if err != nil {
		return nil, err
	}
	return notifying{s.(*fakeStream)}, nil
}

func TestIdleNotifierSparesAReaderThatCameBack(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(2))
	s := newStreams()
	r := New(newScheduler(t, w), newQueue(), newFleet(), tcpDialer{}, notifyingStreams{s}, Options{})
	defer func() { _ = r.Drain(context.Background()) }()
	h, err := r.Submit(context.Background(), complete(9))
	if err != nil {
		t.Fatal(err)
	}
	st := s.get(h.ID())
	st.attach()
	st.sees(t, 2)
	st.mu.Lock()
	fn := st.notify
	st.mu.Unlock()
	fn() // of a reader that is back by now
	select {
	case <-h.Done():
		t.Fatal("cancelled though a reader is there")
	default:
	}
	st.leave()
	<-h.Done()
	if h.Result().State != CancelledJob || h.QueueTime() < 0 {
		t.Fatalf("%+v", h.Result())
	}
	if got, err := h.Stream(); err != nil || got.(notifying).fakeStream != st {
		t.Error("not its stream")
	}
}

// Readers of waiting jobs hear of their place at once and then at most once a second.
func TestPositions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(t)
		s.add(Worker{ID: "w", Slots: 0})
		streams := newStreams()
		r := New(s, newQueue(), newFleet(), tcpDialer{}, streams, Options{QueueTimeout: time.Hour})
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error)
		go func() { ran <- r.Run(ctx) }()
		var hs []*Handle
		for range 4 {
			h, err := r.Submit(ctx, complete(1))
			if err != nil {
				t.Fatal(err)
			}
			streams.get(h.ID()).attach()
			hs = append(hs, h)
		}
		last := streams.get(hs[3].ID())
		<-time.After(1500 * time.Millisecond)
		for _, h := range hs[:3] {
			if err := r.Cancel(ctx, h.ID()); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(5 * time.Second)
		last.mu.Lock()
		got := append([]int(nil), last.positions...)
		last.mu.Unlock()
		if len(got) != 2 || got[0] != 4 || got[1] != 1 || r.Position(hs[3].ID()) != 1 || r.Position("nobody") != 0 {
			t.Errorf("positions %v", got)
		}
		cancel()
		<-ran
	})
}

func TestWaitingJobThatCantBeStored(t *testing.T) {
	g := newRig(t, Options{})
	g.sched.add(Worker{ID: "w", Slots: 0})
	g.queue.fail = codedError{"SYSTEM_AT_CAPACITY"}
	if _, err := g.Submit(context.Background(), complete(1)); codeOf(err, "") != "SYSTEM_AT_CAPACITY" {
		t.Fatalf("%v", err)
	}
	g.queue.fail, g.streams.fail = nil, errors.New("no journal")
	if _, err := g.Submit(context.Background(), complete(1)); err == nil {
		t.Fatal("no stream, no error")
	}
	if st := g.Stats(); st.Waiting+st.Running != 0 {
		t.Errorf("%+v", st)
	}
	// the caller leaves while the job is being stored
	g.streams.fail, g.queue.commit = nil, make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan *Handle)
	go func() {
		h, err := g.Submit(ctx, complete(1))
		if err != nil {
			t.Error(err)
		}
		got <- h
	}()
	cancel()
	close(g.queue.commit)
	if res := g.wait(<-got); res.State != CancelledJob {
		t.Fatalf("%+v", res)
	}
}

// A load that fails on one hive is tried on the other that the scheduler then names, once.
func TestLoadGoesToAnotherHive(t *testing.T) {
	g, w, _ := loads(t, Options{})
	g.fleet.load = func(_ context.Context, l LoadRequest) (string, error) {
		if l.Node == "n1" {
			g.sched.mu.Lock()
			g.sched.loadOn = "n2"
			g.sched.mu.Unlock()
			return "", errors.New("disk full")
		}
		g.sched.add(w.Worker)
		return w.ID, nil
	}
	a, b := g.submit(complete(2)), g.submit(complete(2))
	for _, h := range []*Handle{a, b} {
		if res := g.wait(h); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	}
	if g.fleet.count() != 2 {
		t.Errorf("%d loads", g.fleet.count())
	}
	g.free()
}

// A failed load of a second worker must not fail those who can wait for the first.
func TestFailedLoadSparesWhoCanWait(t *testing.T) {
	g, w, gate := loads(t, Options{})
	h := g.submit(complete(2))
	g.sched.add(w.Worker)
	g.sched.mu.Lock()
	g.sched.used[w.ID] = w.Slots
	g.sched.mu.Unlock()
	gate <- errors.New("no room for two")
	for {
		if _, loading := h.Loading(); !loading {
			break
		}
		<-time.After(time.Millisecond)
	}
	g.sched.mu.Lock()
	g.sched.used[w.ID] = 0
	g.sched.mu.Unlock()
	g.fleet.changed <- struct{}{}
	if res := g.wait(h); res.State != Complete {
		t.Fatalf("%+v", res)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	p := newPool(tcpDialer{}, nil, time.Second, 2)
	var cs []*conn
	for range 3 {
		c, reused, err := p.get(context.Background(), &w.Worker, false, time.Now())
		if err != nil || reused {
			t.Fatal(err, reused)
		}
		cs = append(cs, c)
	}
	for _, c := range cs {
		p.put(&w.Worker, c, time.Now()) // the third is one too many
	}
	if n := len(p.at(poolKey(&w.Worker)).idle); n != 2 {
		t.Errorf("%d kept", n)
	}
	cs[0].idle = time.Now().Add(-time.Hour)
	p.sweep()
	if n := len(p.at(poolKey(&w.Worker)).idle); n != 1 {
		t.Errorf("%d kept after the sweep", n)
	}
	cs[1].idle = time.Now().Add(-time.Hour)
	if _, c := p.take(poolKey(&w.Worker), false, time.Now()); c != nil {
		t.Error("an old connection was given out")
	}
	p.close()
	p.put(&w.Worker, newConn(cs[2].Conn), time.Now())
	if len(p.at(poolKey(&w.Worker)).idle) != 0 {
		t.Error("kept after close")
	}
}

func TestManyTokensCostNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := &life{}
		defer ctx.cancel(errCancelled)
		g := &guard{}
		g.begin(ctx, time.Second, time.Second)
		if !g.hold(newConn(&cannedConn{})) {
			t.Fatal("over before it began")
		}
		g.touch()
		if n := testing.AllocsPerRun(1000, g.touch); n != 0 {
			t.Errorf("%v allocations a read", n)
		}
		for range 10 {
			<-time.After(900 * time.Millisecond)
			g.touch()
		}
		if g.why(errTruncated) != errTruncated {
			t.Error("expired while tokens came")
		}
		<-time.After(1001 * time.Millisecond)
		if g.why(errTruncated) != errInterToken {
			t.Error("not expired")
		}
		g.release()
	})
}

// A scheduler that panics loses a round, not the job and not the program.
func TestPanickingScheduler(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, answer)
	s := &panicky{fakeScheduler: newScheduler(t, w)}
	w.Slots = 0
	r := New(s, newQueue(), newFleet(), tcpDialer{}, newStreams(), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- r.Run(ctx) }()
	s.place = true
	func() {
		defer func() { _ = recover() }()
		_, _ = r.Submit(ctx, complete(1))
	}()
	s.place = false
	if st := r.Stats(); st.Running+st.Waiting != 0 {
		t.Errorf("left behind: %+v", st)
	}
	h, err := r.Submit(ctx, complete(1))
	if err != nil {
		t.Fatal(err)
	}
	for s.panics.Load() == 0 {
		r.poke()
		<-time.After(time.Millisecond)
	}
	s.mu.Lock()
	w.Slots = 1
	s.mu.Unlock()
	r.poke()
	<-h.Done()
	if h.Result().State != Complete {
		t.Errorf("%+v", h.Result())
	}
	cancel()
	<-ran
}

type panicky struct {
	*fakeScheduler
	place  bool
	panics atomic.Int32
}

func (p *panicky) Place(ctx context.Context, j *Job) (Placement, error) {
	if p.place {
		panic("place")
	}
	return p.fakeScheduler.Place(ctx, j)
}

func (p *panicky) Pick(ctx context.Context, line []*Job) (int, Placement, error) {
	if p.panics.Add(1) < 3 {
		panic("pick")
	}
	return p.fakeScheduler.Pick(ctx, line)
}

func TestNamesForLogs(t *testing.T) {
	if Chat.String() != "chat" || Surface(99).String() != "unknown" {
		t.Error("surface names")
	}
	e := &dialError{context.DeadlineExceeded}
	if !errors.Is(e, context.DeadlineExceeded) || plain(e) != "it could not be reached" {
		t.Error(plain(e))
	}
}
