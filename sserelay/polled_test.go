package sserelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// frame is one of a journal's.
type frame struct {
	Seq  uint64
	Meta uint32
	Data string
}

func framesOf(t *testing.T, j Journal, job string) (all []frame) {
	t.Helper()
	err := j.Read(t.Context(), job, 0, func(seq uint64, meta uint32, data []byte) error {
		all = append(all, frame{seq, meta, string(data)})
		return nil
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	return all
}

// summary is what must be the same of two outcomes.
func summary(o Outcome, err error) string {
	werr := ""
	if o.WorkerError != nil {
		werr = o.WorkerError.Error()
	}
	return fmt.Sprintf("finish %q, prompt %d, cached %d, output %d, frames %d, complete %v, began %v, worker error %q, error %v",
		o.Finish, o.PromptTokens, o.CachedTokens, o.OutputTokens, o.Frames, o.Complete, !o.First.IsZero(), werr, err)
}

// oneAnswer is a worker's answer.
type oneAnswer struct {
	proto Protocol
	body  string
}

// answers are good and bad ones.
func answers() map[string]oneAnswer {
	long := strings.Repeat("long ", 4000)
	chat := chatStream("Once", " upon", " a time", "\n\n", "\"q\"")
	return map[string]oneAnswer{
		"chat":               {Chat, chat},
		"chat crlf":          {Chat, strings.ReplaceAll(chat, "\n", "\r\n")},
		"chat cr":            {Chat, strings.ReplaceAll(chat, "\n", "\r")},
		"chat with comments": {Chat, "\xef\xbb\xbf: hello\n\n" + strings.ReplaceAll(chat, "\n\ndata", "\n\n: ping\n\nid: 7\ndata")},
		"two data lines":     {Chat, strings.Replace(chat, `"created":7,`, "\ndata: \"created\":7,", 1)},
		"long":               {Chat, chatStream("a", long, "b", long+long+long+long, "c")},
		"without done":       {Chat, chat[:len(chat)-len("data: [DONE]\n\n")]},
		"done without blank": {Chat, chat[:len(chat)-1]},
		"cut":                {Chat, chat[:len(chat)/2]},
		"error in band":      {Chat, cutAfter(chat, 2) + "data: {\"error\":{\"message\":\"out of memory\",\"code\":500}}\n\n"},
		"no json":            {Chat, cutAfter(chat, 2) + "data: <html>\n\n"},
		"more after the end": {Chat, chat + chat},
		"empty":              {Chat, ""},
		"execute":            {Execute, execStream(0, "Once", " upon", " a time")},
		"execute cut":        {Execute, cutAfter(execStream(0, "Once", " upon", " a time"), 3)},
		"raw":                {Raw, "event: response.created\ndata: {}\n\nevent: x\ndata: {\"a\":\n data: 1}\n\n"},
		"many":               {Execute, execStream(0, strings.Split(strings.Repeat("w,", 700), ",")...)},
	}
}

// same copies an answer with Copy and with CopyThen, said in pieces, and wants the same frames and the same outcome.
func same(t *testing.T, l *turns, a oneAnswer, rnd *rand.Rand, o Options) {
	t.Helper()
	opts := CopyOptions{Protocol: a.proto, ContentType: "text/event-stream"}
	plain, polled := NewMemoryJournal(MemoryOptions{}), NewMemoryJournal(MemoryOptions{})
	s, err := NewHub(plain, o).Open(t.Context(), "j", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := summary(s.Copy(t.Context(), body(a.body), opts))
	if s, err = NewHub(polled, o).Open(t.Context(), "j", StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	b := newPolled(l)
	if rnd.IntN(2) == 0 {
		b.rnd = rand.New(rand.NewPCG(rnd.Uint64(), 1))
	}
	got := copyThen(t.Context(), s, b, opts)
	rest := a.body
	for rest != "" {
		n := 1 + rnd.IntN(min(len(rest), 1<<rnd.IntN(14)))
		b.say(rest[:n])
		rest = rest[n:]
		if rnd.IntN(3) == 0 { // let it be read
			turn := make(chan struct{})
			l.add(&l.later, func() { close(turn) })
			<-turn
		}
	}
	b.end()
	c := <-got
	if diff := cmp.Diff(want, summary(c.out, c.err)); diff != "" {
		t.Errorf("outcome (-Copy +CopyThen):\n%s", diff)
	}
	turn := make(chan struct{})
	l.add(&l.later, func() { close(turn) }) // what was to be passed on has been
	<-turn
	if diff := cmp.Diff(framesOf(t, plain, "j"), framesOf(t, polled, "j")); diff != "" {
		t.Errorf("frames (-Copy +CopyThen):\n%s", diff)
	}
	if len(got) != 0 {
		t.Error("two ends")
	}
	if on := func() bool { _, on, _ := b.state(); return on }(); on || !b.closed {
		t.Errorf("the body: watched %v, closed %v", on, b.closed)
	}
}

func TestCopyThenEqualsCopy(t *testing.T) {
	l := newTurns(t)
	for name, a := range answers() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(16) {
				after := time.Duration(-1)
				if seed >= 12 {
					after = time.Hour // never polled: what a fast worker says is read together
				}
				same(t, l, a, rand.New(rand.NewPCG(3, seed)), Options{TakeAfter: after, Window: 1 << 20, MaxLine: 64 << 10, MaxEvent: 70 << 10})
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// FuzzCopyThen holds the polled path against Copy for any bytes.
func FuzzCopyThen(f *testing.F) {
	for _, a := range answers() {
		if len(a.body) < 1<<12 {
			f.Add(a.body, uint8(a.proto), uint64(1))
		}
	}
	l := newTurns(f)
	f.Fuzz(func(t *testing.T, in string, proto uint8, seed uint64) {
		if len(in) > 1<<13 {
			return
		}
		protocols := []Protocol{Chat, Completion, Execute, Raw}
		same(t, l, oneAnswer{protocols[int(proto)%len(protocols)], in}, rand.New(rand.NewPCG(seed, 0)), Options{TakeAfter: -1, MaxLine: 2 << 10, MaxEvent: 4 << 10})
	})
}

// TestFastWorkerIsReadOn holds that what a fast worker said is passed on together, and a slow one's at once.
func TestFastWorkerIsReadOn(t *testing.T) {
	for words, want := range map[int]bool{1: false, 600: true} {
		s, err := NewHub(nil, Options{TakeAfter: time.Hour}).Open(t.Context(), "j", StreamOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b := newPolled(newTurns(t))
		b.say(execStream(0, strings.Split(strings.Repeat("w,", words), ",")...))
		b.end()
		c := <-copyThen(t.Context(), s, b, CopyOptions{Protocol: Execute, ContentType: "text/event-stream"})
		if c.err != nil || !c.out.Complete || (b.tried > 0) != want {
			t.Errorf("%d words: read on %d times, want any: %v; %v", words, b.tried, want, c.err)
		}
	}
}

// TestSilentParserHoldsNoBuffer: between two events a polled parser has no memory, in the middle of one it keeps what came.
func TestSilentParserHoldsNoBuffer(t *testing.T) {
	b := newPolled(newTurns(t))
	b.polled = true
	p := NewParser(b, ParserOptions{})
	p.poll(NewHub(nil, Options{TakeAfter: -1}))
	again := func(held bool) {
		t.Helper()
		if _, err := p.Next(); !errors.Is(err, errAgain) {
			t.Fatalf("%v", err)
		}
		if (p.buf != nil) != held || (p.box != nil) != held {
			t.Fatalf("a buffer of %d bytes, want one: %v", cap(p.buf), held)
		}
	}
	again(false)
	for i := range 3 {
		b.say("data: a\ndata: b\n")
		again(true)
		b.say("id: 4\n\n")
		ev, err := p.Next()
		if err != nil || string(ev.Data) != "a\nb" || ev.ID != "4" {
			t.Fatalf("round %d: %q %v", i, ev.Data, err)
		}
		again(false)
		again(false)
	}
	b.end()
	if _, err := p.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	p.release()
}

// TestSilentStreamsHaveNoGoroutine: a parked stream is nobody's until something comes.
func TestSilentStreamsHaveNoGoroutine(t *testing.T) {
	l := newTurns(t)
	s := open(t, nil, "j1", StreamOptions{})
	b := newPolled(l)
	b.say(cutAfter(chatStream("a", "b"), 2))
	var ended atomic.Int32
	out, parked, err := s.CopyThen(t.Context(), b, CopyOptions{Protocol: Chat}, func(Outcome, error) { ended.Add(1) })
	if !parked || err != nil || out.Frames != 0 {
		t.Fatalf("parked %v, %v: CopyThen waited", parked, err)
	}
	if polled, on, _ := b.state(); !polled || !on || ended.Load() != 0 {
		t.Error("nobody watches the body")
	}
	b.end()
	for late := time.Now().Add(20 * time.Second); ended.Load() == 0 && time.Now().Before(late); <-time.After(time.Millisecond) {
	}
	if ended.Load() != 1 {
		t.Errorf("%d ends", ended.Load())
	}
}

// TestNotEveryBodyIsPolled: a detached stream, and a body that can't be, are as with Copy.
func TestNotEveryBodyIsPolled(t *testing.T) {
	for name, tc := range map[string]struct{ detached, refuses bool }{"detached": {detached: true}, "refused": {refuses: true}} {
		synctest.Test(t, func(t *testing.T) {
			l := newTurns(t)
			s := open(t, nil, "j1", StreamOptions{Detached: tc.detached})
			b := newPolled(l)
			b.refuses = tc.refuses
			got := copyThen(t.Context(), s, b, CopyOptions{Protocol: Chat})
			in := chatStream("a", "b")
			b.say(in[:len(in)/2])
			synctest.Wait()
			if polled, _, _ := b.state(); polled {
				t.Errorf("%s: polled", name)
			}
			b.say(in[len(in)/2:])
			if c := <-got; c.parked || c.err != nil || c.out.Frames != 5 {
				t.Errorf("%s: %+v", name, c)
			}
			l.close()
		})
	}
}

func TestParkedStreamIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTurns(t)
		s := open(t, nil, "j1", StreamOptions{})
		ctx, cancel := context.WithCancelCause(t.Context())
		b := newPolled(l)
		got := copyThen(ctx, s, b, CopyOptions{Protocol: Chat})
		b.say(cutAfter(chatStream("a", "b"), 2))
		synctest.Wait()
		why := errors.New("on request")
		cancel(why)
		c := <-got
		if !c.parked || !errors.Is(c.err, why) || c.out.Frames != 2 || c.out.Complete {
			t.Errorf("%+v", c)
		}
		synctest.Wait()
		if len(got) != 0 {
			t.Error("two ends")
		}
		l.close()
	})
}

func TestParkedStreamStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTurns(t)
		s := open(t, nil, "j1", StreamOptions{})
		b := newPolled(l)
		got := copyThen(t.Context(), s, b, CopyOptions{Protocol: Chat, FirstTimeout: time.Minute, NextTimeout: 10 * time.Second})
		words := pieces(chatStream("a", "b", "c"))
		begin := time.Now()
		for _, w := range words[:3] { // each comes just in time
			b.say(w)
			<-time.After(9 * time.Second)
		}
		c := <-got
		if took := time.Since(begin); !c.parked || !errors.Is(c.err, ErrStalled) || c.out.Frames != 3 || took != 28*time.Second {
			t.Errorf("%+v after %v", c, took)
		}
		l.close()
	})
}

// gate is a reader that takes nothing until it is opened.
type gate struct {
	h    http.Header
	open chan struct{}
	mu   sync.Mutex
	got  strings.Builder
}

func newGate() *gate { return &gate{h: http.Header{}, open: make(chan struct{})} }

func (g *gate) Header() http.Header { return g.h }
func (g *gate) WriteHeader(int)     {}
func (g *gate) Flush()              {}
func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(b)
}

// TestChokedReadersPauseTheWorker: where the window is nearly full of what a reader has not taken, the poller is asked to
// wait; the poller itself waits for nobody, and everything arrives.
func TestChokedReadersPauseTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTurns(t)
		h := NewHub(nil, Options{TakeAfter: -1, Window: 256 << 10})
		s, err := h.Open(t.Context(), "j1", StreamOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for i := range 4000 {
			words = append(words, fmt.Sprintf("word %d ", i))
		}
		in := chatStream(words...)
		g, served := newGate(), make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), g, View{Format: FormatChat, IncludeUsage: true}) }()
		b := newPolled(l)
		got := copyThen(t.Context(), s, b, CopyOptions{Protocol: Chat})
		head := cutAfter(in, 2)
		close(g.open)
		b.say(head)
		synctest.Wait() // parked
		g.open = make(chan struct{})
		b.say(in[len(head):])
		synctest.Wait() // a clock that stands still: the reader's patience is not used up
		if _, on, pauses := b.state(); on || pauses != 1 || len(got) != 0 {
			t.Errorf("watched %v, %d pauses, %d ends", on, pauses, len(got))
		}
		alive := make(chan struct{})
		l.add(&l.due, func() { close(alive) })
		<-alive
		close(g.open)
		c := <-got
		if c.err != nil || c.out.OutputTokens != len(words) || !c.parked {
			t.Errorf("%+v", c)
		}
		if err := s.End(t.Context(), Result{Finish: "stop"}); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil {
			t.Fatal(err)
		}
		if g.got.String() != in {
			t.Errorf("the reader has %d bytes of %d", g.got.Len(), len(in))
		}
		l.close()
	})
}

// TestPollerWaitsForNoReader: the only reader of a polled stream takes nothing; its own goroutine waits, the poller goes on
// with other streams, and so it does at the stream's end.
func TestPollerWaitsForNoReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTurns(t)
		s := open(t, nil, "j1", StreamOptions{})
		g, served := newGate(), make(chan error, 1)
		go func() { served <- s.Serve(t.Context(), g, View{Format: FormatChat, IncludeUsage: true}) }()
		synctest.Wait()
		in := chatStream("a", "b", "c", "d")
		b := newPolled(l)
		b.rnd = rand.New(rand.NewPCG(1, 2))
		got := copyThen(t.Context(), s, b, CopyOptions{Protocol: Chat})
		// the first frames are written by the goroutine of CopyThen itself, which waits for the reader: as with a plain proxy
		close(g.open)
		head := cutAfter(in, 2)
		b.say(head)
		synctest.Wait()
		g.open = make(chan struct{})
		b.say(in[len(head):])
		b.end()
		alive := make(chan struct{})
		l.add(&l.later, func() { close(alive) })
		select {
		case <-alive:
		case <-time.After(time.Second):
			t.Fatal("the poller waits for a reader")
		}
		close(g.open)
		if c := <-got; c.err != nil {
			t.Error(c.err)
		}
		if err := s.End(t.Context(), Result{Finish: "stop"}); err != nil {
			t.Fatal(err)
		}
		if err := <-served; err != nil || g.got.String() != in {
			t.Errorf("%v: %q", err, g.got.String())
		}
		l.close()
	})
}

// TestLaterThanPark: what CopyThen itself gave the poller to pass on must not make the poller wait for a reader either,
// though the stream was not parked yet.
func TestLaterThanPark(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	g, served := newGate(), make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), g, View{Format: FormatChat, Eager: true}) }()
	for s.borrowable() == nil {
		<-time.After(time.Millisecond)
	}
	b := newPolled(newTurns(t))
	c := s.newCopier(t.Context(), b, CopyOptions{Protocol: Chat})
	if err := c.emit(newMeta(KindData, Chat, flagText, 1), []byte("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n")); err != nil {
		t.Fatal(err)
	}
	c.intake()
	passed := make(chan struct{})
	s.hub.fed = append(s.hub.fed, s)
	go func() { s.hub.passAll(); close(passed) }()
	select {
	case <-passed:
	case <-time.After(20 * time.Second):
		t.Error("the poller waits for a reader")
	}
	close(g.open)
	<-passed
	c.close()
	if err := s.End(t.Context(), Result{Finish: "stop"}); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestPanicInTheCallbackEndsOneStream: whatever panics while a stream is taken in is that stream's error.
func TestPanicInTheCallbackEndsOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTurns(t)
		j := &panicJournal{Journal: NewMemoryJournal(MemoryOptions{})}
		s := open(t, j, "j1", StreamOptions{})
		b := newPolled(l)
		got := copyThen(t.Context(), s, b, CopyOptions{Protocol: Chat})
		in := pieces(chatStream("a", "b"))
		b.say(in[0])
		synctest.Wait()
		j.on.Store(true)
		b.say(in[1])
		c := <-got
		if !c.parked || c.err == nil || !strings.Contains(c.err.Error(), "panic") {
			t.Errorf("%+v", c)
		}
		l.close()
	})
}

// panicJournal panics when it is told to.
type panicJournal struct {
	Journal
	on atomic.Bool
}

func (j *panicJournal) Buffer(job string, seq uint64, meta uint32, data []byte) error {
	if j.on.CompareAndSwap(true, false) {
		panic("journal")
	}
	return j.Journal.Buffer(job, seq, meta, data)
}
