package router

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// loads makes a rig whose workers have to be loaded first; gate holds a load back until it is sent to.
func loads(t *testing.T, o Options) (g *rig, w *fakeWorker, gate chan error) {
	w = startWorker(t, "w", ProtocolOpenAI, answer)
	g = newRig(t, o)
	gate = make(chan error)
	g.sched.loadOn, g.sched.evict = "n1", []string{"old"}
	g.fleet.load = func(ctx context.Context, l LoadRequest) (string, error) {
		l.Progress(Progress{State: "downloading", BytesDone: 1, BytesTotal: 4, Fraction: 0.25, ETA: 3 * time.Second})
		select {
		case err := <-gate:
			if err != nil {
				return "", err
			}
			g.sched.add(w.Worker)
			return w.ID, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return g, w, gate
}

func TestConcurrentRequestsShareOneLoad(t *testing.T) {
	g, w, gate := loads(t, Options{})
	var hs []*Handle
	for range 20 {
		hs = append(hs, g.submit(complete(3)))
	}
	for _, h := range hs {
		if _, ok := h.Loading(); !ok {
			t.Fatal("a waiter does not know of the load")
		}
	}
	for { // the fleet's word comes from the load's own goroutine
		if l, _ := hs[0].Loading(); l.Fraction == 0.25 {
			break
		}
		<-time.After(time.Millisecond)
	}
	err := hs[0].LoadingError()
	var r *RefusedError
	if !errors.As(err, &r) || r.Code() != CodeLoading || r.RetryAfter() != 3*time.Second || r.Details()["loading"].(map[string]any)["bytes_total"] != int64(4) {
		t.Fatalf("%v %v", err, r)
	}
	gate <- nil
	for _, h := range hs {
		if res := g.wait(h); res.State != Complete {
			t.Fatalf("%+v", res)
		}
		if h.LoadingError() != nil {
			t.Error("still loading")
		}
	}
	if g.fleet.count() != 1 || w.peak.Load() > 4 {
		t.Errorf("%d loads, %d at once", g.fleet.count(), w.peak.Load())
	}
	if l := g.fleet.loads[0]; l.Node != "n1" || len(l.Evict) != 1 || l.Model != "m" {
		t.Errorf("%+v", l)
	}
	g.free()
}

func TestLoadOutlivesItsClients(t *testing.T) {
	g, _, gate := loads(t, Options{})
	h := g.submit(complete(3))
	s := g.streams.get(h.ID())
	s.attach()
	s.leave()
	if res := g.wait(h); res.State != CancelledJob {
		t.Fatalf("%+v", res)
	}
	gate <- nil // still there to take it
	h = g.submit(complete(3))
	if res := g.wait(h); res.State != Complete || g.fleet.count() != 1 {
		t.Fatalf("%+v, %d loads", res, g.fleet.count())
	}
	g.free()
}

func TestLoadFailureReachesEachWaiter(t *testing.T) {
	g, _, gate := loads(t, Options{})
	var hs []*Handle
	for range 5 {
		hs = append(hs, g.submit(complete(3)))
	}
	gate <- codedError{"INSUFFICIENT_VRAM"}
	for _, h := range hs {
		if res := g.wait(h); res.State != Failed || res.Code != "INSUFFICIENT_VRAM" || res.Message != "told INSUFFICIENT_VRAM" {
			t.Fatalf("%+v", res)
		}
	}
	if g.fleet.count() != 1 {
		t.Errorf("%d loads", g.fleet.count())
	}
	h := g.submit(complete(3)) // a new request may try again
	gate <- errors.New("exit code 1")
	if res := g.wait(h); res.Code != CodeProvision {
		t.Fatalf("%+v", res)
	}
	g.free()
}

func TestLoadPanics(t *testing.T) {
	g, _, _ := loads(t, Options{})
	g.fleet.load = func(context.Context, LoadRequest) (string, error) { panic("boom") }
	if res := g.wait(g.submit(complete(3))); res.Code != CodeInternal {
		t.Fatalf("%+v", res)
	}
	g.free()
}

// A load that finished but whose worker nobody sees is not repeated at once.
func TestLoadIsNotRepeatedBeforeTheFleetSpoke(t *testing.T) {
	g, w, _ := loads(t, Options{})
	g.fleet.load = func(context.Context, LoadRequest) (string, error) { return w.ID, nil }
	h := g.submit(complete(3))
	for g.fleet.count() == 0 || g.Stats().Loading > 0 {
		<-time.After(time.Millisecond)
	}
	g.poke()
	g.sched.add(w.Worker)
	g.fleet.changed <- struct{}{}
	if res := g.wait(h); res.State != Complete || g.fleet.count() != 1 {
		t.Fatalf("%+v, %d loads", res, g.fleet.count())
	}
}

func TestNoLoadBeforeTheFleetIsKnown(t *testing.T) {
	ready := make(chan struct{})
	g, w, _ := loads(t, Options{Ready: ready})
	h := g.submit(complete(3))
	g.sched.add(w.Worker) // was running all along
	close(ready)
	if res := g.wait(h); res.State != Complete || g.fleet.count() != 0 {
		t.Fatalf("%+v, %d loads", res, g.fleet.count())
	}
}

// The time limit of a load follows size and progress.
func TestLoadTimeLimit(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int64
		moves int
		want  time.Duration
	}{"small": {0, 0, 5 * time.Minute}, "big": {30 << 30, 0, 15 * time.Minute}, "moving": {0, 10, 45 * time.Minute}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var took time.Duration
				f := newFleet()
				f.load = func(ctx context.Context, l LoadRequest) (string, error) {
					for i := range c.moves {
						l.Progress(Progress{BytesDone: int64(i + 1)})
						<-time.After(4 * time.Minute)
					}
					<-ctx.Done()
					took = time.Since(begin)
					return "", ctx.Err()
				}
				s := newScheduler(t)
				s.loadOn = "n1"
				r := New(sizedScheduler{s, c.bytes}, newQueue(), f, tcpDialer{}, newStreams(), Options{})
				ctx, cancel := context.WithCancel(context.Background())
				ran := make(chan error)
				go func() { ran <- r.Run(ctx) }()
				j := complete(3)
				h, err := r.Submit(ctx, j)
				if err != nil {
					t.Fatal(err)
				}
				<-h.Done()
				if res := h.Result(); res.Code != CodeProvision {
					t.Errorf("%+v", res)
				}
				// the last progress is followed by 4 min of the loop; the limit counts from that progress
				want := c.want
				if c.moves > 0 {
					want = time.Duration(c.moves-1)*4*time.Minute + 5*time.Minute
				}
				if took != want {
					t.Errorf("given up after %s, want %s", took, want)
				}
				cancel()
				<-ran
			})
		})
	}
}

type sizedScheduler struct {
	*fakeScheduler
	bytes int64
}

func (s sizedScheduler) Place(ctx context.Context, j *Job) (Placement, error) {
	p, err := s.fakeScheduler.Place(ctx, j)
	p.LoadBytes = s.bytes
	return p, err
}

func TestLoadOfOneModelDoesNotStallAnother(t *testing.T) {
	g, _, gate := loads(t, Options{})
	waiting := g.submit(complete(3))
	b := startWorker(t, "b", ProtocolOpenAI, answer)
	b.Node = "hot"
	g.sched.add(b.Worker)
	for i := range 5 {
		j := complete(3)
		j.Model, j.Node = fmt.Sprintf("hot%d", i), "hot"
		if res := g.wait(g.submit(j)); res.State != Complete {
			t.Fatalf("%+v", res)
		}
	}
	g.sched.drop("b")
	select {
	case gate <- nil:
	case <-waiting.Done():
	}
	g.wait(waiting)
}
