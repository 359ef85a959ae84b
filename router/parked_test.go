package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// parkingStreams opens streams that can be parked.
type parkingStreams struct{ *fakeStreams }

func (p parkingStreams) Open(j *Job, recovered bool) (Stream, error) {
	s, err := p.fakeStreams.Open(j, recovered)
	if err != nil {
		return nil, err
	}
	return &parkingStream{s.(*fakeStream)}, nil
}

type parkingStream struct{ *fakeStream }

var _ PollStream = (*parkingStream)(nil)

// parkedCopy is a Copy that goes on when there is something.
type parkedCopy struct {
	s     *fakeStream
	body  PolledBody
	out   Outcome
	rest  []byte
	event string
	stop  func() bool
	then  func(Outcome, error)
}

var errNothing = errors.New("nothing now")

func (s *parkingStream) CopyThen(ctx context.Context, body PolledBody, o CopyOptions, then func(Outcome, error)) (Outcome, bool, error) {
	c := &parkedCopy{s: s.fakeStream, body: body, then: then}
	if !body.Poll(c.ready) {
		out, err := s.Copy(ctx, body, o)
		return out, false, err
	}
	s.mu.Lock()
	s.options = append(s.options, o)
	s.mu.Unlock()
	c.stop = context.AfterFunc(ctx, func() { _ = body.Close() })
	err := c.step()
	if errors.Is(err, errNothing) {
		body.Resume()
		return Outcome{}, true, nil
	}
	out, err := c.end(err)
	return out, false, err
}

// ready is the poller's callback.
func (c *parkedCopy) ready() {
	err := c.step()
	if errors.Is(err, errNothing) {
		return
	}
	out, err := c.end(err)
	go c.then(out, err)
}

func (c *parkedCopy) end(err error) (Outcome, error) {
	c.body.Unpoll()
	c.stop()
	if err == nil {
		c.body.(interface{ Done() }).Done()
	}
	_ = c.body.Close()
	c.s.mu.Lock()
	c.out.Tokens = c.s.tokens
	c.s.mu.Unlock()
	return c.out, err
}

// step takes in what there is.
func (c *parkedCopy) step() error {
	var buf [64]byte
	for {
		n, err := c.body.Read(buf[:])
		c.rest = append(c.rest, buf[:n]...)
		for {
			i := bytes.IndexByte(c.rest, '\n')
			if i < 0 {
				break
			}
			line := strings.TrimRight(string(c.rest[:i]), "\r")
			c.rest = c.rest[i+1:]
			if e, ok := strings.CutPrefix(line, "event: "); ok {
				c.event = e
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				if done, err := c.s.event(&c.out, c.event, data); done || err != nil {
					return err
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("truncated: %w", err)
		case err != nil:
			return err
		case n == 0:
			return errNothing
		}
	}
}
