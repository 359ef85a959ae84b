package httpserver

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"
)

// The stream of an HTTP/2 request can't be taken from net/http, and lasts until its handler returns. So the handler does
// nothing but wait for the answer's end, on a stack that has never grown, and the request is served on a goroutine beside it,
// which can go once the answer was taken over. Writing to such a stream always means to wait for the connection it shares
// with others: a goroutine comes for each piece.

// apart serves a request on a goroutine of its own.
func (s *Server) apart(rw http.ResponseWriter, r *http.Request) {
	over := make(chan error, 1)
	go s.beside(rw, r, over)
	if <-over != nil {
		panic(http.ErrAbortHandler)
	}
}

// beside tells over how the answer ended, unless it was taken over: then Finish does.
func (s *Server) beside(rw http.ResponseWriter, r *http.Request, over chan error) {
	taken := false
	defer func() {
		var err error
		if recover() != nil { // handle lets out http.ErrAbortHandler alone
			err = http.ErrAbortHandler
		} else if taken {
			return
		}
		select {
		case over <- err:
		default: // Finish was first
		}
	}()
	taken = s.handle(rw, r, over)
}

// shared is an answer that was taken over on a connection with others, HTTP/2's.
type shared struct {
	rw    http.ResponseWriter
	rc    *http.ResponseController
	over  chan error
	ctx   context.Context // ends when the client leaves
	still func() bool     // ends the watch for that
	timer *time.Timer     // cuts the stream when a client takes too long; nil as long as nothing was written
	box   *[]byte         // what Send was given

	mu    sync.Mutex
	ended bool // net/http may have forgotten the stream
}

func newShared(rw http.ResponseWriter, ctx context.Context, over chan error) *shared {
	h := &shared{rw: rw, rc: http.NewResponseController(rw), over: over, ctx: ctx}
	_ = h.rc.SetWriteDeadline(time.Time{}) // one that passes in silence would end the stream
	return h
}

// keep is Send's part: all of it is left to Drain.
func (h *shared) keep(p []byte) {
	h.box, _ = chunks.Get().(*[]byte)
	*h.box = append((*h.box)[:0], p...)
}

// drain writes what was kept. It is called before anything else may be kept.
func (h *shared) drain(deadline time.Time) error {
	box := h.box
	if box == nil {
		return nil
	}
	h.box = nil
	if left := time.Until(deadline); h.timer == nil {
		h.timer = time.AfterFunc(left, h.cut)
	} else {
		h.timer.Reset(left)
	}
	_, err := h.rw.Write(*box)
	if err == nil {
		err = h.rc.Flush()
	}
	late := !h.timer.Stop()
	if cap(*box) <= 64<<10 {
		chunks.Put(box)
	}
	switch {
	case err == nil || h.ctx.Err() == nil && !late:
		return err
	case late:
		return os.ErrDeadlineExceeded
	}
	return context.Cause(h.ctx)
}

// cut resets the stream, so that a write that is under way fails.
func (h *shared) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended {
		_ = h.rc.SetWriteDeadline(time.Unix(1, 0))
	}
}

// finish lets the handler return.
func (h *shared) finish(err error) {
	h.mu.Lock()
	h.ended = true
	h.mu.Unlock()
	select {
	case h.over <- err:
	default:
	}
}
