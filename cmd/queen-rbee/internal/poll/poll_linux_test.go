//go:build linux

package poll

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestReadableCallsUntilItIsRead(t *testing.T) {
	l := newLoop(t)
	near, far := pair(t)
	var calls atomic.Int32
	data := make(chan string, 8)
	w := watch(t, l, near, func() {
		if calls.Add(1) < 3 {
			return // not taken: it has to be told again
		}
		if got, _ := take(near); len(got) > 0 {
			data <- string(got)
		}
	})
	say(t, far, "one")
	settle(t, l)
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls before Resume", n)
	}
	w.Resume()
	if got := within(t, data, "data"); got != "one" {
		t.Errorf("got %q", got)
	}
	if n := calls.Load(); n < 3 {
		t.Errorf("only %d calls", n)
	}
	settle(t, l)
	before := calls.Load()
	settle(t, l)
	if calls.Load() != before {
		t.Error("called though there is nothing to read")
	}
	say(t, far, "two")
	if got := within(t, data, "more data"); got != "two" {
		t.Errorf("got %q", got)
	}
	w.Stop()
	w.Stop()
	say(t, far, "three")
	settle(t, l)
	if len(data) != 0 {
		t.Error("called after Stop")
	}
}

func TestPauseAndResumeLoseNothing(t *testing.T) {
	l := newLoop(t)
	near, far := pair(t)
	data := make(chan string, 64)
	w := watch(t, l, near, func() {
		if got, _ := take(near); len(got) > 0 {
			data <- string(got)
		}
	})
	w.Resume()
	w.Resume()
	for i, word := range []string{"a", "b", "c", "d"} {
		w.Pause()
		w.Pause()
		settle(t, l)
		say(t, far, word)
		settle(t, l)
		if len(data) != 0 {
			t.Fatalf("round %d: called while paused", i)
		}
		w.Resume()
		if got := within(t, data, "data"); got != word {
			t.Fatalf("round %d: %q", i, got)
		}
	}
}

func TestKickAndResumeAfterClosingOnThisSide(t *testing.T) {
	l := newLoop(t)
	for _, paused := range []bool{false, true} {
		near, _ := pair(t)
		ended := make(chan error, 8)
		var w *Watch
		w = watch(t, l, near, func() {
			_, err := take(near)
			w.Stop()
			ended <- err
		})
		if !paused {
			w.Resume()
		}
		if err := near.Close(); err != nil {
			t.Fatal(err)
		}
		w.Kick()
		if paused {
			settle(t, l)
			if len(ended) != 0 {
				t.Error("a paused watch was kicked")
			}
			w.Resume()
		}
		if err := within(t, ended, "the kick"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("paused %v: %v", paused, err)
		}
		w.Kick()
		settle(t, l)
		if len(ended) != 0 {
			t.Error("kicked after Stop")
		}
	}
}

func TestGoneComesOnce(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn) error{
		"close":      (*net.TCPConn).Close,
		"half-close": (*net.TCPConn).CloseWrite,
		"reset": func(c *net.TCPConn) error {
			return errors.Join(c.SetLinger(0), c.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t)
			near, far := pair(t)
			var calls atomic.Int32
			gone := make(chan struct{}, 8)
			w, ok := l.Gone(near, func() { calls.Add(1); gone <- struct{}{} })
			if !ok {
				t.Fatal("not watched")
			}
			say(t, far, "a pipelined request is no leaving")
			settle(t, l)
			if calls.Load() != 0 {
				t.Fatal("gone though only data came")
			}
			if err := leave(far); err != nil {
				t.Fatal(err)
			}
			within(t, gone, "the leaving")
			w.Kick()
			w.Pause()
			w.Resume()
			settle(t, l)
			if n := calls.Load(); n != 1 {
				t.Errorf("%d calls", n)
			}
			w.Stop()
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.watches) != 0 {
				t.Errorf("%d watches left", len(l.watches))
			}
		})
	}
}

// TestOneRoundCallsNobodyWhoStopped: the system and Kick both ask for the same watch, and its first call ends or pauses it.
func TestOneRoundCallsNobodyWhoStopped(t *testing.T) {
	for name, end := range map[string]func(*Watch){"stop": (*Watch).Stop, "pause": (*Watch).Pause} {
		t.Run(name, func(t *testing.T) {
			l := newLoop(t)
			near, far := pair(t)
			var calls atomic.Int32
			var w *Watch
			w = watch(t, l, near, func() {
				calls.Add(1)
				end(w)
			})
			w.Resume()
			l.mu.Lock() // the loop finds the data, and can't go on before the kick
			say(t, far, "data")
			w.kick()
			l.mu.Unlock()
			until(t, "the call", func() bool { return calls.Load() > 0 })
			settle(t, l)
			if n := calls.Load(); n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// TestOneCallbackStopsAnother: whoever was stopped by a callback of the same round is not called.
func TestOneCallbackStopsAnother(t *testing.T) {
	l := newLoop(t)
	var calls atomic.Int32
	var ws [2]*Watch
	var fars [2]*net.TCPConn
	for i := range ws {
		near, far := pair(t)
		fars[i] = far
		ws[i] = watch(t, l, near, func() {
			calls.Add(1)
			ws[0].Stop()
			ws[1].Stop()
		})
	}
	l.mu.Lock()
	for i, w := range ws {
		say(t, fars[i], "x")
		w.paused = false
		w.kick()
	}
	l.mu.Unlock()
	until(t, "a call", func() bool { return calls.Load() > 0 })
	settle(t, l)
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestLaterRunsOnceAfterTheRound(t *testing.T) {
	l := newLoop(t)
	const n = 8
	var mu sync.Mutex
	var order []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, s)
	}
	asked := false
	done := make(chan struct{})
	var ws []*Watch
	var fars []*net.TCPConn
	for range n {
		near, far := pair(t)
		fars = append(fars, far)
		var w *Watch
		w = watch(t, l, near, func() {
			note("call")
			w.Stop()
			if !asked {
				asked = true
				l.Later(func() { note("later"); close(done) })
			}
		})
		ws = append(ws, w)
	}
	l.mu.Lock()
	for i, w := range ws {
		say(t, fars[i], "x")
		w.paused = false
		w.kick()
	}
	l.mu.Unlock()
	within(t, done, "later")
	settle(t, l)
	mu.Lock()
	defer mu.Unlock()
	if got, want := strings.Join(order, " "), strings.Repeat("call ", n)+"later"; got != want {
		t.Errorf("%s", got)
	}
}

func TestPanicEndsNoLoop(t *testing.T) {
	var log bytes.Buffer
	l, err := New(slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	said := make(chan struct{}, 1)
	var w *Watch
	w = watch(t, l, near, func() {
		w.Stop()
		said <- struct{}{}
		panic("one stream's fault")
	})
	w.Resume()
	say(t, far, "x")
	within(t, said, "the call")
	l.Later(func() { panic("another") })
	settle(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "a callback panicked") != 2 || !strings.Contains(got, "one stream's fault") {
		t.Errorf("log: %s", got)
	}
}

func TestCloseIsFinal(t *testing.T) {
	l, err := New(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	var calls atomic.Int32
	w := watch(t, l, near, func() { calls.Add(1) }) // reads nothing: the loop is never idle
	w.Resume()
	say(t, far, "x")
	until(t, "a call", func() bool { return calls.Load() > 0 })
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := l.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	closed := make(chan struct{})
	go func() { wg.Wait(); close(closed) }()
	within(t, closed, "Close")
	before := calls.Load()
	// the loop's descriptors may be somebody else's now, whom nothing of this may reach
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Kick()
	w.Pause()
	w.Resume()
	l.Later(func() { calls.Add(1) })
	w.Stop()
	if _, ok := l.Readable(near, func() {}); ok {
		t.Error("a closed loop watches")
	}
	if _, ok := l.Gone(near, func() {}); ok {
		t.Error("a closed loop watches")
	}
	_ = p.Close()
	if got, err := io.ReadAll(r); err != nil || len(got) != 0 {
		t.Errorf("%q %v was written to somebody else's file", got, err)
	}
	if calls.Load() != before {
		t.Error("called after Close")
	}
}

func TestWhatIsNoConnectionOfTheSystem(t *testing.T) {
	l := newLoop(t)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, ok := l.Readable(a, func() {}); ok {
		t.Error("a pipe in memory is watched")
	}
	near, _ := pair(t)
	_ = near.Close()
	if w, ok := l.Readable(near, func() {}); ok {
		w.Stop()
	}
}

// TestManyConnectionsAtRandom: whatever is done to 200 connections, each gives all that was written to it, or says that it
// was closed.
func TestManyConnectionsAtRandom(t *testing.T) {
	l := newLoop(t)
	const conns, words = 200, 20
	var wg sync.WaitGroup
	for i := range conns {
		near, far := pair(t)
		rnd := rand.New(rand.NewPCG(7, uint64(i)))
		closes := i%4 == 0 // on this side, in the middle
		var got atomic.Int32
		var calling atomic.Int32
		ended := make(chan error, 1)
		var w *Watch
		w = watch(t, l, near, func() {
			if calling.Add(1) != 1 {
				t.Error("two callbacks at once")
			}
			defer calling.Add(-1)
			b, err := take(near)
			got.Add(int32(len(b)))
			if err != nil {
				w.Stop()
				ended <- err
			}
		})
		w.Resume()
		wg.Go(func() {
			for n := range words {
				if _, err := far.Write([]byte("word")); err != nil && !closes {
					t.Errorf("write: %v", err)
				}
				switch rnd.IntN(5) {
				case 0:
					w.Pause()
				case 1:
					w.Kick()
				}
				if closes && n == words/2 {
					_ = near.Close()
					w.Kick()
				}
				w.Resume()
			}
			if !closes {
				_ = far.CloseWrite()
			}
			var err error
			select {
			case err = <-ended:
			case <-time.After(patience):
				t.Errorf("connection %d never ended: %d bytes", i, got.Load())
				return
			}
			switch {
			case closes && !errors.Is(err, net.ErrClosed):
				t.Errorf("connection %d: %v", i, err)
			case !closes && (!errors.Is(err, io.EOF) || got.Load() != words*4):
				t.Errorf("connection %d: %v after %d bytes", i, err, got.Load())
			}
		})
	}
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.watches) != 0 {
		t.Errorf("%d watches left", len(l.watches))
	}
}
