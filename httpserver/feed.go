package httpserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

const feedWriteTimeout = 30 * time.Second

// follow returns a context that ends with the request or when the server begins to drain.
func (c *call) follow() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(c.r.Context())
	go func() {
		select {
		case <-c.s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// events is GET /v2/events.
func (c *call) events() error { return c.feed("") }

// operationEvents is GET /v2/operations/{id}/events.
func (c *call) operationEvents() error {
	id, err := c.name("id")
	if err != nil {
		return err
	}
	return c.feed(id)
}

func (c *call) feed(topic string) error {
	if c.s.o.Feed == nil {
		return notAvailable("an event feed")
	}
	after := uint64(0)
	last, err := lastEventID(c.r)
	if err != nil {
		return err
	}
	if last != "" {
		after, _ = strconv.ParseUint(last, 10, 64)
	}
	ctx, cancel := c.follow()
	defer cancel()
	ch, err := c.s.o.Feed.Events(ctx, topic, after)
	if err != nil {
		return err
	}
	if c.r.Method == http.MethodHead {
		return c.headEvents()
	}
	w := c.sse()
	ping := time.NewTicker(c.s.o.PingEvery)
	defer ping.Stop()
	for {
		select {
		case ev, ok := <-ch:
			if !ok {
				return nil
			}
			if err := w.event(ev); err != nil {
				return err
			}
		case <-ping.C:
			if err := w.write([]byte(": ping\n\n")); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sse writes the small event streams of the server's own: feeds and logs. Jobs are streamed by their Job.
type sse struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf []byte
}

func (c *call) sse() *sse {
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	c.w.pace()
	w := &sse{w: c.w, rc: http.NewResponseController(c.w)}
	c.w.WriteHeader(http.StatusOK)
	_ = w.rc.Flush()
	return w
}

func (s *sse) event(ev Event) error {
	b := s.buf[:0]
	if ev.ID > 0 {
		b = append(b, "id: "...)
		b = strconv.AppendUint(b, ev.ID, 10)
		b = append(b, '\n')
	}
	if ev.Type != "" {
		b = append(b, "event: "...)
		b = append(b, ev.Type...)
		b = append(b, '\n')
	}
	for line := range bytes.SplitSeq(ev.Data, []byte("\n")) {
		b = append(b, "data: "...)
		b = append(b, line...)
		b = append(b, '\n')
	}
	s.buf = append(b, '\n')
	return s.write(s.buf)
}

func (s *sse) write(b []byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(feedWriteTimeout))
	defer func() { _ = s.rc.SetWriteDeadline(time.Time{}) }()
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.rc.Flush()
}

// logs is GET /v2/logs.
func (c *call) logs() error {
	if c.s.o.Logs == nil {
		return notAvailable("logs")
	}
	q, err := c.query("node", "worker_id", "follow", "tail")
	if err != nil {
		return err
	}
	lq := LogQuery{Node: q.Get("node"), WorkerID: q.Get("worker_id")}
	if v := q.Get("follow"); v != "" {
		if err := boolField("follow", []byte(v), &lq.Follow); err != nil {
			return err
		}
	}
	if v := q.Get("tail"); v != "" {
		if err := wholeField("tail", []byte(v), 0, 100_000, &lq.Tail); err != nil {
			return err
		}
	}
	ctx, cancel := c.follow()
	defer cancel()
	src, err := c.s.o.Logs.Logs(ctx, lq)
	if err != nil {
		return err
	}
	lines := make(chan []byte)
	done := make(chan struct{})
	go func() { defer close(done); readLines(ctx, src, lines) }()
	defer func() { cancel(); _ = src.Close(); <-done }()
	return c.writeLines(ctx, lines)
}

// readLines sends lines of at most 64 KiB until the source or the context ends, then closes the channel.
func readLines(ctx context.Context, src io.Reader, lines chan<- []byte) {
	defer close(lines)
	r := bufio.NewReaderSize(src, 64<<10)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			select {
			case lines <- bytes.TrimRight(bytes.Clone(line), "\r\n"):
			case <-ctx.Done():
				return
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (c *call) writeLines(ctx context.Context, lines <-chan []byte) error {
	var w *sse
	events := wantsEvents(c.r)
	if events {
		w = c.sse()
	} else {
		c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		c.w.Header().Set("X-Content-Type-Options", "nosniff")
		c.w.pace()
		c.w.WriteHeader(http.StatusOK)
		w = &sse{w: c.w, rc: http.NewResponseController(c.w)}
		_ = w.rc.Flush()
	}
	ping := time.NewTicker(c.s.o.PingEvery)
	defer ping.Stop()
	for {
		var err error
		select {
		case line, ok := <-lines:
			switch {
			case !ok:
				return nil
			case events:
				err = w.event(Event{Data: line})
			default:
				err = w.write(append(line, '\n'))
			}
		case <-ping.C:
			if events {
				err = w.write([]byte(": ping\n\n"))
			}
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}
