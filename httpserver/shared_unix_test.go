//go:build unix

package httpserver_test

import (
	stdcontext "context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// TestSharedClientLeaves: one stream of an HTTP/2 connection ends, the others go on.
func TestSharedClientLeaves(t *testing.T) {
	r := newTakenRig(t, "HTTP/2", httpserver.Options{})
	leaves := r.job()
	first, _ := r.post(streamRequest)
	r.taken(leaves)
	stays := r.job()
	second, _ := r.post(streamRequest)
	r.taken(stays)
	_ = first.Body.Close()
	if err := within(t, leaves.ended, "the end"); !errors.Is(err, stdcontext.Canceled) {
		t.Errorf("%v", err)
	}
	stays.say <- "data: more\n\n"
	close(stays.say)
	if b, err := io.ReadAll(second.Body); err != nil || string(b) != "data: first\n\ndata: more\n\n" {
		t.Errorf("%q %v", b, err)
	}
	if r.dials != 1 {
		t.Errorf("%d connections", r.dials)
	}
	if got := r.observes(2); len(got) != 2 {
		t.Errorf("observed %v", got)
	}
}

// TestSharedSlowClient: a stream whose client does not read ends at its deadline or when it is cut, and another on the
// same connection goes on.
func TestSharedSlowClient(t *testing.T) {
	for _, cut := range []bool{false, true} {
		r := newTakenRig(t, "HTTP/2", httpserver.Options{})
		h := r.job()
		h.hands = true
		resp, _ := r.post(streamRequest)
		c := r.taken(h)
		piece, deadline := []byte(strings.Repeat("x", 1<<20)), time.Now().Add(time.Second)
		if cut {
			deadline = time.Now().Add(patience)
			time.AfterFunc(time.Second, c.Cut)
		}
		var err error
		for sent := 0; err == nil; sent++ {
			if sent > 200 {
				t.Fatal("the client takes everything unread")
			}
			if all, err := c.Send(piece); all || err != nil {
				t.Fatalf("%v %v", all, err)
			}
			err = c.Drain(deadline)
		}
		if want := map[bool]error{false: os.ErrDeadlineExceeded, true: stdcontext.Canceled}[cut]; !errors.Is(err, want) {
			t.Errorf("cut %v: %v", cut, err)
		}
		other := r.job()
		second, _ := r.post(streamRequest)
		r.taken(other)
		close(other.say)
		if b, err := io.ReadAll(second.Body); err != nil || string(b) != "data: first\n\n" {
			t.Errorf("the other stream: %q %v", b, err)
		}
		c.Finish(err)
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("cut %v: %d bytes are called whole", cut, n)
		}
	}
}

// TestSharedEnds: what comes after the end does no harm, and an answer that was cut by its job is not whole.
func TestSharedEnds(t *testing.T) {
	for _, end := range []error{nil, errors.New("the worker is lost")} {
		r := newTakenRig(t, "HTTP/2", httpserver.Options{})
		h := r.job()
		h.hands = true
		resp, _ := r.post(streamRequest)
		c := r.taken(h)
		c.Finish(end)
		c.Cut()
		b, err := io.ReadAll(resp.Body)
		if (err == nil) != (end == nil) || string(b) != "data: first\n\n" {
			t.Errorf("%v: %q %v", end, b, err)
		}
		if err := c.Drain(time.Now().Add(patience)); !errors.Is(err, stdcontext.Canceled) {
			t.Errorf("written after the end: %v", err)
		}
	}
}
