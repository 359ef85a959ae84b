package sserelay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wants reports whether the long forms run.
func long() bool { return os.Getenv("RBEE_LONG") == "1" }

// pieces cuts a stream into its events, ids included.
func pieces(s string) []string {
	parts := strings.SplitAfter(s, "\n\n")
	return parts[:len(parts)-1]
}

// TestResumeAnywhere: for every view, and every place, what a reader saw plus what it gets equals the whole.
func TestResumeAnywhere(t *testing.T) {
	words := []string{"Once", " upon", " a", " time", "\n\n", "\"q\""}
	for name, in := range map[string]struct {
		stream string
		proto  Protocol
	}{"chat": {chatStream(words...), Chat}, "execute": {execStream(0, words...), Execute}} {
		j := NewMemoryJournal(MemoryOptions{})
		s := open(t, j, "j1", StreamOptions{})
		run(t, s, in.stream, CopyOptions{Protocol: in.proto})
		replayed, err := NewHub(j, Options{}).Replay(t.Context(), "j1")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []Format{FormatNative, FormatChat, FormatCompletion} {
			v := View{Format: f, IDs: true, IncludeUsage: true}
			whole := pieces(serve(t, s, v))
			for i, e := range whole {
				if want := fmt.Sprintf("id: %d\n", i+1); !strings.HasPrefix(e, want) {
					t.Errorf("%s: event %d is %q", name, i+1, e)
				}
				v.LastEventID = strconv.Itoa(i + 1)
				for _, from := range []*Stream{s, replayed} {
					if diff := cmp.Diff(strings.Join(whole[i+1:], ""), serve(t, from, v)); diff != "" {
						t.Errorf("%s, format %d, after %d:\n%s", name, f, i+1, diff)
					}
				}
			}
		}
	}
}

func TestMalformedLastEventID(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	for _, id := range []string{"-1", "x", "1 ", "0x1", "99999999999999999999", "1;2"} {
		w := httptest.NewRecorder()
		err := s.Serve(t.Context(), w, View{LastEventID: id})
		var e *Error
		if !errors.As(err, &e) || e.Code() != "INVALID_REQUEST" || w.Body.Len() > 0 {
			t.Errorf("%q: %v %q", id, err, w.Body)
		}
	}
}

// TestResumeDiverged: after a power cut the journal ends earlier than what readers saw.
func TestResumeDiverged(t *testing.T) {
	ctx := t.Context()
	fill := func(j Journal, recovered bool, words ...string) *Stream {
		s := open(t, j, "j1", StreamOptions{Detached: true, Recovered: recovered})
		if err := s.Started(ctx, "w", "n", 1); err != nil {
			t.Fatal(err)
		}
		s.Copy(ctx, body(strings.TrimSuffix(execStream(0, words...), "x")), CopyOptions{Protocol: Execute})
		return s
	}
	j := NewMemoryJournal(MemoryOptions{})
	fill(j, false, "a", "b") // ids 1 to 3 survive; the reader had seen up to 5
	s := fill(j, true, "C", "D", "E", "F")
	if err := s.End(ctx, Result{}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []Format{FormatNative, FormatChat} {
		code := map[Format]string{FormatNative: `{"code":"RESUME_DIVERGED"`, FormatChat: `"code":"resume_diverged"`}[f]
		for _, id := range []string{"5", "6", "99"} {
			got := serve(t, s, View{Format: f, IDs: true, LastEventID: id})
			if !strings.Contains(got, code) || strings.Contains(got, "[DONE]") || strings.Contains(got, `"D"`) {
				t.Errorf("format %d after %s: %s", f, id, got)
			}
		}
		// what the journal still held at the restart is vouched for
		if got := serve(t, s, View{Format: f, IDs: true, LastEventID: "3"}); strings.Contains(got, "iverged") || strings.Contains(got, "DIVERGED") || !strings.Contains(got, "C") {
			t.Errorf("format %d after 3: %s", f, got)
		}
	}
	// a reader that was served the new ids may resume after them
	serve(t, s, View{IDs: true})
	if got := serve(t, s, View{IDs: true, LastEventID: "6"}); strings.Contains(got, "DIVERGED") {
		t.Errorf("after a delivery: %s", got)
	}
	// a live stream that was never recovered: an id that was never sent
	live := open(t, nil, "j2", StreamOptions{})
	if got := serve(t, live, View{IDs: true, LastEventID: "7"}); !strings.Contains(got, "RESUME_DIVERGED") {
		t.Errorf("live: %s", got)
	}
}

func TestReplayOfNothingAndOfUnfinished(t *testing.T) {
	j := NewMemoryJournal(MemoryOptions{})
	h := NewHub(j, Options{})
	_, err := h.Replay(t.Context(), "nobody")
	var e *Error
	if !errors.As(err, &e) || e.Code() != "JOB_NOT_FOUND" || !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	s := open(t, j, "j1", StreamOptions{})
	s.Copy(t.Context(), body(chatStream("a")), CopyOptions{Protocol: Chat})
	r, err := h.Replay(t.Context(), "j1")
	if err != nil {
		t.Fatal(err)
	}
	if got := serve(t, r, View{Format: FormatChat, Eager: true}); strings.Contains(got, "[DONE]") || !strings.Contains(got, `"code":"internal"`) {
		t.Errorf("got %s", got)
	}
	if err := r.End(t.Context(), Result{}); !errors.Is(err, ErrEnded) {
		t.Errorf("a replay was written to: %v", err)
	}
}

func TestHubLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(nil, Options{})
		s, err := h.Open(t.Context(), "j1", StreamOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Open(t.Context(), "j1", StreamOptions{}); !errors.Is(err, ErrExists) {
			t.Fatal(err)
		}
		r := s.join(false)
		if err := s.Fail(t.Context(), "CANCELLED", "bye"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if _, ok := h.Lookup("j1"); !ok {
			t.Error("forgotten while a reader was there")
		}
		s.leave(r)
		<-time.After(3 * time.Second)
		if h.Len() != 0 {
			t.Error("still in memory after the grace")
		}
		again, err := h.Replay(t.Context(), "j1")
		if err != nil {
			t.Fatal(err)
		}
		if ended, _, err := again.Ended(); !ended || err == nil || err.(*Error).Code() != "CANCELLED" {
			t.Errorf("ended %v %v", ended, err)
		}
		rec, err := h.Open(t.Context(), "j1", StreamOptions{Recovered: true})
		if err != nil {
			t.Fatal(err)
		}
		if ended, _, _ := rec.Ended(); !ended {
			t.Error("a recovered stream forgot its terminal frame")
		}
		<-time.After(3 * time.Second)
	})
}

func TestHubCloseEndsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := NewMemoryJournal(MemoryOptions{})
		h := NewHub(j, Options{})
		var wg sync.WaitGroup
		for _, detached := range []bool{true, false} {
			s, err := h.Open(t.Context(), fmt.Sprint(detached), StreamOptions{Detached: detached})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Started(t.Context(), "w", "n", 1); err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				w := httptest.NewRecorder()
				if err := s.Serve(t.Context(), w, View{IDs: true}); err != nil || !strings.Contains(w.Body.String(), "SHUTTING_DOWN") {
					t.Errorf("detached %v: %v %s", detached, err, w.Body)
				}
			})
		}
		synctest.Wait()
		if err := h.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		terminal := func(job string) (n int) {
			j.Read(t.Context(), job, 0, func(_ uint64, m uint32, _ []byte) error {
				if Meta(m).Terminal() {
					n++
				}
				return nil
			})
			return n
		}
		if terminal("true") != 0 || terminal("false") != 1 {
			t.Error("a detached job must stay resumable, an attached one must not")
		}
		<-time.After(3 * time.Second)
	})
}

// TestFanOut: readers that come and go at random, in all views, while a long stream runs; each that stays to the end
// has the same bytes, and those that resume lose and repeat nothing.
func TestFanOut(t *testing.T) {
	n := 3000
	if long() {
		n = 30000
	}
	for _, detached := range []bool{false, true} {
		words := make([]string, n)
		for i := range words {
			words[i] = fmt.Sprintf(" w%d", i)
		}
		h := NewHub(nil, Options{Window: 16 << 10})
		s, err := h.Open(t.Context(), "j", StreamOptions{Detached: detached, Model: "m", Created: time.Unix(1, 0)})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		all := map[Format]map[string]int{}
		for i := range 12 {
			f := []Format{FormatNative, FormatChat, FormatCompletion}[i%3]
			wg.Go(func() {
				got := follow(t, s, f, rand.New(rand.NewPCG(uint64(i), 1)))
				mu.Lock()
				defer mu.Unlock()
				if all[f] == nil {
					all[f] = map[string]int{}
				}
				all[f][got]++
			})
		}
		if err := s.Started(t.Context(), "w", "n", 1); err != nil {
			t.Fatal(err)
		}
		out, err := s.Copy(t.Context(), io.NopCloser(&splitReader{in: chatStream(words...)}), CopyOptions{Protocol: Chat, StripUsage: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.End(t.Context(), Result{Finish: out.Finish}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for f, versions := range all {
			if len(versions) != 1 {
				t.Errorf("detached %v: format %d was seen in %d versions", detached, f, len(versions))
			}
			for got := range versions {
				if !strings.Contains(got, words[n-1]) {
					t.Errorf("format %d: the end is missing", f)
				}
			}
		}
	}
}

// cutter is a ResponseWriter whose connection breaks after some bytes, in the middle of an event if it comes to that.
type cutter struct {
	httptest.ResponseRecorder
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.left < len(b) {
		c.ResponseRecorder.Write(b[:c.left])
		c.left = 0
		return 0, net.ErrClosed
	}
	c.left -= len(b)
	return c.ResponseRecorder.Write(b)
}

// follow reads a stream to its end over connections that break at random places.
func follow(t *testing.T, s *Stream, f Format, r *rand.Rand) string {
	var all strings.Builder
	last := ""
	for {
		w := &cutter{ResponseRecorder: *httptest.NewRecorder(), left: r.IntN(40000)}
		if r.IntN(4) == 0 {
			w.left = 1 << 30
		}
		err := s.Serve(t.Context(), w, View{Format: f, IDs: true, LastEventID: last})
		whole := pieces(w.Body.String()) // a client drops the event that was cut
		for _, e := range whole {
			if id, ok := strings.CutPrefix(strings.SplitN(e, "\n", 2)[0], "id: "); ok {
				last = id
				all.WriteString(e)
			}
		}
		if err == nil {
			return all.String()
		}
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("follow: %v", err)
			return ""
		}
	}
}

// TestFault19SlowReaders: many readers that read nothing; they are cut at their deadline, memory stays bounded, and a
// quick reader notices nothing.
func TestFault19SlowReaders(t *testing.T) {
	readers := 40
	if long() {
		readers = 500
	}
	var cut sync.WaitGroup
	cut.Add(readers)
	h := NewHub(nil, Options{HoldHeaders: time.Millisecond, WriteTimeout: 300 * time.Millisecond, Ping: 50 * time.Millisecond, OnCut: func(string) { cut.Done() }})
	s, err := h.Open(t.Context(), "j", StreamOptions{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, readers+1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served <- s.Serve(r.Context(), w, View{Format: FormatChat, IDs: true})
	}))
	srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		c.(*net.TCPConn).SetWriteBuffer(4 << 10)
		return ctx
	}
	srv.Start()
	defer srv.Close()
	for range readers {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	words := make([]string, 30000)
	for i := range words {
		words[i] = " word"
	}
	go func() {
		for s.Readers() < readers+1 {
			<-time.After(time.Millisecond)
		}
		out, err := s.Copy(context.Background(), body(chatStream(words...)), CopyOptions{Protocol: Chat})
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		if size := cap(s.win.data); size > h.o.Window {
			t.Errorf("the window holds %d bytes", size)
		}
		s.mu.Unlock()
		s.End(context.Background(), Result{Finish: out.Finish})
	}()
	n, done := 0, false
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		switch line := lines.Text(); {
		case line == "data: [DONE]":
			done = true
		case strings.HasPrefix(line, "data: "):
			n++
		}
	}
	if !done || n != len(words)+2 {
		t.Errorf("the quick reader got %d events, done %v", n, done)
	}
	cut.Wait()
	slow := 0
	for range readers + 1 {
		if err := <-served; errors.Is(err, ErrSlowReader) {
			slow++
		}
	}
	if slow != readers {
		t.Errorf("%d of %d slow readers were cut", slow, readers)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestQueuedAndMetricsAreEphemeral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil, "j1", StreamOptions{})
		w := httptest.NewRecorder()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, w, View{IDs: true}) }()
		synctest.Wait()
		for i := 9; i > 2; i-- { // nine changes in less than a second: the first and the last are seen
			s.Queued(i)
			synctest.Wait()
		}
		<-time.After(2 * time.Second)
		s.Metrics(Metrics{TokensPerSecond: 12.5, QueueTime: time.Second, FirstToken: 50 * time.Millisecond})
		<-time.After(2 * time.Second)
		if err := s.Started(ctx, "w", "n", 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		<-done
		want := "event: queued\ndata: {\"job_id\":\"j1\",\"queue_position\":9}\n\nevent: queued\ndata: {\"job_id\":\"j1\",\"queue_position\":3}\n\n" +
			"event: metrics\ndata: {\"tokens_per_sec\":12.50,\"queue_ms\":1000,\"ttft_ms\":50}\n\nid: 1\nevent: started\n"
		if got := w.Body.String(); !strings.HasPrefix(got, want) {
			t.Errorf("got %s", got)
		}
		late := httptest.NewRecorder()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.Serve(ctx, late, View{IDs: true})
		if strings.Contains(late.Body.String(), "queued") {
			t.Errorf("a late reader is told of a queue: %s", late.Body)
		}
	})
}
