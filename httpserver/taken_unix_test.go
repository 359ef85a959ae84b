//go:build unix

package httpserver_test

import (
	"bufio"
	stdcontext "context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

func TestTakenAnswerKeepsItsConnection(t *testing.T) {
	each(t, every, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		const rounds = 4
		long := strings.Repeat("long ", 20000)
		for i := range rounds {
			h := r.job()
			resp, reused := r.post(streamRequest)
			r.taken(h)
			if reused != (i > 0) {
				t.Errorf("round %d: the connection was used before: %v", i, reused)
			}
			var read strings.Builder
			br := bufio.NewReader(resp.Body)
			for _, want := range []string{"data: first\n", "\n"} { // what was sent is there before more is said
				line, err := br.ReadString('\n')
				if err != nil || line != want {
					t.Fatalf("%q %v", line, err)
				}
			}
			want := ""
			rest := make(chan error, 1)
			go func() {
				_, err := io.Copy(&read, br)
				rest <- err
			}()
			for k := range 5 {
				s := fmt.Sprintf("data: %d\n\n", k)
				if k == 3 {
					s = "data: " + long + "\n\n"
				}
				h.say <- s
				want += s
			}
			close(h.say)
			if err := within(t, rest, "the answer's end"); err != nil || read.String() != want {
				t.Fatalf("round %d: %d bytes of %d, %v", i, read.Len(), len(want), err)
			}
			if err := within(t, h.ended, "the end"); err != nil {
				t.Error(err)
			}
			if resp.Header.Get("X-Request-Id") == "" || resp.ContentLength != -1 || resp.Close {
				t.Errorf("header %v", resp.Header)
			}
		}
		if resp, err := r.client.Get(r.url + "/health"); err != nil || resp.StatusCode != 200 {
			t.Errorf("another request on it: %v", err)
		} else {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		if r.dials != 1 {
			t.Errorf("%d connections", r.dials)
		}
		want := strings.Repeat("POST /v1/chat/completions 200, ", rounds) + "GET /health 200"
		if got := strings.Join(r.observes(rounds+1), ", "); got != want {
			t.Errorf("observed %s", got)
		}
	})
}

// raw sends bytes on a connection of its own.
func (r *takenRig) raw(s string) (net.Conn, *bufio.Reader) {
	r.t.Helper()
	c, err := r.dial()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, s); err != nil {
		r.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// answer reads a whole one.
func answer(t *testing.T, br *bufio.Reader) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	return resp, string(b)
}

func request(proto string, header ...string) string {
	return fmt.Sprintf("POST /v1/chat/completions %s\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
		proto, len(streamRequest), strings.Join(header, ""), streamRequest)
}

const health = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"

// TestPipelinedRequests: one that comes while the answer is under way is answered after it; one that came with the first
// is not, but the connection ends well, so that the client knows.
func TestPipelinedRequests(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		h := r.job()
		c, br := r.raw(request("HTTP/1.1"))
		r.taken(h)
		if _, err := io.WriteString(c, health); err != nil {
			t.Fatal(err)
		}
		h.say <- "data: more\n\n"
		close(h.say)
		if _, got := answer(t, br); got != "data: first\n\ndata: more\n\n" {
			t.Errorf("%q", got)
		}
		if resp, _ := answer(t, br); resp.StatusCode != http.StatusOK {
			t.Errorf("the pipelined request: %s", resp.Status)
		}

		h = r.job()
		_, br = r.raw(request("HTTP/1.1") + health)
		taken := within(t, h.ready, "the handover")
		close(h.say)
		if _, got := answer(t, br); got != "data: first\n\n" {
			t.Errorf("%q", got)
		}
		if resp, err := http.ReadResponse(br, nil); err == nil {
			if resp.StatusCode != http.StatusOK {
				t.Errorf("the pipelined request: %s", resp.Status)
			}
		} else if taken == nil || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the pipelined request: %v", err)
		}
	})
}

func TestWhatIsNotKeptOrNotTaken(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		for name, tc := range map[string]struct {
			request string
			taken   bool
		}{
			"Connection: close": {request("HTTP/1.1", "Connection: close\r\n"), true},
			"HTTP/1.0":          {request("HTTP/1.0"), false},
		} {
			t.Run(name, func(t *testing.T) {
				r := newTakenRig(t, over, httpserver.Options{})
				h := r.job()
				_, br := r.raw(tc.request)
				if got := within(t, h.ready, "the handover") != nil; got != tc.taken {
					t.Errorf("taken: %v", got)
				}
				h.say <- "data: more\n\n"
				close(h.say)
				if resp, got := answer(t, br); got != "data: first\n\ndata: more\n\n" || !resp.Close {
					t.Errorf("%q, close %v", got, resp.Close)
				}
				if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection stays: %v", err)
				}
				if got := r.observes(1); len(got) != 1 {
					t.Errorf("observed %v", got)
				}
			})
		}
	})
}

// TestAnotherServersConnection is not taken; a stream of HTTP/2 is, since its connection is not.
func TestAnotherServersConnection(t *testing.T) {
	for name, c := range map[string]struct {
		start func(*httptest.Server)
		taken bool
	}{
		"HTTP/2": {func(ts *httptest.Server) { ts.EnableHTTP2 = true; ts.StartTLS() }, true},
		"TLS":    {(*httptest.Server).StartTLS, false},
		"plain":  {(*httptest.Server).Start, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHandover()
			f := &httpservertest.Submitter{OnServe: func(_ stdcontext.Context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
				return h.serve(w)
			}}
			s, err := httpserver.New(f, httpservertest.Auth{}, httpserver.Options{Poller: newPeeker(t)})
			if err != nil {
				t.Fatal(err)
			}
			ts := httptest.NewUnstartedServer(s.Handler())
			c.start(ts)
			defer ts.Close()
			resp, err := ts.Client().Post(ts.URL+"/v1/chat/completions", "application/json", strings.NewReader(streamRequest))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if taken := within(t, h.ready, "the handover") != nil; taken != c.taken {
				t.Errorf("taken: %v", taken)
			}
			close(h.say)
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "data: first\n\n" {
				t.Errorf("%q %v", b, err)
			}
		})
	}
}

func TestTakenClientLeaves(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		h := r.job()
		c, _ := r.raw(request("HTTP/1.1"))
		r.taken(h)
		if s, ok := c.(*tls.Conn); ok { // who says goodbye first leaves something to read, and peeker would not see the end behind it
			c = s.NetConn()
		}
		_ = c.Close()
		if err := within(t, h.ended, "the end"); !errors.Is(err, stdcontext.Canceled) {
			t.Errorf("%v", err)
		}
		if got := r.observes(1); len(got) != 1 {
			t.Errorf("observed %v", got)
		}
	})
}

// TestTakenSlowClient: what does not fit is left for Drain, which gives up at its deadline or when it is cut; the client
// can't take such an answer for whole.
func TestTakenSlowClient(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		for _, cut := range []bool{false, true} {
			r := newTakenRig(t, over, httpserver.Options{})
			h := r.job()
			h.hands = true
			_, br := r.raw(request("HTTP/1.1"))
			c := r.taken(h)
			piece, sent := []byte(strings.Repeat("x", 1<<20)), 0
			for {
				all, err := c.Send(piece)
				if err != nil {
					t.Fatal(err)
				}
				if !all {
					break
				}
				if sent++; sent > 200 {
					t.Fatal("the system takes everything")
				}
			}
			deadline := time.Now().Add(50 * time.Millisecond)
			if cut {
				deadline = time.Now().Add(patience)
				time.AfterFunc(20*time.Millisecond, c.Cut)
			}
			err := c.Drain(deadline)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("cut %v: %v", cut, err)
			}
			c.Finish(err)
			resp, rerr := http.ReadResponse(br, nil)
			if rerr != nil {
				t.Fatal(rerr)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err == nil {
				t.Errorf("cut %v: %d bytes are called whole", cut, n)
			}
		}
	})
}

func TestDrainWaitsForTakenAnswers(t *testing.T) {
	each(t, every, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		h := r.job()
		resp, _ := r.post(streamRequest)
		r.taken(h)
		drained := make(chan error, 1)
		go func() { drained <- r.s.Drain(stdcontext.Background()) }()
		for late := time.Now().Add(patience); ; <-time.After(time.Millisecond) { // until nobody is let in
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				break
			}
			_ = c.Close()
			if time.Now().After(late) {
				t.Fatal("the listener is open")
			}
		}
		h.say <- "data: more\n\n"
		select {
		case err := <-drained:
			t.Fatalf("Drain did not wait: %v", err)
		default:
		}
		close(h.say)
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "data: first\n\ndata: more\n\n" {
			t.Errorf("%q %v", b, err)
		}
		if err := within(t, drained, "Drain"); err != nil {
			t.Error(err)
		}
	})
}

func TestDrainCutsTakenAnswersAtItsDeadline(t *testing.T) {
	each(t, every, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		h := r.job()
		resp, _ := r.post(streamRequest)
		r.taken(h)
		ctx, cancel := stdcontext.WithTimeout(stdcontext.Background(), 50*time.Millisecond)
		defer cancel()
		if err := r.s.Drain(ctx); !errors.Is(err, stdcontext.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if err := within(t, h.ended, "the end"); !errors.Is(err, stdcontext.Canceled) {
			t.Errorf("%v", err)
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%q is called whole", b)
		}
	})
}

// kept is a connection between two requests, after a stream that was taken over.
func (r *takenRig) kept() (net.Conn, *bufio.Reader) {
	r.t.Helper()
	h := r.job()
	c, br := r.raw(request("HTTP/1.1"))
	r.taken(h)
	close(h.say)
	if _, got := answer(r.t, br); got != "data: first\n\n" {
		r.t.Errorf("%q", got)
	}
	within(r.t, h.ended, "the end")
	return c, br
}

func TestKeptConnectionsEnd(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		t.Run("idle", func(t *testing.T) {
			r := newTakenRig(t, over, httpserver.Options{IdleTimeout: 50 * time.Millisecond})
			_, br := r.kept()
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
		})
		t.Run("drain", func(t *testing.T) {
			r := newTakenRig(t, over, httpserver.Options{})
			_, br := r.kept()
			if err := r.s.Drain(stdcontext.Background()); err != nil {
				t.Error(err)
			}
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
		})
		t.Run("the client's leaving", func(t *testing.T) {
			r := newTakenRig(t, over, httpserver.Options{})
			c, _ := r.kept()
			_ = c.Close() // the poller has nothing left at the end: see newPeeker
		})
	})
}

// TestTakenBodyCountsUntilTheEnd: the memory of a large request is given back once, when the taken answer has ended.
func TestTakenBodyCountsUntilTheEnd(t *testing.T) {
	each(t, every, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{BodyMemory: 1 << 20})
		large := strings.Replace(streamRequest, "hi", strings.Repeat("hi ", 200<<10), 1)
		for range 4 {
			h := r.job()
			resp, _ := r.post(large)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s", resp.Status)
			}
			r.taken(h)
			if other, _ := r.post(large); other.StatusCode != http.StatusServiceUnavailable && other.StatusCode != http.StatusTooManyRequests {
				t.Fatalf("a second one at the same time: %s", other.Status)
			}
			close(h.say)
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatal(err)
			}
			within(t, h.ended, "the end")
		}
	})
}
