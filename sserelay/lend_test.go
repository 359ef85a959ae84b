package sserelay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuckWriter blocks in Write until its deadline, as a client that reads nothing makes it.
type stuckWriter struct {
	h     http.Header
	mu    sync.Mutex
	at    time.Time
	stuck chan struct{}
	once  sync.Once
}

func (w *stuckWriter) Header() http.Header { return w.h }
func (w *stuckWriter) WriteHeader(int)     {}
func (w *stuckWriter) Flush()              {}
func (w *stuckWriter) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = t
	return nil
}

func (w *stuckWriter) Write([]byte) (int, error) {
	w.once.Do(func() { close(w.stuck) })
	for {
		w.mu.Lock()
		at := w.at
		w.mu.Unlock()
		if !at.IsZero() && !time.Now().Before(at) {
			return 0, &net.OpError{Op: "write", Err: timeoutError{}}
		}
		<-time.After(10 * time.Millisecond)
	}
}

type timeoutError struct{}

func (timeoutError) Error() string        { return "i/o timeout" }
func (timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

func newStuck() *stuckWriter {
	return &stuckWriter{h: http.Header{}, stuck: make(chan struct{})}
}

// TestCancelReachesAStuckReader: the only reader does not read and the writing side is stuck in its connection; a
// cancelled job ends all the same.
func TestCancelReachesAStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil, "j1", StreamOptions{})
		w, served := newStuck(), make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), w, View{Format: FormatChat}) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		copied := make(chan error, 1)
		pr, pw := newPipe()
		go func() {
			_, err := s.Copy(ctx, pr, CopyOptions{Protocol: Chat})
			copied <- err
		}()
		pw(cutAfter(chatStream("a", "b"), 2))
		<-w.stuck
		begin := time.Now()
		cancel()
		if err := <-copied; !errors.Is(err, context.Canceled) || time.Since(begin) > 200*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if err := <-served; !errors.Is(err, ErrSlowReader) {
			t.Errorf("reader: %v", err)
		}
		if s.Readers() != 0 {
			t.Error("the reader is still there")
		}
	})
}

// TestStuckReaderIsCutAtItsDeadline: without a cancellation the reader is cut when its write deadline has passed.
func TestStuckReaderIsCutAtItsDeadline(t *testing.T) {
	s, err := NewHub(nil, Options{WriteTimeout: 100 * time.Millisecond, Ping: 50 * time.Millisecond}).Open(t.Context(), "j1", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, served := newStuck(), make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), w, View{Format: FormatChat}) }()
	for s.borrowable() == nil {
		<-time.After(time.Millisecond)
	}
	out, err := s.Copy(t.Context(), body(chatStream("a", "b")), CopyOptions{Protocol: Chat})
	if err != nil || out.Frames != 5 {
		t.Fatal(out, err)
	}
	if err := <-served; !errors.Is(err, ErrSlowReader) {
		t.Error(err)
	}
	if err := s.End(t.Context(), Result{}); err != nil {
		t.Fatal(err)
	}
	if got := serve(t, s, View{Format: FormatChat}); !strings.HasSuffix(got, "[DONE]\n\n") {
		t.Errorf("a later reader: %s", got)
	}
}

// borrowable returns the only reader's server once it waits.
func (s *Stream) borrowable() *server {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.borrow(nil, true) {
		sv.lent = false
		sv.own.Unlock()
		return sv
	}
	return nil
}

// TestDetachedJobIsNotHeldBack: a stuck reader of a detached job holds nobody.
func TestDetachedJobIsNotHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil, "j1", StreamOptions{Detached: true})
		w, served := newStuck(), make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), w, View{Format: FormatChat}) }()
		synctest.Wait()
		begin := time.Now()
		run(t, s, chatStream("a", "b"), CopyOptions{Protocol: Chat})
		if time.Since(begin) > 0 {
			t.Errorf("the job took %v", time.Since(begin))
		}
		if got := serve(t, s, View{Format: FormatChat}); !strings.HasSuffix(got, "[DONE]\n\n") {
			t.Errorf("another reader: %s", got)
		}
		if err := <-served; !errors.Is(err, ErrSlowReader) {
			t.Error(err)
		}
		<-time.After(3 * time.Second)
	})
}

// pipe is a worker's body that a test writes to and that unblocks when it is closed.
type pipe struct {
	data   chan string
	rest   string
	closed chan struct{}
}

func newPipe() (*pipe, func(string)) {
	p := &pipe{data: make(chan string, 16), closed: make(chan struct{})}
	return p, func(s string) { p.data <- s }
}

func (p *pipe) Read(b []byte) (int, error) {
	if p.rest == "" {
		select {
		case p.rest = <-p.data:
		case <-p.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pipe) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}
