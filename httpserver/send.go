package httpserver

import (
	"net"
	"net/http"
	"strconv"
	"sync"
)

// Sender is what the ResponseWriter that Job.Serve gets also is: it sends a part of a stream in one write to the connection, where
// Write and Flush would make up to three of it.
type Sender interface {
	// Send is Write and Flush once the headers have been flushed. sent is false where that can't be: nothing was written, and Write
	// and Flush go on. After an error the connection is closed.
	Send(p []byte) (sent bool, err error)
}

// Send implements Sender. net/http has nothing left to write and frames what follows as chunks, the last one included; that
// another chunk passes it by makes no difference to it.
func (w *response) Send(p []byte) (sent bool, err error) {
	if !w.flushed || !w.chunked() || len(p) == 0 {
		return false, nil
	}
	w.arm()
	box, _ := chunks.Get().(*[]byte)
	b := appendChunk((*box)[:0], p)
	if err = w.call.peer.write(b); err != nil {
		_ = w.call.peer.conn.Close() // a part of the chunk may be out
	}
	*box = b[:0]
	if cap(b) <= 64<<10 {
		chunks.Put(box)
	}
	return true, err
}

// chunked reports whether net/http sends the answer in chunks, on a connection of the server's own.
func (w *response) chunked() bool {
	c := w.call
	return c.peer != nil && w.taken == nil && w.status == http.StatusOK && c.r.ProtoMajor == 1 && c.r.ProtoMinor == 1 &&
		c.r.Method != http.MethodHead && len(w.Header()["Content-Length"]) == 0
}

// write writes to the connection, past net/http: at once what fits, and waits with the rest.
func (p *peer) write(b []byte) error {
	if tcp, ok := p.conn.(*net.TCPConn); ok {
		n, err := p.try.write(tcp, b)
		if err != nil || n == len(b) {
			return err
		}
		b = b[n:]
	}
	_, err := p.conn.Write(b)
	return err
}

var chunks = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // memory, not state

// appendChunk appends p as one chunk (RFC 9112, section 7.1).
func appendChunk(b, p []byte) []byte {
	b = strconv.AppendUint(b, uint64(len(p)), 16)
	return append(append(append(b, '\r', '\n'), p...), '\r', '\n')
}
