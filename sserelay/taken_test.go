package sserelay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// words are as many, and in a view they are told apart.
func words(n int) (w []string) {
	for i := range n {
		w = append(w, fmt.Sprintf("word%d \"", i))
	}
	return w
}

// TestTakenReaderSeesTheSameBytes: in every view and with any number of bytes that fit, what was written before the
// connection was taken over and what was sent after it are what a reader gets that keeps its goroutine.
func TestTakenReaderSeesTheSameBytes(t *testing.T) {
	views := map[string]View{"native": {IDs: true}, "chat": {Format: FormatChat, IncludeUsage: true}, "chat with ids": {Format: FormatChat, IDs: true},
		"completion": {Format: FormatCompletion}, "ollama": {Format: FormatOllamaChat}, "generate": {Format: FormatOllamaGenerate}, "raw": {Format: FormatRaw}}
	for name, v := range views {
		for _, detached := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/detached=%v", name, detached), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rnd := rand.New(rand.NewPCG(5, uint64(len(name))))
					j := newJob(t, NewHub(nil, Options{TakeAfter: -1}), "j1", StreamOptions{Detached: detached}, chatStream(words(40)...))
					v := v
					v.Eager = true
					roomy, tight := take(j.ctx, j.s, v, newConn(-1)), take(j.ctx, j.s, v, newConn(0))
					j.start(Chat)
					j.next(2)
					<-time.After(takeAfter)
					roomy.given(t)
					tight.given(t)
					for len(j.rest) > 3 {
						tight.c.mu.Lock()
						tight.c.room = rnd.IntN(400)
						tight.c.mu.Unlock()
						j.next(1 + rnd.IntN(3))
					}
					j.finish()
					for i, r := range []*takenReader{roomy, tight} {
						if err := r.ended(t); err != nil {
							t.Errorf("reader %d: %v", i, err)
						}
						if diff := cmp.Diff(serve(t, j.s, v), r.all()); diff != "" {
							t.Errorf("reader %d (-plain +taken):\n%s", i, diff)
						}
					}
					if tight.c.drains == 0 || roomy.c.drains != 0 {
						t.Errorf("drained %d and %d times", tight.c.drains, roomy.c.drains)
					}
					if j.s.Readers() != 0 {
						t.Errorf("%d readers left", j.s.Readers())
					}
					j.l.close()
				})
			})
		}
	}
}

// TestStuckTakenReaderIsCut: a reader that takes nothing holds neither the job nor another reader, and is cut at its time.
func TestStuckTakenReaderIsCut(t *testing.T) {
	var cuts atomic.Int32
	j := newJob(t, NewHub(nil, Options{TakeAfter: -1, WriteTimeout: 30 * time.Second, OnCut: func(string) { cuts.Add(1) }}), "j1", StreamOptions{}, chatStream(words(30)...))
	j.real()
	v := View{Format: FormatChat, IncludeUsage: true, Eager: true}
	good, stuck := take(j.ctx, j.s, v, newConn(-1)), take(j.ctx, j.s, v, newConn(100))
	stuck.c.shut = true
	j.start(Chat)
	j.next(1)
	good.given(t)
	stuck.given(t)
	for len(j.rest) > 20 {
		j.next(1)
	}
	j.finish()
	if err := good.ended(t); err != nil || good.all() != serve(t, j.s, v) {
		t.Errorf("the other reader: %v", err)
	}
	if len(stuck.c.finished) != 0 || cuts.Load() != 0 || j.s.Readers() != 1 {
		t.Error("cut before its time")
	}
	stuck.c.mu.Lock()
	if left := time.Until(stuck.c.deadline); left <= 0 || left > 30*time.Second {
		t.Errorf("%v until the deadline", left)
	}
	stuck.c.mu.Unlock()
	close(stuck.c.expire)
	if err := stuck.ended(t); !errors.Is(err, ErrSlowReader) || cuts.Load() != 1 {
		t.Errorf("%v, %d cuts", err, cuts.Load())
	}
	if j.s.Readers() != 0 {
		t.Errorf("%d readers left", j.s.Readers())
	}
}

func TestTakenReaderIsPinged(t *testing.T) {
	for name, tc := range map[string]struct {
		v    View
		want int
	}{"events": {View{Format: FormatChat, Eager: true}, 4}, "lines": {View{Format: FormatOllamaChat, Eager: true}, 0}} {
		synctest.Test(t, func(t *testing.T) {
			j := newJob(t, NewHub(nil, Options{TakeAfter: -1, Ping: 15 * time.Second}), "j1", StreamOptions{}, chatStream("a", "b"))
			r := take(j.ctx, j.s, tc.v, newConn(-1))
			j.start(Chat)
			j.next(2)
			<-time.After(takeAfter)
			r.given(t)
			<-time.After(61 * time.Second)
			if got := strings.Count(r.c.text(), ": ping\n\n"); got != tc.want {
				t.Errorf("%s: %d pings", name, got)
			}
			j.next(1)
			<-time.After(14 * time.Second) // a frame puts the next one off
			if got := strings.Count(r.c.text(), ": ping\n\n"); got != tc.want {
				t.Errorf("%s: %d pings after a frame", name, got)
			}
			j.finish()
			if err := r.ended(t); err != nil {
				t.Error(err)
			}
			got := r.all()
			<-time.After(time.Minute)
			if r.all() != got {
				t.Error("something was sent after the end")
			}
			j.l.close()
		})
	}
}

func TestTakenReaderLeaves(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		j := newJob(t, NewHub(nil, Options{TakeAfter: -1}), "j1", StreamOptions{}, chatStream("a", "b", "c"))
		j.real()
		idle := make(chan struct{})
		r := take(j.ctx, j.s, View{Format: FormatChat, Eager: true}, newConn(-1))
		if stuck {
			r.c.room, r.c.shut = 5, true
		}
		j.start(Chat)
		j.next(2)
		r.given(t)
		j.s.OnIdle(func() { close(idle) })
		j.next(1)
		r.c.leave()
		if err := r.ended(t); !errors.Is(err, context.Canceled) {
			t.Errorf("stuck %v: %v", stuck, err)
		}
		<-idle
		if j.s.Readers() != 0 {
			t.Errorf("stuck %v: %d readers", stuck, j.s.Readers())
		}
		select {
		case <-r.c.cut:
		default:
			t.Error("not cut: a Drain would have gone on")
		}
		before := r.all()
		j.finish()
		if r.all() != before {
			t.Error("something was sent to a reader who had gone")
		}
	}
}

// TestTakenReaderIsToldOfTheEnd: a failure, and the shutdown, are told in the stream, and the connection ends well.
func TestTakenReaderIsToldOfTheEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		detached bool
		end      func(j *job, h *Hub) error
		want     string
	}{
		"fail":     {false, func(j *job, _ *Hub) error { return j.s.Fail(j.ctx, "WORKER_FAILED", "the worker went away") }, "the worker went away"},
		"shutdown": {true, func(j *job, h *Hub) error { return h.Close(j.ctx) }, "SHUTTING_DOWN"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := NewHub(nil, Options{TakeAfter: -1})
			j := newJob(t, h, "j1", StreamOptions{Detached: tc.detached}, chatStream("a", "b", "c"))
			r := take(j.ctx, j.s, View{IDs: true, Eager: true}, newConn(-1))
			j.start(Chat)
			j.next(2)
			<-time.After(takeAfter)
			r.given(t)
			if err := tc.end(j, h); err != nil {
				t.Fatal(err)
			}
			if err := r.ended(t); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := r.c.text(); !strings.Contains(got, tc.want) || !strings.Contains(got, "event: error\n") || strings.Contains(got, "event: end") {
				t.Errorf("%s: %q", name, got)
			}
			j.b.Close()
			<-j.got
			j.l.close()
		})
	}
}

// TestTakenReaderResumes: a reader that comes back, and is taken over, gets what it has not.
func TestTakenReaderResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(nil, Options{TakeAfter: -1})
		j := newJob(t, h, "j1", StreamOptions{}, chatStream(words(12)...))
		j.start(Chat)
		j.next(6)
		var rs []*takenReader
		for after := range 6 {
			v := View{IDs: true}
			if after > 0 {
				v.LastEventID = strconv.Itoa(after)
			}
			rs = append(rs, take(j.ctx, j.s, v, newConn(after*17)))
		}
		<-time.After(takeAfter)
		j.next(1)
		for _, r := range rs {
			r.given(t)
		}
		j.finish()
		whole := pieces(serve(t, j.s, View{IDs: true}))
		for after, r := range rs {
			if err := r.ended(t); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(strings.Join(whole[after:], ""), r.all()); diff != "" {
				t.Errorf("after %d:\n%s", after, diff)
			}
		}
		j.l.close()
	})
}

// TestTakeOverDeclined: where the connection can't be had, everything goes on as before.
func TestTakeOverDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJob(t, NewHub(nil, Options{TakeAfter: -1, Ping: time.Second}), "j1", StreamOptions{}, chatStream(words(12)...))
		w, asked, served := httptest.NewRecorder(), 0, make(chan error, 1)
		v := View{Format: FormatChat, IncludeUsage: true, Eager: true}
		taking := v
		taking.TakeOver = func() (Conn, bool) { asked++; return nil, false }
		go func() { served <- j.s.Serve(j.ctx, w, taking) }()
		j.start(Chat)
		for len(j.rest) > 2 {
			j.next(1)
			<-time.After(2 * takeAfter)
		}
		<-time.After(1500 * time.Millisecond)
		j.finish()
		if err := <-served; err != nil || asked != 1 {
			t.Errorf("%v, asked %d times", err, asked)
		}
		if got := strings.Replace(w.Body.String(), ": ping\n\n", "", 1); got != serve(t, j.s, v) {
			t.Errorf("%q", got)
		}
		j.l.close()
	})
}

// TestShortAnswerIsNotTaken: what a takeover costs is not spent on an answer that is over at once.
func TestShortAnswerIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJob(t, NewHub(nil, Options{}), "j1", StreamOptions{}, chatStream("a"))
		r := take(j.ctx, j.s, View{Format: FormatChat, Eager: true}, newConn(-1))
		j.start(Chat)
		j.finish()
		if err := <-r.served; err != nil || r.c.text() != "" {
			t.Errorf("%v %q", err, r.c.text())
		}
		j.l.close()
	})
}

// slowJournal makes a read wait.
type slowJournal struct {
	Journal
	gate chan struct{}
	asks atomic.Int32
}

func (j *slowJournal) Read(ctx context.Context, job string, after uint64, fn func(uint64, uint32, []byte) error) error {
	if j.asks.Add(1); j.gate != nil {
		<-j.gate
	}
	return j.Journal.Read(ctx, job, after, fn)
}

// TestPollerReadsNoJournal: a taken reader that is so far behind that it needs the journal holds the poller up for not one
// read; it gets its bytes all the same.
func TestPollerReadsNoJournal(t *testing.T) {
	slow := &slowJournal{Journal: NewMemoryJournal(MemoryOptions{})}
	j := newJob(t, NewHub(slow, Options{TakeAfter: -1, Window: 4 << 10}), "j1", StreamOptions{}, chatStream(words(200)...))
	j.real()
	v := View{Format: FormatChat, IncludeUsage: true, Eager: true}
	r := take(j.ctx, j.s, v, newConn(-1))
	j.start(Chat)
	j.next(2)
	r.given(t)
	slow.gate = make(chan struct{})
	r.c.mu.Lock()
	r.c.room = 10
	r.c.mu.Unlock()
	sv := j.s.readers[0].sv
	sv.own.Lock() // the reader is busy, and falls behind the window
	j.next(100)
	sv.own.Unlock()
	alive := make(chan struct{})
	j.next(1)
	j.l.add(&j.l.later, func() { close(alive) })
	select {
	case <-alive:
	case <-time.After(20 * time.Second):
		t.Fatal("the poller reads the journal")
	}
	for late := time.Now().Add(20 * time.Second); slow.asks.Load() == 0; <-time.After(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("the reader needed no journal: the test shows nothing")
		}
	}
	close(slow.gate)
	j.finish()
	if err := r.ended(t); err != nil || r.all() != serve(t, j.s, v) {
		t.Errorf("%v: %d bytes", err, len(r.all()))
	}
}

// TestPanicEndsOneTakenReader: another reader of the same stream, and another stream of the same round, go on.
func TestPanicEndsOneTakenReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newJob(t, NewHub(nil, Options{TakeAfter: -1}), "j1", StreamOptions{}, chatStream(words(9)...))
		v := View{Format: FormatChat, IncludeUsage: true, Eager: true}
		bad, good := take(j.ctx, j.s, v, newConn(-1)), take(j.ctx, j.s, v, newConn(-1))
		j.start(Chat)
		j.next(2)
		<-time.After(takeAfter)
		bad.given(t)
		good.given(t)
		bad.c.mu.Lock()
		bad.c.panics = true
		bad.c.mu.Unlock()
		j.next(1)
		if err := bad.ended(t); !errors.Is(err, errPanic) {
			t.Errorf("%v", err)
		}
		j.finish()
		if err := good.ended(t); err != nil || good.all() != serve(t, j.s, v) {
			t.Errorf("%v", err)
		}
		j.l.close()
	})
}

// TestLostJournalIsSaidOnce: after a frame that could not be journalled no more is tried, the readers get everything, and the
// log has one line.
func TestLostJournalIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := &fullJournal{Journal: NewMemoryJournal(MemoryOptions{})}
		var told atomic.Int32
		j := newJob(t, NewHub(full, Options{TakeAfter: -1, OnJournal: func(string, error) { told.Add(1) }}), "j1", StreamOptions{}, chatStream(words(20)...))
		v := View{Format: FormatChat, IncludeUsage: true, Eager: true}
		r := take(j.ctx, j.s, v, newConn(-1))
		j.start(Chat)
		j.next(5)
		<-time.After(takeAfter)
		r.given(t)
		had := full.frames.Load()
		full.on.Store(true)
		j.next(5)
		full.on.Store(false) // there is room again, but a gap could not be read back
		j.finish()
		if err := r.ended(t); err != nil {
			t.Errorf("%v", err)
		}
		if diff := cmp.Diff(chatStream(words(20)...), r.all()); diff != "" {
			t.Error(diff)
		}
		if told.Load() != 1 || full.tried.Load() != 1 {
			t.Errorf("told %d times, tried %d times", told.Load(), full.tried.Load())
		}
		if got := full.frames.Load(); got != had {
			t.Errorf("%d frames after the gap", got-had)
		}
		j.l.close()
	})
}

// fullJournal has no room while it is told so.
type fullJournal struct {
	Journal
	on            atomic.Bool
	tried, frames atomic.Int32
}

func (f *fullJournal) Buffer(job string, seq uint64, meta uint32, data []byte) error {
	if f.on.Load() {
		f.tried.Add(1)
		return errors.New("no space left on device")
	}
	f.frames.Add(1)
	return f.Journal.Buffer(job, seq, meta, data)
}

// TestManyTakenReadersAtRandom is for the race detector: streams, readers that come, are stuck for a while, leave and are
// cancelled, all on one poller and on real time.
func TestManyTakenReadersAtRandom(t *testing.T) {
	l := newTurns(t)
	h := NewHub(nil, Options{TakeAfter: -1, WriteTimeout: 50 * time.Millisecond, Ping: 5 * time.Millisecond})
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(11, uint64(i)))
			s, err := h.Open(t.Context(), fmt.Sprint("j", i), StreamOptions{Detached: i%5 == 4})
			if err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			b := newPolled(l)
			got := copyThen(ctx, s, b, CopyOptions{Protocol: Chat})
			v := View{Format: FormatChat, IncludeUsage: true, Eager: true}
			var rs []*takenReader
			for range 1 + rnd.IntN(3) {
				rs = append(rs, take(ctx, s, v, newConn(-1)))
			}
			for k, e := range pieces(chatStream(words(60)...)) {
				b.say(e)
				if k%4 == 0 {
					<-time.After(time.Duration(rnd.IntN(4)) * time.Millisecond)
				}
				r := rs[rnd.IntN(len(rs))]
				r.c.mu.Lock()
				r.c.room = rnd.IntN(300)
				leave := r.c.gone
				r.c.mu.Unlock()
				if leave != nil && rnd.IntN(200) == 0 {
					leave()
				}
				if i%7 == 6 && k == 40 {
					cancel()
				}
			}
			c := <-got
			if i%7 != 6 && c.err != nil {
				t.Errorf("stream %d: %v", i, c.err)
			}
			if err := s.End(t.Context(), Result{Finish: "stop"}); err != nil {
				t.Error(err)
			}
			want := ""
			if i%7 != 6 {
				want = serve(t, s, v)
			}
			for _, r := range rs {
				err := <-r.served
				if errors.Is(err, ErrTaken) {
					err = <-r.c.finished
				}
				seen := strings.ReplaceAll(r.all(), ": ping\n\n", "")
				if err == nil && want != "" && seen != want || !strings.HasPrefix(want, seen) && want != "" {
					t.Errorf("stream %d: %v, %d bytes of %d", i, err, len(seen), len(want))
				}
			}
		})
	}
	wg.Wait()
}
