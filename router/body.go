package router

import (
	"errors"
	"io"
	"net"
)

// streamBody is what a worker streams, its framing (RFC 9112, section 7.1) taken off. Unlike the standard library's it can be
// read without waiting: where the connection has nothing, it goes on later in the middle of a chunk.
type streamBody struct {
	c      *conn
	state  bodyState
	left   int64 // of the chunk, or of the body where its length was told
	digits int   // of a chunk's size so far
	line   int   // bytes of framing since the last data
	framed bool  // chunked
	toEnd  bool  // the body ends with the connection
	extra  bool  // there was something behind the end
	polled bool
	dry    bool // polled: the last read took all there was, and the poller will say when there is more
}

type bodyState uint8

const (
	inSize bodyState = iota
	inExtension
	inData
	afterData
	inTrailer
	atTrailerLine
	bodyOver
	bodyBroken
)

// maxFraming bounds what a worker may say between two pieces of data: sizes, extensions, trailers.
const maxFraming = 16 << 10

var errFraming = errors.New("the worker's answer is not framed as HTTP says")

// bodyOf takes over the body of an answer of which nothing was read.
func bodyOf(c *conn, resp *response) streamBody {
	b := streamBody{c: c}
	switch {
	case resp.chunked:
		b.framed = true
	case resp.length >= 0:
		b.state, b.left = inData, resp.length
		if b.left == 0 {
			b.state = bodyOver
		}
	default:
		b.state, b.toEnd = inData, true
	}
	return b
}

// over reports whether the body has ended as it should and the connection may carry another request.
func (b *streamBody) over() bool { return b.state == bodyOver && !b.toEnd && !b.extra }

// Read implements io.Reader. A polled body gives 0 and no error where it would have to wait.
func (b *streamBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		switch b.state {
		case bodyOver:
			return 0, io.EOF
		case bodyBroken:
			return 0, errFraming
		}
		n, err := b.raw(p)
		if n > 0 {
			if m, derr := b.decode(p[:n]); m > 0 || derr != nil {
				return m, derr
			}
		}
		if errors.Is(err, io.EOF) {
			if b.toEnd || b.state == bodyOver {
				b.state = bodyOver
				return 0, io.EOF
			}
			return 0, io.ErrUnexpectedEOF
		}
		if err != nil || n == 0 && b.polled {
			return 0, err
		}
	}
}

// raw reads bytes with their framing. An error that comes with bytes comes again.
func (b *streamBody) raw(p []byte) (int, error) {
	if b.polled && b.c.unread() {
		if b.dry {
			b.dry = false
			return 0, nil
		}
		n, err := b.c.tryRead(p)
		b.dry = n > 0 && n < len(p)
		return n, err
	}
	n, err := b.c.reader().Read(p)
	if n > 0 {
		err = nil
	}
	return n, err
}

// decode takes the framing out of p, in place, and returns how many bytes of data are left at its beginning.
func (b *streamBody) decode(p []byte) (int, error) {
	if b.toEnd {
		return len(p), nil
	}
	out := 0
	for i := 0; i < len(p); {
		if b.state == inData {
			n := int(min(int64(len(p)-i), b.left))
			if out != i {
				copy(p[out:], p[i:i+n])
			}
			out, i, b.left, b.line = out+n, i+n, b.left-int64(n), 0
			if b.left == 0 {
				if b.state = afterData; !b.framed {
					b.state = bodyOver
				}
			}
			continue
		}
		if b.state == bodyOver {
			b.extra = true
			return out, nil
		}
		if b.state == afterData {
			if n, size := betweenChunks(p[i:]); n > 0 {
				i += n
				if b.state, b.left = inData, size; size == 0 {
					b.state, b.line = inTrailer, n
				}
				continue
			}
		}
		if err := b.framing(p[i]); err != nil {
			b.state = bodyBroken
			return out, err
		}
		i++
	}
	return out, nil
}

// betweenChunks reads all that is usually between two pieces of data at once: the end of one chunk and the size of the next.
// n is its length, 0 where it is not whole or not the usual.
func betweenChunks(p []byte) (n int, size int64) {
	if len(p) < 5 || p[0] != '\r' || p[1] != '\n' {
		return 0, 0
	}
	const most = 2 + 8 // digits
	for i := 2; i < len(p)-1 && i <= most; i++ {
		switch c := p[i]; {
		case c >= '0' && c <= '9':
			size = size<<4 | int64(c-'0')
		case c >= 'a' && c <= 'f':
			size = size<<4 | int64(c-'a'+10)
		case c == '\r' && i > 2 && p[i+1] == '\n':
			return i + 2, size
		default:
			return 0, 0
		}
	}
	return 0, 0
}

// framing takes one byte between pieces of data.
func (b *streamBody) framing(c byte) error {
	if b.line++; b.line > maxFraming {
		return errFraming
	}
	switch b.state {
	case inSize:
		return b.size(c)
	case inExtension:
		if c == '\n' {
			return b.sized()
		}
	case afterData:
		switch c {
		case '\r':
		case '\n':
			b.state, b.left, b.digits = inSize, 0, 0
		default:
			return errFraming
		}
	case inTrailer: // at the beginning of a line
		switch c {
		case '\r':
		case '\n':
			b.state = bodyOver
		default:
			b.state = atTrailerLine
		}
	case atTrailerLine:
		if c == '\n' {
			b.state = inTrailer
		}
	}
	return nil
}

// size takes one byte of a chunk's size.
func (b *streamBody) size(c byte) error {
	digit := int64(-1)
	switch {
	case c >= '0' && c <= '9':
		digit = int64(c - '0')
	case c >= 'a' && c <= 'f':
		digit = int64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		digit = int64(c-'A') + 10
	case c == '\n':
		return b.sized()
	case c == ';' || c == '\r' || c == ' ' || c == '\t':
		b.state = inExtension
		return nil
	}
	if b.digits++; digit < 0 || b.digits > 15 {
		return errFraming
	}
	b.left = b.left<<4 | digit
	return nil
}

// sized ends the line of a chunk's size.
func (b *streamBody) sized() error {
	if b.digits == 0 {
		return errFraming
	}
	if b.state = inData; b.left == 0 {
		b.state = inTrailer
	}
	return nil
}

// Poller says when a connection can be read, so that a stream which waits needs no goroutine of its own.
type Poller interface {
	// Readable has fn called, on one goroutine that must not be held up, whenever there is something to read from c or its
	// other side is gone, until Stop. ok is false for a connection that can't be watched.
	Readable(c net.Conn, fn func()) (p Poll, ok bool)
	// Later has fn called on the same goroutine once the calls that are due have been made.
	Later(fn func())
}

// Poll is one watched connection.
type Poll interface {
	Stop()
	Pause()
	Resume()
	Kick() // call once more: the connection was closed on this side
}
