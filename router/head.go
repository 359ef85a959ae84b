package router

import (
	"strconv"
	"strings"
)

// opening is how requests of a kind to a worker begin: what does not change from one to the next.
type opening struct {
	path, contentType, key string
	text                   []byte // up to the value of Content-Length
}

// together is the length up to which a body is sent in one write with its header: copying costs less than a system call.
const together = 16 << 10

// write sends the request.
func (x *exchange) write() error {
	text, _ := x.pool.texts.Get().(*[]byte)
	b := x.head((*text)[:0])
	var err error
	if len(x.req.body) <= together {
		b = append(b, x.req.body...)
		if n := x.c.tryWrite(b); n < len(b) {
			_, err = x.c.Write(b[n:])
		}
	} else if _, err = x.c.Write(b); err == nil {
		_, err = x.c.Write(x.req.body)
	}
	if cap(b) <= 2*together {
		*text = b
		x.pool.texts.Put(text)
	}
	return err
}

// head appends the request's header.
func (x *exchange) head(b []byte) []byte {
	b = append(b, x.opening().text...)
	b = strconv.AppendInt(b, int64(len(x.req.body)), 10)
	b = appendHeader(b, "traceparent", x.job.Traceparent)
	b = appendHeader(b, "X-Correlation-Id", x.job.CorrelationID)
	return append(b, "\r\n\r\n"...)
}

// opening gives the beginning: the one of the last request of the kind, where it fits.
func (x *exchange) opening() *opening {
	l := x.c.lane
	if l != nil {
		o := l.openings[which(x.req.stream)].Load()
		if o != nil && o.path == x.req.path && o.contentType == x.req.contentType && o.key == x.w.APIKey {
			return o
		}
	}
	o := newOpening(x.w, &x.req)
	if l != nil {
		l.openings[which(x.req.stream)].Store(o)
	}
	return o
}

func newOpening(w *Worker, req *wire) *opening {
	b := make([]byte, 0, 256)
	b = append(b, "POST "...)
	b = append(append(b, prefixOf(w.Address)...), req.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, hostOf(w.Address)...)
	b = append(b, "\r\nContent-Type: "...)
	b = append(b, clean(req.contentType)...)
	if req.stream {
		b = append(b, "\r\nAccept: text/event-stream"...)
	}
	if w.APIKey != "" {
		b = appendHeader(b, "Authorization", "Bearer "+w.APIKey)
	}
	b = append(b, "\r\nContent-Length: "...)
	return &opening{path: req.path, contentType: req.contentType, key: w.APIKey, text: b}
}

func appendHeader(b []byte, name, value string) []byte {
	if value = clean(value); value == "" {
		return b
	}
	b = append(b, "\r\n"...)
	b = append(b, name...)
	b = append(b, ": "...)
	return append(b, value...)
}

func control(c byte) bool { return c < ' ' || c == 0x7f }

// clean keeps a value within its line.
func clean(s string) string {
	for i := range len(s) {
		if control(s[i]) {
			return strings.Map(func(r rune) rune {
				if r < 0x80 && control(byte(r)) {
					return -1
				}
				return r
			}, s)
		}
	}
	return s
}

// hostOf is the Host header's value: the address without a scheme or path.
func hostOf(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	addr, _, _ = strings.Cut(addr, "/")
	if addr = clean(addr); addr == "" {
		return "worker"
	}
	return addr
}

// prefixOf is the path of an address that is a URL: some servers stand behind one.
func prefixOf(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return clean(strings.TrimRight(rest[i:], "/"))
		}
	}
	return ""
}
