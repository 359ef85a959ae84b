package router

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// response is what comes before the body of a worker's answer.
type response struct {
	status      int
	length      int64 // of the body; negative: not told
	chunked     bool
	closes      bool // the worker closes the connection afterwards
	contentType string
	header      http.Header // without what is about the exchange alone; shared, so not to be changed
}

// passing are the fields that are about one exchange or one connection: nobody else sees them.
func passing(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Date", "Keep-Alive", "Trailer", "Transfer-Encoding":
		return true
	}
	return false
}

// response reads the header of the answer. stream says what was asked for.
func (c *conn) response(stream bool) (response, error) {
	c.budget = maxHeader
	defer func() { c.budget = -1 }()
	if resp, ok := c.usual(stream); ok {
		return resp, nil
	}
	for range 8 { // informational answers come before the real one
		resp, err := http.ReadResponse(c.reader(), nil)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) && !c.got {
				err = io.EOF
			}
			return response{}, err
		}
		if resp.StatusCode >= 200 {
			return responseOf(resp), nil
		}
	}
	return response{}, errHeaderTooLong
}

// responseOf takes over what the standard library has read.
func responseOf(resp *http.Response) response {
	out := response{status: resp.StatusCode, length: resp.ContentLength, closes: resp.Close, contentType: resp.Header.Get("Content-Type"), header: resp.Header}
	n := len(resp.TransferEncoding)
	out.chunked = n > 0 && strings.EqualFold(resp.TransferEncoding[n-1], "chunked")
	for name := range resp.Header {
		if passing(name) {
			delete(resp.Header, name)
		}
	}
	return out
}

// usual reads a header of the kind that nearly all are of: whole in one read, and of plain lines. Of any other it takes
// nothing and says false: the standard library then decides what it means.
func (c *conn) usual(stream bool) (response, bool) {
	br := c.reader()
	if _, err := br.Peek(1); err != nil {
		return response{}, false
	}
	text, err := br.Peek(br.Buffered())
	if err != nil {
		return response{}, false
	}
	resp, n, ok := c.lane.parse(text, stream)
	if ok {
		_, err = br.Discard(n)
	}
	return resp, ok && err == nil
}

// fields are those of an answer's header that are not passing, and what they were read from. Most answers of a worker have
// the same.
type fields struct {
	raw         []byte // the lines
	header      http.Header
	contentType string
}

// statusOf reads a status line: an answer with a body, of HTTP/1.1. n is its length, 0 when it is not of that kind.
func statusOf(text []byte) (status, n int) {
	const proto = "HTTP/1.1 "
	if len(text) < len(proto)+5 || string(text[:len(proto)]) != proto {
		return 0, 0
	}
	for _, d := range text[len(proto) : len(proto)+3] {
		if d < '0' || d > '9' {
			return 0, 0
		}
		status = 10*status + int(d-'0')
	}
	if status < 200 || status > 599 || status == http.StatusNoContent || status == http.StatusNotModified {
		return 0, 0
	}
	n = len(proto) + 3
	end := bytes.IndexByte(text[n:], '\n')
	if end < 1 || text[n+end-1] != '\r' || text[n] != ' ' && end != 1 {
		return 0, 0
	}
	return status, n + end + 1
}

// parse reads a header that is of the usual kind; n is its length. The lane may be nil.
func (l *lane) parse(text []byte, stream bool) (resp response, n int, ok bool) {
	resp.length = -1
	if resp.status, n = statusOf(text); n == 0 {
		return resp, 0, false
	}
	var known *fields
	if l != nil {
		known = l.headers[which(stream)].Load()
	}
	first, same, kept := n, known != nil, 0 // kept: bytes of the last answer's lines
	for {
		if same { // most lines are the last answer's
			if rest := known.raw[kept:]; len(rest) > 0 {
				if end := bytes.IndexByte(rest, '\n') + 1; bytes.HasPrefix(text[n:], rest[:end]) {
					n, kept = n+end, kept+end
					continue
				}
			}
		}
		line, name, value := lineOf(text[n:])
		n += len(line)
		switch {
		case line == nil:
			return resp, 0, false
		case len(line) == 2:
			if resp.length >= 0 && resp.chunked {
				return resp, 0, false
			}
			resp.closes = resp.closes || resp.length < 0 && !resp.chunked
			if !same || kept != len(known.raw) {
				known = l.learn(text[first:n-2], stream)
			}
			resp.header, resp.contentType = known.header, known.contentType
			return resp, n, true
		}
		stays, fine := resp.take(name, value)
		if !fine {
			return resp, 0, false
		}
		same = same && !stays // it would have been the last answer's next
	}
}

// lineOf cuts a line off, its end included; nil when it is not a plain one.
func lineOf(text []byte) (line, name, value []byte) {
	end := bytes.IndexByte(text, '\n')
	if end < 1 || text[end-1] != '\r' {
		return nil, nil, nil
	}
	line = text[:end+1]
	if end == 1 {
		return line, nil, nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 1 {
		return nil, nil, nil
	}
	for _, b := range line[:colon] {
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '-' && b != '_' {
			return nil, nil, nil
		}
	}
	for _, b := range line[colon+1 : end-1] {
		if b < ' ' && b != '\t' || b >= 0x7f {
			return nil, nil, nil
		}
	}
	return line, line[:colon], bytes.Trim(line[colon+1:end-1], " \t")
}

// take takes in one field: stays says that it is not passing, fine that it is of the usual kind.
func (r *response) take(name, value []byte) (stays, fine bool) {
	switch len(name) {
	case len("Date"):
		return !like(name, "date"), true
	case len("Pragma"):
		return true, !like(name, "pragma") // the standard library reads something into it
	case len("Trailer"):
		return true, !like(name, "trailer")
	case len("Connection"): // and of Keep-Alive
		if like(name, "keep-alive") {
			return false, true
		}
		if !like(name, "connection") {
			return true, true
		}
		r.closes = r.closes || like(value, "close")
		return false, like(value, "close") || like(value, "keep-alive")
	case len("Content-Length"):
		if !like(name, "content-length") {
			return true, true
		}
		if r.length >= 0 || len(value) == 0 || len(value) > 18 {
			return false, false
		}
		r.length = 0
		for _, d := range value {
			if d < '0' || d > '9' {
				return false, false
			}
			r.length = 10*r.length + int64(d-'0')
		}
		return false, true
	case len("Transfer-Encoding"):
		if !like(name, "transfer-encoding") {
			return true, true
		}
		fine = !r.chunked && like(value, "chunked")
		r.chunked = true
		return false, fine
	}
	return true, true
}

// like compares without regard to case; low is in lower case.
func like(b []byte, low string) bool {
	if len(b) != len(low) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != low[i] {
			return false
		}
	}
	return true
}

// learn keeps the fields of an answer for the next.
func (l *lane) learn(text []byte, stream bool) *fields {
	f := &fields{header: make(http.Header, 8)}
	var drop response
	drop.length = -1
	for len(text) > 0 {
		line, name, value := lineOf(text)
		text = text[len(line):]
		if stays, _ := drop.take(name, value); stays {
			f.raw = append(f.raw, line...)
			key := textproto.CanonicalMIMEHeaderKey(string(name))
			f.header[key] = append(f.header[key], string(value))
		}
	}
	f.contentType = f.header.Get("Content-Type")
	if l != nil {
		l.headers[which(stream)].Store(f)
	}
	return f
}
