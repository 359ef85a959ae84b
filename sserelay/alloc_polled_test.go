//go:build !race

package sserelay

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// polledDrip is a worker whose poller is the test itself: one event a call.
type polledDrip struct {
	have  string
	over  bool
	fn    func()
	later []func()
}

func (d *polledDrip) Read(p []byte) (int, error) {
	n := copy(p, d.have)
	if d.have = d.have[n:]; n == 0 && d.over {
		return 0, io.EOF
	}
	return n, nil
}

func (d *polledDrip) Close() error        { return nil }
func (d *polledDrip) Poll(fn func()) bool { d.fn = fn; return true }
func (d *polledDrip) Pause()              {}
func (d *polledDrip) Resume()             {}
func (d *polledDrip) Unpoll()             {}
func (d *polledDrip) Later(fn func())     { d.later = append(d.later, fn) }

// turn is one round of the poller.
func (d *polledDrip) turn(event string) {
	d.have = event
	d.fn()
	for _, fn := range d.later {
		fn()
	}
	d.later = d.later[:0]
}

// sinkConn is a taken connection that drops everything.
type sinkConn struct {
	n    int
	done chan error
}

func (c *sinkConn) Send(p []byte) (bool, error) { c.n += len(p); return true, nil }
func (c *sinkConn) Drain(time.Time) error       { return nil }
func (c *sinkConn) Cut()                        {}
func (c *sinkConn) OnGone(func())               {}
func (c *sinkConn) Finish(err error)            { c.done <- err }

func relayTaken(tb testing.TB, n int, v View, o CopyOptions) {
	ctx := tb.Context()
	s, err := NewHub(nullJournal{}, Options{TakeAfter: -1}).Open(ctx, "j", StreamOptions{Model: "m"})
	if err != nil {
		tb.Fatal(err)
	}
	parts := strings.SplitAfter(chatStream("x"), "\n\n")
	c, served := &sinkConn{done: make(chan error, 1)}, make(chan error, 1)
	v.Eager, v.TakeOver = true, func() (Conn, bool) { return c, true }
	go func() { served <- s.Serve(ctx, &sink{h: http.Header{}}, v) }()
	if err := <-served; !errors.Is(err, ErrTaken) {
		tb.Fatal(err)
	}
	d, got := &polledDrip{have: parts[0]}, make(chan error, 1)
	_, parked, err := s.CopyThen(ctx, d, o, func(_ Outcome, err error) { got <- err })
	if !parked || err != nil {
		tb.Fatal(parked, err)
	}
	for i := range n {
		if d.turn(parts[1]); i%256 == 0 { // the journal keeps nothing: the reader must not fall behind the window
			for s.behind() {
				runtime.Gosched()
			}
		}
	}
	d.turn(strings.Join(parts[2:], ""))
	if err := errors.Join(<-got, s.End(ctx, Result{Finish: "stop"}), <-c.done); err != nil {
		tb.Fatal(err)
	}
	if c.n < n*40 {
		tb.Fatalf("%d bytes of %d tokens", c.n, n)
	}
}

// behind reports whether a reader has frames to come.
func (s *Stream) behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readers) > 0 && s.readers[0].pos < s.next
}

func TestPolledPathDoesNotAllocatePerToken(t *testing.T) {
	for name, tc := range map[string]struct {
		v View
		o CopyOptions
	}{
		"chat":         {View{Format: FormatChat}, CopyOptions{Protocol: Chat, StripUsage: true}},
		"chat resumed": {View{Format: FormatChat, IDs: true}, CopyOptions{Protocol: Chat}},
		"native":       {View{IDs: true}, CopyOptions{Protocol: Chat}},
	} {
		const few, many = 100, 20100
		cost := func(n int) float64 {
			return testing.AllocsPerRun(3, func() { relayTaken(t, n, tc.v, tc.o) })
		}
		perToken := (cost(many) - cost(few)) / (many - few)
		t.Logf("%s: %.4f allocations a token", name, perToken)
		if perToken > 0.01 {
			t.Errorf("%s: %.4f allocations a token", name, perToken)
		}
	}
}

func (b *polledDrip) TryRead([]byte) (int, error) { return 0, nil }
