package httpserver_test

import (
	"bufio"
	stdcontext "context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// pipes is a listener without a network, so that its time can be a bubble's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	mine, theirs := net.Pipe()
	p.conns <- theirs
	return mine
}

// The times of the bubbles below: a body has a minute, an answer two, and a job takes an hour.
const bodyTime, writeTime, jobTime = time.Minute, 2 * time.Minute, time.Hour

// bubbled runs fn against a server that serves in a bubble.
func bubbled(t *testing.T, f *httpservertest.Submitter, o httpserver.Options, fn func(t *testing.T, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		o.BodyTimeout, o.WriteTimeout = bodyTime, writeTime
		s, err := httpserver.New(f, httpservertest.Auth{Strict: true}, o)
		if err != nil {
			t.Fatal(err)
		}
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, cancel := stdcontext.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, l) }()
		fn(t, l.dial)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func chatRequest(key, body string, length int) string {
	return fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", key, length, body)
}

// hear reads one whole answer, within a day.
func hear(t *testing.T, c net.Conn, r *bufio.Reader) (*http.Response, string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(24 * time.Hour))
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// TestBodiesThatStop: a body that does not come holds its connection for the time of a body and no longer, whether somebody
// waits for it or the request was refused without it.
func TestBodiesThatStop(t *testing.T) {
	for _, c := range []struct {
		key  string
		want int
	}{{"infer", 408}, {"nobody", 401}} {
		t.Run(c.key, func(t *testing.T) {
			bubbled(t, &httpservertest.Submitter{}, httpserver.Options{}, func(t *testing.T, dial func() net.Conn) {
				conn, began := dial(), time.Now()
				_, _ = io.WriteString(conn, chatRequest(c.key, `{"mod`, 100))
				r := bufio.NewReader(conn)
				if resp, body := hear(t, conn, r); resp.StatusCode != c.want || !resp.Close {
					t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
				}
				if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("the connection is kept: %v", err)
				}
				if took := time.Since(began); took < bodyTime || took > 2*bodyTime {
					t.Errorf("after %s", took)
				}
			})
		})
	}
}

// TestLongAnswers: what takes longer than a body or a part of an answer may take is answered all the same, in one piece or as
// a stream, with a body or without, and the connection goes on.
func TestLongAnswers(t *testing.T) {
	wait := func(ctx context, n int) error {
		select {
		case <-time.After(jobTime / time.Duration(n)):
			return nil
		case <-ctx.Done():
			return stdcontext.Cause(ctx)
		}
	}
	f := &httpservertest.Submitter{
		OnResult: func(ctx context, _ *httpserver.Request, v httpserver.View) (*httpserver.Result, error) {
			return httpservertest.Whole(v, "j"), wait(ctx, 1)
		},
		OnServe: func(ctx context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
			for range 5 {
				if err := wait(ctx, 5); err != nil {
					return err
				}
				_, _ = io.WriteString(w, "data: {}\n\n")
				_ = http.NewResponseController(w).Flush()
			}
			return nil
		},
	}
	o := httpserver.Options{Metrics: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait(r.Context(), 1) == nil {
			_, _ = io.WriteString(w, "up 1\n")
		}
	})}
	bubbled(t, f, o, func(t *testing.T, dial func() net.Conn) {
		conn := dial()
		r := bufio.NewReader(conn)
		stream := strings.Replace(chatBody, "{", `{"stream":true,`, 1)
		for range 2 {
			for _, c := range []struct{ ask, want string }{{chatRequest("infer", chatBody, len(chatBody)), "Once upon a time"},
				{chatRequest("infer", stream, len(stream)), strings.Repeat("data: {}\n\n", 5)},
				{"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer operate\r\n\r\n", "up 1"}} {
				_, _ = io.WriteString(conn, c.ask)
				if resp, body := hear(t, conn, r); resp.StatusCode != 200 || !strings.Contains(body, c.want) {
					t.Fatalf("%d %s", resp.StatusCode, body)
				}
			}
		}
		_ = conn.Close()
	})
}

// TestNobodyReads: an answer that nobody takes is cut, be it the first or one that came late.
func TestNobodyReads(t *testing.T) {
	for name, wait := range map[string]time.Duration{"at once": 0, "after a while": writeTime / 8, "late": jobTime} {
		t.Run(name, func(t *testing.T) {
			f := &httpservertest.Submitter{OnResult: func(ctx context, _ *httpserver.Request, v httpserver.View) (*httpserver.Result, error) {
				select {
				case <-time.After(wait):
				case <-ctx.Done():
				}
				return httpservertest.Whole(v, "j"), nil
			}}
			bubbled(t, f, httpserver.Options{}, func(t *testing.T, dial func() net.Conn) {
				conn := dial()
				_, _ = io.WriteString(conn, chatRequest("infer", chatBody, len(chatBody)))
				<-time.After(wait + writeTime/2)
				synctest.Wait()
				_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := io.WriteString(conn, "GET "); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("cut before its time: %v", err)
				}
				<-time.After(writeTime)
				synctest.Wait()
				_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := io.WriteString(conn, "GET "); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("not cut: %v", err)
				}
			})
		})
	}
}
