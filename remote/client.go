package remote

import (
	"context"
	"io"
	"sync"
	"time"
)

// Client is one user of a pooled connection. Its methods may be called at once from any goroutine.
type Client struct {
	conn   *conn
	free   func()
	closed chan struct{}
	once   sync.Once
}

// Close gives the connection back to the pool; commands and tunnels of this Client that still run go on until they end.
// It is idempotent.
func (c *Client) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.free()
	return nil
}

// Done is closed when the connection has ended, whoever ended it.
func (c *Client) Done() <-chan struct{} { return c.conn.done }

// Target is what the Client is connected to, as the configuration filled it in.
func (c *Client) Target() Target { return c.conn.r.Target }

// Run runs cmd in the account's shell and waits for it. Both outputs are kept apart and bounded by Options.MaxOutput. A
// command that ran and failed has exit != 0 and a nil error; how it ended is unknown only with an *ExitError in the
// chain. When ctx ends the session is closed, which does not always end the command on the machine. Arguments must be
// quoted with Quote; secrets belong into stdin.
func (c *Client) Run(ctx context.Context, cmd string, stdin io.Reader) (stdout, stderr []byte, exit int, err error) {
	over := make(chan struct{})
	var once sync.Once
	full := func() { once.Do(func() { close(over) }) }
	out := &capped{limit: c.conn.o.MaxOutput, full: full}
	errs := &capped{limit: c.conn.o.MaxOutput, full: full}
	exit, err = c.stream(ctx, cmd, stdin, out, errs, over)
	return out.bytes(), errs.bytes(), exit, err
}

// Stream runs cmd and copies its outputs while they come. Either writer may be nil. A writer that fails ends the
// command's session. Otherwise it is as Run.
func (c *Client) Stream(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer) (exit int, err error) {
	if stdout == nil {
		stdout = io.Discard
	}
	if stderr == nil {
		stderr = io.Discard
	}
	return c.stream(ctx, cmd, stdin, stdout, stderr, nil)
}

func (c *Client) stream(ctx context.Context, cmd string, stdin io.Reader, stdout, stderr io.Writer, over <-chan struct{}) (int, error) {
	s, err := c.session(ctx)
	if err != nil {
		return -1, err
	}
	started := make(chan error, 1)
	go func() { started <- s.request("exec", cmd) }()
	if err := c.await(ctx, started); err != nil {
		s.abandon()
		return -1, c.conn.err("run", err, "try again")
	}
	bad := make(chan error, 2)
	ended := make(chan struct{})
	go func() {
		s.run(stdin, &guarded{w: stdout, bad: bad}, &guarded{w: stderr, bad: bad})
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.abandon()
		return -1, c.conn.err("run", ctx.Err(), "allow it more time; the command may still run there")
	case <-over:
		s.abandon()
		return -1, c.conn.err("run", ErrOutput, "let it write to a file")
	case err = <-bad:
		s.abandon()
		return -1, c.conn.err("run", err, "")
	}
	_ = s.ch.Close()
	select {
	case err = <-bad:
		return -1, c.conn.err("run", err, "")
	default:
	}
	exit, err := s.exit()
	if err != nil {
		return -1, c.conn.err("run", err, "look on the machine before doing it again")
	}
	return exit, nil
}

// await waits for a request on a live connection.
func (c *Client) await(ctx context.Context, done <-chan error) error {
	limit := time.NewTimer(c.conn.o.SessionTimeout)
	defer limit.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return context.DeadlineExceeded
	case <-c.conn.done:
		return ErrLost
	}
}

// capped keeps what fits and calls full once when something does not.
type capped struct {
	mu    sync.Mutex
	b     []byte
	limit int
	full  func()
}

// Write never fails: the command's session is closed by whoever full told.
func (w *capped) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	room := w.limit - len(w.b)
	if len(b) > room {
		w.b = append(w.b, b[:room]...)
		w.full()
		return len(b), nil
	}
	w.b = append(w.b, b...)
	return len(b), nil
}

func (w *capped) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]byte(nil), w.b...)
}

// guarded reports the first failure of a caller's writer and swallows what comes after it.
type guarded struct {
	w   io.Writer
	bad chan<- error
	off bool
}

// Write is called by one goroutine.
func (g *guarded) Write(b []byte) (int, error) {
	if g.off {
		return len(b), nil
	}
	if _, err := g.w.Write(b); err != nil {
		g.off = true
		g.bad <- err
	}
	return len(b), nil
}
