package remote

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// session is one channel that runs a command or a subsystem. It is ours rather than ssh.Session because its place among
// the connection's sessions is free only when the server has closed its side too: the server counts until then.
type session struct {
	ch    ssh.Channel
	ended chan struct{} // closed when the server has closed the channel

	mu     sync.Mutex
	status *uint32
	signal string
}

// session opens a session when one of the connection's places is free.
func (c *Client) session(ctx context.Context) (*session, error) {
	select {
	case <-c.closed:
		return nil, ErrClosed
	default:
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	select {
	case c.conn.sessions <- struct{}{}:
	case <-ctx.Done():
		return nil, c.conn.err("open session", ctx.Err(), "allow it more time")
	case <-c.conn.done:
		return nil, c.conn.err("open session", ErrLost, "")
	}
	limit := time.AfterFunc(c.conn.o.SessionTimeout, func() { cancel(context.DeadlineExceeded) })
	defer limit.Stop()
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		s, err := c.conn.openSession(ctx)
		var full *ssh.OpenChannelError
		if err == nil {
			return s, nil
		}
		if !errors.As(err, &full) {
			return nil, c.conn.err("open session", err, "the machine does not answer; try again")
		}
		// The server has no place: one of a command that we gave up may still be taken by it.
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			<-c.conn.sessions
			c.conn.worn.Store(true)
			return nil, c.conn.err("open session", err, "connect again; if it goes on, raise MaxSessions in the server's configuration or lower Options.MaxSessions")
		}
	}
}

// openSession opens the channel. The place that the caller holds is given back when the channel has ended, at once
// when the server refuses, and not at all while it says nothing.
func (c *conn) openSession(ctx context.Context) (*session, error) {
	type opened struct {
		s   *session
		err error
	}
	got := make(chan opened, 1)
	go func() {
		ch, reqs, err := c.ssh.OpenChannel("session", nil)
		if err != nil {
			got <- opened{nil, err}
			return
		}
		s := &session{ch: ch, ended: make(chan struct{})}
		got <- opened{s, nil}
		s.follow(reqs)
		<-c.sessions
	}()
	select {
	case o := <-got:
		var full *ssh.OpenChannelError
		if o.err != nil && !errors.As(o.err, &full) {
			<-c.sessions
		}
		return o.s, o.err
	case <-ctx.Done():
		go func() {
			if o := <-got; o.err == nil {
				_ = o.s.ch.Close()
			} else {
				<-c.sessions
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// follow reads what the server tells about the command until it closes the channel.
func (s *session) follow(reqs <-chan *ssh.Request) {
	for r := range reqs {
		s.mu.Lock()
		switch r.Type {
		case "exit-status":
			var m struct{ Status uint32 }
			if ssh.Unmarshal(r.Payload, &m) == nil {
				s.status = &m.Status
			}
		case "exit-signal":
			var m struct {
				Signal     string
				CoreDumped bool
				Error      string
				Lang       string
			}
			if ssh.Unmarshal(r.Payload, &m) == nil {
				s.signal = m.Signal
			}
		}
		s.mu.Unlock()
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
	close(s.ended)
}

// request asks for a command or a subsystem.
func (s *session) request(kind, arg string) error {
	ok, err := s.ch.SendRequest(kind, true, ssh.Marshal(struct{ Arg string }{arg}))
	if err != nil {
		return err
	}
	if !ok {
		return errRefused
	}
	return nil
}

var errRefused = errors.New("the server refused the request")

// run copies everything until the server closes the channel.
func (s *session) run(stdin io.Reader, stdout, stderr io.Writer) {
	go func() { // ends when stdin ends or the channel does; a reader that blocks for ever is its owner's
		if stdin != nil {
			_, _ = io.Copy(s.ch, stdin)
		}
		_ = s.ch.CloseWrite()
	}()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(stdout, s.ch) })
	wg.Go(func() { _, _ = io.Copy(stderr, s.ch.Stderr()) })
	wg.Wait()
	<-s.ended
}

// abandon asks for the command's end as politely as SSH allows, and closes the channel.
func (s *session) abandon() {
	_, _ = s.ch.SendRequest("signal", false, ssh.Marshal(struct{ Signal string }{"TERM"}))
	_ = s.ch.Close()
}

// exit is how the command ended.
func (s *session) exit() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.signal != "":
		return -1, &ExitError{Signal: s.signal}
	case s.status != nil:
		return int(*s.status), nil
	}
	return -1, &ExitError{}
}
