//go:build !race

package sserelay

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
)

// nullJournal takes everything and keeps nothing.
type nullJournal struct{}

func (nullJournal) Append(context.Context, string, uint64, uint32, []byte) error { return nil }
func (nullJournal) Buffer(string, uint64, uint32, []byte) error                  { return nil }
func (nullJournal) Read(context.Context, string, uint64, func(uint64, uint32, []byte) error) error {
	return nil
}

// sink is a ResponseWriter that drops everything.
type sink struct {
	h http.Header
	n int
}

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Flush()                      {}
func (s *sink) Write(b []byte) (int, error) { s.n += len(b); return len(b), nil }

// drip is a worker that sends one event per read.
type drip struct {
	head, event, tail string
	left              int
}

func (d *drip) Read(b []byte) (int, error) {
	switch {
	case d.head != "":
		n := copy(b, d.head)
		d.head = d.head[n:]
		return n, nil
	case d.left > 0:
		d.left--
		return copy(b, d.event), nil
	case d.tail != "":
		n := copy(b, d.tail)
		d.tail = d.tail[n:]
		return n, nil
	}
	return 0, io.EOF
}

func (d *drip) Close() error { return nil }

func newDrip(n int) *drip {
	whole := chatStream("x")
	parts := strings.SplitAfter(whole, "\n\n")
	return &drip{head: parts[0], event: parts[1], tail: strings.Join(parts[2:], ""), left: n}
}

// relay carries n chat tokens from a worker to one reader.
func relay(tb testing.TB, n int, detached bool, v View, o CopyOptions, body io.ReadCloser) {
	ctx := context.Background()
	// the window holds all of it: a reader that a busy machine leaves behind finds nothing in this journal
	s, err := NewHub(nullJournal{}, Options{Window: max(16<<20, 512*n)}).Open(ctx, "j", StreamOptions{Model: "m", Detached: detached})
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	w := &sink{h: http.Header{}}
	r := s.join(false)
	go func() { done <- s.Serve(ctx, w, v) }()
	for s.Readers() < 2 {
		runtime.Gosched()
	}
	s.leave(r)
	out, err := s.Copy(ctx, body, o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.End(ctx, Result{Finish: out.Finish}); err != nil {
		tb.Fatal(err)
	}
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	if w.n < n*40 {
		tb.Fatalf("%d bytes of %d tokens", w.n, n)
	}
}

func TestPassThroughDoesNotAllocatePerToken(t *testing.T) {
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
			return testing.AllocsPerRun(3, func() { relay(t, n, false, tc.v, tc.o, newDrip(n)) })
		}
		perToken := (cost(many) - cost(few)) / (many - few)
		t.Logf("%s: %.4f allocations a token", name, perToken)
		if perToken > 0.01 {
			t.Errorf("%s: %.4f allocations a token", name, perToken)
		}
	}
}

func benchmarkRelay(b *testing.B, v View, o CopyOptions, detached bool) {
	b.ReportAllocs()
	relay(b, b.N, detached, v, o, newDrip(b.N))
}

func BenchmarkPassThrough(b *testing.B) {
	benchmarkRelay(b, View{Format: FormatChat}, CopyOptions{Protocol: Chat, StripUsage: true}, false)
}

func BenchmarkNativeOfChat(b *testing.B) {
	benchmarkRelay(b, View{IDs: true}, CopyOptions{Protocol: Chat}, false)
}

func BenchmarkParser(b *testing.B) {
	b.ReportAllocs()
	p := NewParser(newDrip(b.N), ParserOptions{})
	for {
		if _, err := p.Next(); err != nil {
			return
		}
	}
}

// gush is a worker that has said everything before anybody reads.
type gush struct {
	drip
	rest string
}

func (g *gush) Read(b []byte) (int, error) {
	if g.head != "" {
		return g.drip.Read(b)
	}
	if g.left == 0 && g.rest == "" {
		return g.drip.Read(b)
	}
	n := 0
	for n < len(b) {
		if g.rest == "" {
			if g.left == 0 {
				break
			}
			g.left--
			g.rest = g.event
		}
		m := copy(b[n:], g.rest)
		g.rest = g.rest[m:]
		n += m
	}
	return n, nil
}

func BenchmarkPassBursts(b *testing.B) {
	b.ReportAllocs()
	d := newDrip(b.N)
	d.event = strings.Replace(d.event, "x", "x token text of 24 bytes", 1)
	b.SetBytes(int64(len(d.event)))
	relay(b, b.N, false, View{Format: FormatChat}, CopyOptions{Protocol: Chat, StripUsage: true}, &gush{drip: *d})
}
