package router

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

var headers = []string{
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\nX-a:  2 \r\n\r\n2\r\n{}\r\n",
	"HTTP/1.1 500\r\ncontent-length: 0\r\nConnection: close\r\n\r\n",
	"HTTP/1.1 200 OK\r\nServer: x\r\nconnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\n\r\nto the end",
	"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 3\r\n\r\nbus",
	"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
	"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 2\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nConnection: close, x\r\nTrailer: A\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: 1\r\n\r\n",
	"HTTP/1.1 2\r\n\r\n", "HTTP/1.1 20x OK\r\n\r\n", "HTTP/1.1 200OK\r\n\r\n", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", "HTTP/1.1 200 OK\r\nA\r\n\r\n", "",
}

// plainOf is what the standard library makes of an answer, and how long its header is.
func plainOf(raw []byte) (response, int, error) {
	in := bytes.NewReader(raw)
	br := bufio.NewReaderSize(in, 1<<20)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return response{}, 0, err
	}
	if resp.StatusCode < 200 {
		return response{}, 0, io.ErrNoProgress
	}
	return responseOf(resp), len(raw) - in.Len() - br.Buffered(), nil
}

// FuzzHeader holds the quick reading of an answer's header against the standard library's: what it accepts means the same in
// both, wherever the body begins, also when the answer before taught it the fields.
func FuzzHeader(f *testing.F) {
	for i, h := range headers {
		f.Add([]byte(h), []byte(headers[(i+1)%len(headers)]))
		f.Add([]byte(h), []byte(strings.Replace(h, "2", "3", 2)))
	}
	f.Fuzz(func(t *testing.T, before, raw []byte) {
		l := &lane{}
		for _, raw := range [][]byte{before, raw, raw} {
			got, n, ok := l.parse(raw, true)
			if !ok {
				continue
			}
			want, m, err := plainOf(raw)
			if err != nil || n != m {
				t.Fatalf("accepted, %d bytes; the standard library: %d bytes, %v\n%q", n, m, err, raw)
			}
			if want.chunked {
				want.length = -1
			}
			same := maps.EqualFunc(got.header, want.header, func(a, b []string) bool { return reflect.DeepEqual(a, b) })
			got.header, want.header = nil, nil
			if !same || !reflect.DeepEqual(got, want) {
				t.Fatalf("got %+v\nwant %+v\n%q", got, want, raw)
			}
		}
	})
}

// Which headers are read quickly, and which are left to the standard library.
func TestUsualHeaders(t *testing.T) {
	for i, h := range headers {
		_, n, ok := (*lane)(nil).parse([]byte(h), false)
		if usual := i < 5; ok != usual || ok && h[n-4:n] != "\r\n\r\n" {
			t.Errorf("%q: %v, %d", h, ok, n)
		}
	}
	long := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 5000) + "\r\nContent-Length: 2\r\n\r\n{}" // more than the buffer has room for
	resp, err := newConn(&cannedConn{rest: []byte(long)}).response(false)
	if err != nil || resp.length != 2 || len(resp.header["X"][0]) != 5000 {
		t.Errorf("%+v, %v", resp, err)
	}
	first := "HTTP/1.1 100 Continue\r\n\r\n" + headers[0]
	if resp, err := newConn(&cannedConn{rest: []byte(first)}).response(false); err != nil || resp.status != 200 || resp.contentType != "application/json" {
		t.Errorf("%+v, %v", resp, err)
	}
}

// Answers of a worker that differ in their date and length alone share their fields, and no others do.
func TestAnswersShareTheirFields(t *testing.T) {
	l := &lane{}
	read := func(fields string, length int) response {
		t.Helper()
		resp, _, ok := l.parse(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\n%s\r\nContent-Length: %d\r\n\r\n", fields, length), false)
		if !ok || resp.length != int64(length) {
			t.Fatalf("%+v, %v", resp, ok)
		}
		return resp
	}
	const plain = "Content-Type: application/json\r\nServer: x"
	a, b := read(plain+"\r\nDate: one", 1), read("Date: another\r\n"+plain, 2)
	if reflect.ValueOf(a.header).Pointer() != reflect.ValueOf(b.header).Pointer() {
		t.Error("the same fields were taken in twice")
	}
	for _, other := range []string{plain + "\r\nX: 1", "Content-Type: application/json", "Content-Type: text/plain\r\nServer: x", plain + "y"} {
		resp := read(other, 3)
		want := http.Header{}
		for line := range strings.SplitSeq(other, "\r\n") {
			name, value, _ := strings.Cut(line, ": ")
			want.Add(name, value)
		}
		if !reflect.DeepEqual(resp.header, want) || resp.contentType != want.Get("Content-Type") {
			t.Errorf("%q: %v", other, resp.header)
		}
		read(plain, 1)
	}
	if len(a.header) != 2 {
		t.Errorf("the header that was given out changed: %v", a.header)
	}
}
