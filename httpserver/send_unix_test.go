//go:build unix

package httpserver_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// begin sends the headers and a first event, as Send asks for.
func begin(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	if _, err := io.WriteString(w, "data: first\n\n"); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// What Send sends, and what Write does between, is one answer, and the connection carries the next one.
func TestSendIsWriteAndFlush(t *testing.T) {
	each(t, every, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		var want strings.Builder
		want.WriteString("data: first\n\n")
		pieces := []string{"x", strings.Repeat("y", 300), strings.Repeat("z", 5000), strings.Repeat("w", 300_000)}
		for _, p := range pieces {
			want.WriteString(p + "|" + p)
		}
		want.WriteString("end")
		for round := range 3 {
			h := r.job()
			h.write = func(w http.ResponseWriter) error {
				s := w.(httpserver.Sender)
				if sent, err := s.Send([]byte("too early")); sent || err != nil {
					t.Errorf("before the headers: %v %v", sent, err)
				}
				if err := begin(w); err != nil {
					return err
				}
				for _, p := range pieces {
					sent, err := s.Send([]byte(p))
					if err != nil {
						return err
					}
					if sent != (over != "HTTP/2") {
						t.Errorf("sent: %v", sent)
					}
					if !sent {
						_, _ = io.WriteString(w, p)
					}
					_, _ = io.WriteString(w, "|")
					if sent, err := s.Send([]byte("before what was written")); sent || err != nil {
						t.Errorf("with something unflushed: %v %v", sent, err)
					}
					_, _ = io.WriteString(w, p)
					if err := http.NewResponseController(w).Flush(); err != nil {
						return err
					}
				}
				_, err := io.WriteString(w, "end")
				return err
			}
			resp, reused := r.post(streamRequest)
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != want.String() {
				t.Fatalf("%d bytes of %d, %v", len(b), want.Len(), err)
			}
			if err := within(t, h.ended, "the end"); err != nil || reused != (round > 0) {
				t.Errorf("round %d: %v, reused %v", round, err, reused)
			}
		}
	})
}

// Where net/http would not send chunks nothing is sent past it.
func TestWhereNothingIsSent(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		for name, tc := range map[string]struct {
			request string
			length  string
		}{
			"HTTP/1.0":       {request("HTTP/1.0"), ""},
			"Content-Length": {request("HTTP/1.1", "Connection: close\r\n"), "17"},
		} {
			t.Run(name, func(t *testing.T) {
				r := newTakenRig(t, over, httpserver.Options{})
				h := r.job()
				h.write = func(w http.ResponseWriter) error {
					if tc.length != "" {
						w.Header().Set("Content-Length", tc.length)
					}
					if err := begin(w); err != nil {
						return err
					}
					if sent, err := w.(httpserver.Sender).Send([]byte("past")); sent || err != nil {
						t.Errorf("sent %v %v", sent, err)
					}
					_, err := io.WriteString(w, "more")
					return err
				}
				_, br := r.raw(tc.request)
				if _, got := answer(t, br); got != "data: first\n\nmore" {
					t.Errorf("%q", got)
				}
				if err := within(t, h.ended, "the end"); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// Send keeps to the deadline of the answer, and a client that was too slow can't take what it has for whole.
func TestSendToASlowClient(t *testing.T) {
	each(t, http1, func(t *testing.T, over string) {
		r := newTakenRig(t, over, httpserver.Options{})
		h := r.job()
		h.write = func(w http.ResponseWriter) error {
			if err := begin(w); err != nil {
				return err
			}
			piece := []byte(strings.Repeat("x", 1<<20))
			for range 200 {
				if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
					return err
				}
				if sent, err := w.(httpserver.Sender).Send(piece); !sent || err != nil {
					return err
				}
			}
			return errors.New("the system takes everything")
		}
		_, br := r.raw(request("HTTP/1.1"))
		if err := within(t, h.ended, "the deadline"); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("%d bytes are called whole", n)
		}
	})
}
