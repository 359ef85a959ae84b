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

// body reads the whole request body, at most limit bytes, within the body timeout. What it holds of Options.BodyMemory is
// given back by release, at the end of the handler at the latest.
func (c *call) body(limit int64) ([]byte, error) {
	r := c.r
	if enc := first(r.Header, "Content-Encoding"); enc != "" && enc != "identity" {
		return nil, invalid("", "bodies with Content-Encoding %s are not read: send it uncompressed", clip(enc, 40))
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	c.read = true
	if !c.w.limited { // else net/http has set the deadline with the request's first byte, and takes it off at the body's end
		rc := http.NewResponseController(c.w.ResponseWriter)
		if r.Header["Expect"] != nil { // 100 Continue is written before anything else sets a deadline
			_ = rc.SetWriteDeadline(time.Time{})
		}
		if rc.SetReadDeadline(time.Now().Add(c.s.o.BodyTimeout)) == nil {
			defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
		}
	}
	return c.readAll(limit)
}

// release gives back what the body holds, unless the connection was taken over: then it counts until the end of the answer.
func (c *call) release() {
	if c.w.held != 0 && c.w.taken == nil {
		c.s.bodies.Add(-c.w.held)
		c.w.held = 0
	}
}

// hold counts a body of n bytes against Options.BodyMemory.
func (c *call) hold(n int64) error {
	held := c.w.held
	if n <= largeBody || n <= held {
		return nil
	}
	if c.s.bodies.Add(n-held) > c.s.o.BodyMemory {
		c.s.bodies.Add(held - n)
		return refuse(CodeSystemAtCapacity, "too many large requests at once: try again in a moment")
	}
	c.w.held = n
	return nil
}

// leave reads a short body that nobody wanted. net/http would do the same, but only when it writes the answer; it watches the
// connection from the body's end on, and to begin that at the moment at which it ends again is what costs most in a refusal.
func (c *call) leave() {
	if c.read || !c.w.limited || c.r.ContentLength <= 0 || c.r.ContentLength > smallBody || c.r.Header["Expect"] != nil {
		return
	}
	box, _ := chunks.Get().(*[]byte)
	if cap(*box) < 1024 {
		*box = make([]byte, 0, 1024)
	}
	for b := (*box)[:cap(*box)]; ; {
		if _, err := c.r.Body.Read(b); err != nil {
			break
		}
	}
	chunks.Put(box)
}

// The sizes of bodies whose memory is used again when they are refused as they are: smaller ones cost less than the pool.
const smallBody, commonBody = 4 << 10, 64 << 10

// room is memory for a body whose length is stated or not. A stated length is believed only piece by piece: memory follows
// the bytes that did arrive.
func (c *call) room() []byte {
	size := c.r.ContentLength
	if size < 0 {
		size = 4096
	}
	size = min(size, largeBody) + 1
	if size > smallBody && size <= commonBody {
		if box, ok := c.s.refused.Get().(*[]byte); ok {
			if had := int64(cap(*box)); size <= had && had <= 2*size {
				return (*box)[:0]
			}
		}
	}
	return make([]byte, 0, size)
}

// reuse takes back the memory of a body that nobody has seen but the parser, which keeps nothing of it.
func (c *call) reuse(b []byte) {
	if cap(b) > smallBody && cap(b) <= commonBody {
		box := new([]byte)
		*box = b
		c.s.refused.Put(box)
	}
}

func (c *call) readAll(limit int64) ([]byte, error) {
	b := c.room()
	for {
		if len(b) == cap(b) {
			grown := int64(cap(b)) * 2
			if c.r.ContentLength > 0 {
				grown = min(grown, c.r.ContentLength+1)
			}
			grown = min(grown, limit+1)
			if err := c.hold(grown); err != nil {
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
func (c *call) object(member func(key, value []byte) error) ([]byte, error) {
	b, err := c.body(c.s.o.MaxBody)
	if err != nil {
		return nil, err
	}
	if err := c.scan(b, member); err != nil {
		return nil, err
	}
	return b, nil
}

func (c *call) scan(b []byte, member func(key, value []byte) error) error {
	return asInvalid(strict.Object(b, c.s.o.MaxDepth, member))
}
