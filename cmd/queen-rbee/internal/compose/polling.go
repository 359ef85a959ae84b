package compose

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/poll"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// openPoll starts the goroutine that waits for all streams. Without it each has its own.
func (q *Queen) openPoll(context.Context) error {
	l, err := poll.New(q.log)
	if errors.Is(err, poll.ErrUnsupported) {
		return nil
	}
	q.poll = l
	return err
}

// routerPoll and serverPoll are the loop as its two users want it.
type (
	routerPoll struct{ l *poll.Loop }
	serverPoll struct{ l *poll.Loop }
)

func (p routerPoll) Readable(c net.Conn, fn func()) (router.Poll, bool) {
	w, ok := p.l.Readable(c, fn)
	return w, ok
}

func (p routerPoll) Later(fn func()) { p.l.Later(fn) }

func (p serverPoll) Readable(c net.Conn, fn func()) (httpserver.Watch, bool) {
	w, ok := p.l.Readable(c, fn)
	return w, ok
}

func (p serverPoll) Gone(c net.Conn, fn func()) (httpserver.Watch, bool) {
	w, ok := p.l.Gone(c, fn)
	return w, ok
}

func (q *Queen) routerPoll() router.Poller {
	if q.poll == nil {
		return nil
	}
	return routerPoll{q.poll}
}

func (q *Queen) serverPoll() httpserver.Poller {
	if q.poll == nil {
		return nil
	}
	return serverPoll{q.poll}
}

// takeOver lets a reader go on without the request that it came with; nil where the server does not offer that.
func takeOver(w http.ResponseWriter) func() (sserelay.Conn, bool) {
	t, ok := w.(httpserver.Taker)
	if !ok {
		return nil
	}
	return func() (sserelay.Conn, bool) {
		c, ok := t.Take()
		return c, ok
	}
}

// CopyThen implements router.PollStream.
func (s *stream) CopyThen(ctx context.Context, body router.PolledBody, o router.CopyOptions, then func(router.Outcome, error)) (router.Outcome, bool, error) {
	out, parked, err := s.Stream.CopyThen(ctx, body, s.copyOptions(o), func(out sserelay.Outcome, err error) { then(outcome(out), err) })
	return outcome(out), parked, err
}
