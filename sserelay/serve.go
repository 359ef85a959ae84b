package sserelay

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"
)

const maxBatch = 32 << 10

// server is one run of Serve.
type server struct {
	loan
	taken
	s          *Stream
	v          View
	o          *Options
	r          *reader
	x          emitter
	box        *[]byte // where x.buf came from
	view       viewer
	w          http.ResponseWriter
	rc         *http.ResponseController
	headers    bool
	begun      time.Time
	opened     time.Time // when the headers went out
	last       time.Time // last write
	deadline   time.Time // when the write deadline was set
	noDeadline bool      // the writer has none
	joinEnd    uint64    // frames that existed when the reader came
	checked    bool      // the resume point was found
	known      uint64    // last frame that a resume may begin at without suspicion
	recover    bool
	queued     uint64 // versions of the ephemeral events that were sent
	figures    uint64
	ephAt      time.Time
	ephDue     bool
}

// Serve writes the stream to one reader until its end, the reader's leaving, or the context's end. The headers
// go out with the first event or after Options.HoldHeaders; an error before that is returned with nothing written, so
// that the caller can answer with a status; a later one is told in-band and Serve returns nil. ErrSlowReader means
// that the reader was cut, ErrAborted that the caller must cut the connection, ErrTaken that the connection is not the caller's any more, any other error that
// the reader has gone.
//
// The end of an answer, up to a kilobyte, is written without a flush: the server sends it when the handler returns, with what ends the
// answer itself. Whoever has more to do after Serve flushes first.
func (s *Stream) Serve(ctx context.Context, w http.ResponseWriter, v View) error {
	r := s.join(false)
	s.listen(r, v.Format == FormatNative)
	s.uncover()
	staying := false
	defer func() {
		if !staying {
			s.leave(r)
		}
	}()
	skip, err := parseLastEventID(v.LastEventID)
	if err != nil {
		return err
	}
	v.Format = min(v.Format, FormatRaw)
	now := time.Now()
	sv := &server{s: s, v: v, o: &s.hub.o, r: r, w: w, rc: http.NewResponseController(w), begun: now, last: now}
	sv.x = emitter{ids: v.IDs && !v.ndjson(), skip: skip}
	sv.view = s.newViewer(v)
	s.mu.Lock()
	sv.joinEnd, sv.recover = s.next, s.restored > 0
	sv.known = max(s.restored, s.delivered[v.Format])
	s.mu.Unlock()
	err = sv.run(ctx)
	if staying = errors.Is(err, ErrTaken); !staying {
		sv.release()
	}
	return err
}

func (sv *server) run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if sv.v.Eager || sv.x.skip > 0 {
		if err := sv.open(); err != nil {
			return err
		}
	}
	timer := sv.s.hub.timer(sv.wait())
	defer sv.s.hub.putTimer(timer)
	sv.lend(ctx)
	defer func() {
		if sv.conn == nil {
			sv.takeBack()
		}
	}()
	for {
		if sv.gone {
			return sv.result
		}
		if done, err := sv.pump(); done || err != nil {
			return err
		}
		if sv.mayTake(time.Now()) && sv.takeOver() {
			return ErrTaken
		}
		sv.own.Unlock()
		select {
		case <-sv.r.wake:
			sv.own.Lock()
			if sv.headers && sv.v.TakeOver != nil {
				timer.Reset(sv.wait())
			}
		case <-timer.C:
			sv.own.Lock()
			if err := sv.tick(); err != nil {
				return err
			}
			timer.Reset(sv.wait())
		case <-ctx.Done():
			sv.own.Lock()
			return ctx.Err()
		}
	}
}

// timer gives a running timer.
func (h *Hub) timer(d time.Duration) *time.Timer {
	if t, ok := h.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

// putTimer takes it back; nothing comes from a timer that was stopped.
func (h *Hub) putTimer(t *time.Timer) {
	t.Stop()
	h.timers.Put(t)
}

// take translates one frame; false when the batch is full.
func (sv *server) take(seq uint64, m Meta, data []byte) bool {
	if sv.box == nil {
		sv.borrow()
	}
	sv.x.seq = seq
	sv.view.frame(&sv.x, m, data)
	return len(sv.x.buf) < maxBatch
}

// borrow takes a buffer for the time that there is something to write: a reader that waits holds none.
func (sv *server) borrow() {
	box, _ := sv.s.hub.buffers.Get().(*[]byte)
	if box == nil {
		box = new([]byte)
	}
	sv.box = box
	if sv.x.buf == nil {
		sv.x.buf = *box
	}
}

// give puts the buffer back.
func (sv *server) give() {
	if box := sv.box; box != nil && cap(sv.x.buf) <= 2*maxBatch {
		*box = sv.x.buf[:0]
		sv.s.hub.buffers.Put(box)
	}
	sv.box, sv.x.buf = nil, nil
}

// step writes what the last scan gave. done ends the reader.
func (sv *server) step(p progress) (done bool, err error) {
	if sv.diverged(p) {
		return true, sv.broken(NewError("RESUME_DIVERGED",
			"the event that this reader saw last is not in the journal any more; start again without Last-Event-ID", nil))
	}
	if sv.x.failed != nil && !sv.headers && sv.x.id <= 1 { // the failure is all there is
		return true, sv.refused()
	}
	if !sv.x.closed && sv.v.Format == FormatNative {
		sv.ephemeral()
	}
	if len(sv.x.buf) > 0 {
		if err := sv.write(); err != nil {
			return true, err
		}
		if sv.recover && sv.x.ids {
			sv.s.noteDelivered(sv.v.Format, sv.x.seq)
		}
	}
	if len(sv.x.buf) == 0 {
		sv.give()
	}
	switch {
	case sv.x.failed != nil && sv.cut():
		return true, ErrAborted
	case sv.x.closed:
		if !sv.headers {
			return true, sv.open()
		}
		return true, nil
	case p.ended:
		return true, sv.lost()
	}
	return false, nil
}

// refused ends a reader that has seen nothing: with the worker's own answer where there is one, else with the failure.
func (sv *server) refused() error {
	if sv.x.refusal == nil || sv.x.header == nil {
		return sv.x.failed
	}
	sv.x.buf = append(sv.x.buf[:0], sv.x.refusal...)
	return sv.write()
}

// lost ends a reader whose stream has no terminal frame.
func (sv *server) lost() error {
	sv.s.mu.Lock()
	down := sv.s.down
	sv.s.mu.Unlock()
	if down {
		return sv.broken(NewError("SHUTTING_DOWN", "the queen is shutting down; come back with Last-Event-ID", nil))
	}
	return sv.broken(NewError("INTERNAL", "the job was not carried to its end; ask for its record and submit it again", nil))
}

// broken tells a reader of an error that is not in the frames.
func (sv *server) broken(err error) error {
	var e *Error
	if !sv.headers || !errors.As(err, &e) {
		return err
	}
	if sv.cut() {
		return ErrAborted
	}
	sv.x.buf = sv.x.buf[:0]
	skip := sv.x.skip
	sv.x.skip = 0
	sv.view.fail(&sv.x, e)
	sv.x.skip = skip
	return sv.write()
}

// cut reports whether nothing but cutting the connection can tell the reader of a failure.
func (sv *server) cut() bool {
	raw, ok := sv.view.(*rawView)
	return ok && raw.bytes
}

// diverged looks, once, whether the reader's last event is one that this journal can vouch for.
func (sv *server) diverged(p progress) bool {
	if sv.checked || sv.x.skip == 0 {
		return false
	}
	if sv.x.id >= sv.x.skip {
		sv.checked = true
		return sv.recover && sv.x.skipSeq > sv.known
	}
	return !p.more || sv.x.seq+1 >= sv.joinEnd
}

// wait returns how long the reader may sleep without a frame.
func (sv *server) wait() time.Duration {
	now := time.Now()
	due := sv.last.Add(sv.o.Ping)
	if !sv.headers {
		due = sv.begun.Add(sv.o.HoldHeaders)
	}
	if sv.v.TakeOver != nil && sv.headers {
		due = sv.opened.Add(sv.o.TakeAfter)
	}
	if sv.ephDue {
		if at := sv.ephAt.Add(time.Second); at.Before(due) {
			due = at
		}
	}
	return max(due.Sub(now), time.Millisecond)
}

// tick does what became due.
func (sv *server) tick() error {
	now := time.Now()
	if !sv.headers {
		if now.Sub(sv.begun) < sv.o.HoldHeaders {
			return nil
		}
		if err := sv.open(); err != nil {
			return err
		}
		return sv.ping()
	}
	if now.Sub(sv.last) >= sv.o.Ping-time.Millisecond {
		return sv.ping()
	}
	return nil
}

// ping writes a comment where the format has comments.
func (sv *server) ping() error {
	sv.last = time.Now()
	if sv.v.ndjson() || sv.cut() {
		return nil
	}
	sv.x.buf = append(sv.x.buf, ": ping\n\n"...)
	return sv.write()
}

// open sends the headers.
func (sv *server) open() error {
	sv.head()
	return sv.settle(sv.rc.Flush())
}

// head has the headers sent with whatever is flushed next.
func (sv *server) head() {
	h := sv.w.Header()
	status := http.StatusOK
	said := [...]string{"text/event-stream; charset=utf-8", "no-cache, no-transform", "no"}
	switch {
	case sv.v.ndjson():
		said[0] = "application/x-ndjson"
	case sv.x.header != nil:
		status = sv.x.header.Status
		said[0] = sv.x.header.ContentType
	}
	h["Content-Type"], h["Cache-Control"], h["X-Accel-Buffering"] = said[0:1:1], said[1:2:2], said[2:3:3]
	if sv.v.OnHeaders != nil {
		sv.v.OnHeaders(h)
	}
	sv.headers, sv.opened = true, time.Now()
	sv.arm()
	if sv.v.TakeOver != nil {
		select {
		case sv.r.wake <- struct{}{}: // whoever writes, the reader's goroutine has to know when it may go
		default:
		}
	}
	sv.w.WriteHeader(status)
}

// write sends the collected bytes.
func (sv *server) write() error {
	if sv.conn != nil {
		return sv.send()
	}
	if !sv.headers {
		sv.head()
	}
	sv.arm()
	err := sv.transmit(sv.x.buf)
	sv.give()
	sv.last = time.Now()
	return sv.settle(err)
}

// lastWrite is how much of an answer's end is left to the server to send with what ends the answer itself.
const lastWrite = 1 << 10

// transmit has the writer send p now.
func (sv *server) transmit(p []byte) error {
	if sv.x.closed && len(p) <= lastWrite {
		_, err := sv.w.Write(p)
		return err
	}
	if s, ok := sv.w.(Sender); ok {
		if sent, err := s.Send(p); sent {
			return err
		}
	}
	if _, err := sv.w.Write(p); err != nil {
		return err
	}
	return sv.rc.Flush()
}

// arm sets the write deadline, not at every token: only when a good part of the last one has passed.
func (sv *server) arm() {
	now := time.Now()
	if sv.noDeadline || now.Sub(sv.deadline) < sv.o.WriteTimeout/4 {
		return
	}
	sv.deadline = now
	sv.noDeadline = errors.Is(sv.rc.SetWriteDeadline(now.Add(sv.o.WriteTimeout)), http.ErrNotSupported)
}

// settle names the error of a write.
func (sv *server) settle(err error) error {
	if err == nil || errors.Is(err, http.ErrNotSupported) {
		// A deadline that passes while nothing is written would end an HTTP/2 stream, and pings renew it only in SSE.
		if sv.v.ndjson() || sv.cut() || sv.o.Ping >= sv.o.WriteTimeout/4*3 {
			sv.deadline = time.Time{}
			_ = sv.rc.SetWriteDeadline(time.Time{})
		}
		return nil
	}
	sv.deadline = time.Time{} // it stays: what the server still wants to write must not block either
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if sv.o.OnCut != nil {
			sv.o.OnCut(sv.s.id)
		}
		return ErrSlowReader
	}
	return err
}

// release gives the connection back without a deadline.
func (sv *server) release() {
	if !sv.deadline.IsZero() {
		_ = sv.rc.SetWriteDeadline(time.Time{})
	}
}

// ephemeral appends the events that have no number, each at most once a second.
func (sv *server) ephemeral() {
	s := sv.s
	s.mu.Lock()
	e := s.ephemeral
	s.mu.Unlock()
	if e.queued == sv.queued && e.metricsVer == sv.figures || e.queued == 0 && e.metricsVer == 0 {
		sv.ephDue = false
		return
	}
	now := time.Now()
	if sv.ephDue = !sv.ephAt.IsZero() && now.Sub(sv.ephAt) < time.Second; sv.ephDue {
		return
	}
	sv.ephAt = now
	if e.queued != 0 && e.queued != sv.queued {
		b := quote([]byte(`{"job_id":`), s.id)
		b = strconv.AppendInt(append(b, `,"queue_position":`...), int64(e.position), 10)
		sv.x.bare("queued", append(b, '}'))
	}
	if e.metricsVer != 0 && e.metricsVer != sv.figures {
		b := strconv.AppendFloat([]byte(`{"tokens_per_sec":`), e.metrics.TokensPerSecond, 'f', 2, 64)
		b = strconv.AppendInt(append(b, `,"queue_ms":`...), e.metrics.QueueTime.Milliseconds(), 10)
		b = strconv.AppendInt(append(b, `,"ttft_ms":`...), e.metrics.FirstToken.Milliseconds(), 10)
		sv.x.bare("metrics", append(b, '}'))
	}
	sv.queued, sv.figures = e.queued, e.metricsVer
}

// noteDelivered remembers how far readers of a format saw events since a recovery.
func (s *Stream) noteDelivered(f Format, seq uint64) {
	s.mu.Lock()
	s.delivered[f] = max(s.delivered[f], seq)
	s.mu.Unlock()
}
