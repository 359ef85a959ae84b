package httpserver

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// largeBody is the size from which a body counts against Options.BodyMemory.
const largeBody = 256 << 10

// body reads the whole request body, at most limit bytes, within the body timeout. release must be called when the
// handler is done.
func (c *call) body(limit int64) (b []byte, release func(), err error) {
	release = func() {}
	r := c.r
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, release, invalid("", "bodies with Content-Encoding %s are not read: send it uncompressed", clip(enc, 40))
	}
	if r.ContentLength > limit {
		return nil, release, tooLarge(limit)
	}
	if r.ContentLength == 0 {
		return nil, release, nil
	}
	rc := http.NewResponseController(c.w.ResponseWriter)
	if r.Header["Expect"] != nil { // 100 Continue is written before anything else sets a deadline
		_ = rc.SetWriteDeadline(time.Time{})
	}
	if rc.SetReadDeadline(time.Now().Add(c.s.o.BodyTimeout)) == nil {
		defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	}
	held := int64(0)
	release = func() {
		switch {
		case held == 0:
		case c.w.taken != nil:
			c.w.taken.holdBody(held)
		default:
			c.s.bodies.Add(-held)
		}
	}
	hold := func(n int64) error {
		if n <= largeBody || n <= held {
			return nil
		}
		if c.s.bodies.Add(n-held) > c.s.o.BodyMemory {
			c.s.bodies.Add(held - n)
			return refuse(CodeSystemAtCapacity, "too many large requests at once: try again in a moment")
		}
		held = n
		return nil
	}
	b, err = c.readAll(limit, hold)
	if err != nil {
		release()
		return nil, func() {}, err
	}
	return b, release, nil
}

func (c *call) readAll(limit int64, hold func(int64) error) ([]byte, error) {
	size := c.r.ContentLength
	if size < 0 {
		size = 4096
	}
	// A stated length is believed only piece by piece: memory follows the bytes that did arrive.
	b := make([]byte, 0, min(size, largeBody)+1)
	for {
		if len(b) == cap(b) {
			grown := int64(cap(b)) * 2
			if c.r.ContentLength > 0 {
				grown = min(grown, c.r.ContentLength+1)
			}
			grown = min(grown, limit+1)
			if err := hold(grown); err != nil {
				return nil, err
			}
			b = append(make([]byte, 0, grown), b...)
		}
		n, err := c.r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if int64(len(b)) > limit {
			return nil, tooLarge(limit)
		}
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return nil, c.readError(err)
		}
	}
}

func (c *call) readError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.w.Header().Set("Connection", "close")
		return refuse(CodeRequestTimeout, "the body did not arrive within %s", c.s.o.BodyTimeout)
	}
	c.w.Header().Set("Connection", "close")
	return invalid("", "the body could not be read to its end")
}

func tooLarge(limit int64) error {
	return refuse(CodeRequestTooLarge, "the body is larger than %d bytes", limit)
}

// object reads the body as one strict JSON object and calls member for each member.
func (c *call) object(member func(key, value []byte) error) (b []byte, release func(), err error) {
	b, release, err = c.body(c.s.o.MaxBody)
	if err != nil {
		return nil, release, err
	}
	if err := c.scan(b, member); err != nil {
		release()
		return nil, func() {}, err
	}
	return b, release, nil
}

func (c *call) scan(b []byte, member func(key, value []byte) error) error {
	return asInvalid(strict.Object(b, c.s.o.MaxDepth, member))
}
