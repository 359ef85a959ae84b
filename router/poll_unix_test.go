//go:build unix

package router

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// peeker is a Poller of one goroutine that looks at every connection again and again.
type peeker struct {
	mu    sync.Mutex
	all   map[*peeked]bool
	later []func()
	done  chan struct{}
	ended chan struct{}
}

type peeked struct {
	p      *peeker
	raw    syscall.RawConn
	fn     func()
	on     bool
	kicked bool
}

func newPeeker(t testing.TB) *peeker {
	p := &peeker{all: map[*peeked]bool{}, done: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	t.Cleanup(func() {
		close(p.done)
		<-p.ended
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.all) != 0 {
			t.Errorf("%d connections are still watched", len(p.all))
		}
	})
	return p
}

func (p *peeker) run() {
	defer close(p.ended)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.done:
			return
		}
		p.mu.Lock()
		var due []*peeked
		for w := range p.all {
			if w.on && w.readable() {
				due = append(due, w)
			}
		}
		later := p.later
		p.later = nil
		p.mu.Unlock()
		for _, w := range due {
			p.mu.Lock()
			on := w.on && p.all[w]
			w.kicked = false
			p.mu.Unlock()
			if on {
				w.fn()
			}
		}
		for _, fn := range later {
			fn()
		}
	}
}

// readable looks without taking anything; the peeker's mu is held.
func (w *peeked) readable() bool {
	if w.kicked {
		return true
	}
	ok := false
	err := w.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		ok = !errors.Is(err, syscall.EAGAIN)
	})
	return ok || err != nil
}

func (p *peeker) Readable(c net.Conn, fn func()) (Poll, bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, false
	}
	w := &peeked{p: p, raw: raw, fn: fn}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[w] = true
	return w, true
}

func (p *peeker) Later(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.later = append(p.later, fn)
}

func (w *peeked) set(fn func()) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	fn()
}

func (w *peeked) Stop()   { w.set(func() { delete(w.p.all, w) }) }
func (w *peeked) Pause()  { w.set(func() { w.on = false }) }
func (w *peeked) Resume() { w.set(func() { w.on = true }) }
func (w *peeked) Kick()   { w.set(func() { w.kicked = w.on }) }

// parkingRig is a router whose streams are parked.
func parkingRig(t testing.TB, o Options, ws ...*fakeWorker) *rig {
	t.Helper()
	o.Poller = newPeeker(t)
	g := &rig{t: t, sched: newScheduler(t, ws...), queue: newQueue(), fleet: newFleet(), streams: newStreams(), ended: map[string]int{}, polled: true}
	g.start(o)
	return g
}

// pauseAt says tokens until n and waits then for the gate, or until the client has gone. The connection is kept.
func pauseAt(n int, gate <-chan struct{}) script {
	return func(_ *fakeWorker, c *call) bool {
		start, max := begun(c), c.num("max_tokens", 16)
		_, _ = io.WriteString(c.conn, sseHeader)
		for i := start; i < start+max; i++ {
			if i == n {
				select {
				case <-gate:
				case <-c.gone:
					return false
				}
			}
			emitToken(c, i)
		}
		emitEnd(c)
		return true
	}
}

// carriers counts the goroutines that carry a job.
func carriers() (n int) {
	buf := make([]byte, 16<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "router.(*task).run(") {
			n++
		}
	}
	return n
}

// TestSilentStreamsAreParked: 200 streams whose workers say nothing have no goroutine; without a Poller each has.
func TestSilentStreamsAreParked(t *testing.T) {
	const streams = 200
	for name, parks := range map[string]bool{"polled": true, "not polled": false} {
		t.Run(name, func(t *testing.T) {
			gate := make(chan struct{})
			w := startWorker(t, "a", ProtocolOpenAI, pauseAt(2, gate))
			w.Slots = streams
			o := Options{}
			rig := newRig
			if parks {
				rig = parkingRig
			}
			g := rig(t, o, w)
			var hs []*Handle
			for range streams {
				hs = append(hs, g.submit(complete(5)))
			}
			for _, h := range hs {
				g.streams.get(h.ID()).sees(t, 2)
			}
			want := streams
			if parks {
				want = 0
			}
			for late := time.Now().Add(patience); carriers() != want; <-time.After(time.Millisecond) {
				if time.Now().After(late) {
					t.Fatalf("%d goroutines carry jobs, want %d", carriers(), want)
				}
			}
			close(gate)
			for _, h := range hs {
				if res := g.wait(h); res.State != Complete || g.streams.get(h.ID()).text != whole(5) || res.TokensOut != 5 {
					t.Fatalf("%+v", res)
				}
			}
			g.free()
		})
	}
}

func TestParkedStreamsConnectionIsUsedAgain(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, nil)
	g := parkingRig(t, Options{}, w)
	for range 6 {
		gate := make(chan struct{})
		w.become(pauseAt(1, gate))
		h := g.submit(chat(4))
		g.streams.get(h.ID()).sees(t, 1)
		close(gate)
		if res := g.wait(h); res.State != Complete || g.streams.get(h.ID()).text != whole(4) {
			t.Fatalf("%+v", res)
		}
		// the end of the body may come a moment after the end of the job
		for late := time.Now().Add(patience); idleConns(g.Router) != 1; <-time.After(time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal("the connection was not kept")
			}
		}
	}
	if n := w.dialed.Load(); n != 1 {
		t.Errorf("%d connections for 6 streams", n)
	}
}

func idleConns(r *Router) (n int) {
	r.pool.mu.Lock()
	defer r.pool.mu.Unlock()
	for _, l := range r.pool.lanes {
		n += len(l.idle)
	}
	return n
}

func TestParkedStreamFailsOver(t *testing.T) {
	for name, dies := range map[string]func(gate chan struct{}) script{
		"reset": func(gate chan struct{}) script {
			return func(w *fakeWorker, c *call) bool {
				keep := answerUntil(3, func(*fakeWorker, *call) { <-gate })(w, c)
				_ = c.conn.(*net.TCPConn).SetLinger(0)
				return keep
			}
		},
		"cut": func(gate chan struct{}) script { return answerUntil(3, func(*fakeWorker, *call) { <-gate }) },
		"no framing": func(gate chan struct{}) script {
			return answerUntil(3, func(_ *fakeWorker, c *call) { <-gate; _, _ = io.WriteString(c.conn, "rubbish\r\n") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			gate := make(chan struct{})
			a := startWorker(t, "a", ProtocolOpenAI, dies(gate))
			b := startWorker(t, "b", ProtocolOpenAI, answer)
			g := parkingRig(t, Options{}, a, b)
			h := g.submit(complete(8))
			s := g.streams.get(h.ID())
			s.sees(t, 3)
			close(gate)
			res := g.wait(h)
			if id, _ := h.Worker(); res.State != Complete || s.text != whole(8) || id != "b" || res.Attempt != 2 {
				t.Errorf("%+v on %s: %q", res, id, s.text)
			}
			if g.fleet.faults("a") != 1 {
				t.Errorf("%d faults of a", g.fleet.faults("a"))
			}
			g.free()
		})
	}
}

func TestParkedStreamIsCancelled(t *testing.T) {
	w := startWorker(t, "a", ProtocolOpenAI, hangAt(2))
	g := parkingRig(t, Options{}, w)
	h := g.submit(complete(8))
	g.streams.get(h.ID()).sees(t, 2)
	k := w.next(t)
	if err := g.Cancel(context.Background(), h.ID()); err != nil {
		t.Fatal(err)
	}
	if res := g.wait(h); res.State != CancelledJob || res.TokensOut != 2 {
		t.Errorf("%+v", res)
	}
	select {
	case <-k.gone:
	case <-time.After(patience):
		t.Error("the worker was not told")
	}
	if g.fleet.faults("a") != 0 {
		t.Error("a cancellation was reported as a fault")
	}
	g.free()
}

func TestParkedStreamFallsSilent(t *testing.T) {
	a := startWorker(t, "a", ProtocolOpenAI, hangAt(2))
	b := startWorker(t, "b", ProtocolOpenAI, answer)
	g := parkingRig(t, Options{InterToken: 100 * time.Millisecond}, a, b)
	h := g.submit(complete(6))
	res := g.wait(h)
	if s := g.streams.get(h.ID()); res.State != Complete || s.text != whole(6) || res.Attempt != 2 {
		t.Errorf("%+v: %q", res, s.text)
	}
	g.sched.mu.Lock()
	defer g.sched.mu.Unlock()
	if len(g.sched.observed) == 0 || !errors.Is(g.sched.observed[0].Err, errInterToken) {
		t.Errorf("observed %+v", g.sched.observed)
	}
}

// TestParkedStreamsAtRandom is for the race detector: workers that die or hang, cancellations and timeouts at random places.
// Every job ends once, and completely unless it was cancelled.
func TestParkedStreamsAtRandom(t *testing.T) {
	const jobs = 80
	open := make(chan struct{})
	close(open)
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(4, 2))
	roll := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	bad := func(w *fakeWorker, c *call) bool {
		switch n := roll(6); {
		case n == 0:
			return dieAt(begun(c)+1+roll(4))(w, c)
		case n == 1:
			return hangAt(begun(c)+1+roll(4))(w, c)
		case n < 4:
			return answer(w, c)
		}
		return pauseAt(1, open)(w, c)
	}
	a, b := startWorker(t, "a", ProtocolOpenAI, bad), startWorker(t, "b", ProtocolExecute, bad)
	c := startWorker(t, "c", ProtocolOpenAI, pauseAt(1, open))
	a.Slots, b.Slots, c.Slots = 40, 40, jobs
	g := parkingRig(t, Options{InterToken: 50 * time.Millisecond, Retries: 20}, a, b, c)
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Go(func() {
			j := complete(6)
			j.Inline = i%2 == 0
			h, err := g.Submit(context.Background(), j)
			if err != nil {
				t.Errorf("submit: %v", err)
				return
			}
			if j.Inline {
				wg.Go(func() { h.Carry() })
			}
			cancels := i%5 == 0
			if cancels {
				g.streams.get(h.ID()).sees(t, 1)
				_ = g.Cancel(context.Background(), h.ID()) // it may have ended
			}
			select {
			case <-h.Done():
			case <-time.After(patience):
				t.Errorf("job %s did not end", h.ID())
				return
			}
			res, text := h.Result(), g.streams.get(h.ID()).text
			if res.State != Complete && !(cancels && res.State == CancelledJob) || res.State == Complete && text != whole(6) {
				t.Errorf("%+v: %q", res, text)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.ended[h.ID()] != 1 {
				t.Errorf("ended %d times", g.ended[h.ID()])
			}
		})
	}
	wg.Wait()
	g.free()
}
