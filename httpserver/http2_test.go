package httpserver_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// certificate is what a server needs for TLS, and its client.
func certificate() (server, client *tls.Config) {
	ts := httptest.NewTLSServer(nil)
	defer ts.Close()
	client = ts.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	return &tls.Config{Certificates: ts.TLS.Certificates, MinVersion: tls.VersionTLS12}, client
}

// secure serves over TLS, and HTTP/2 where the client wants it.
func secure(t *testing.T, f *httpservertest.Submitter, o httpserver.Options) (addr string) {
	t.Helper()
	config, _ := certificate()
	config.NextProtos = []string{"h2", "http/1.1"}
	s, err := httpserver.New(f, httpservertest.Auth{}, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		_ = s.Drain(t.Context())
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestHTTP2Streams: one connection has at most 250 requests under way, whatever it asks for; what is above is refused.
func TestHTTP2Streams(t *testing.T) {
	var inside atomic.Int64
	full, leave := make(chan struct{}), make(chan struct{})
	f := &httpservertest.Submitter{OnResult: func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		if inside.Add(1) == 250 {
			close(full)
		}
		<-leave
		return &httpserver.Result{Body: []byte("{}")}, nil
	}}
	conn := h2Dial(t, secure(t, f, httpserver.Options{}))
	for id := uint32(1); id < 600; id += 2 {
		_, _ = conn.Write(append(h2Frame(1, 0x4, id, h2Headers("POST", "/v1/chat/completions")), h2Frame(0, 0x1, id, []byte(chatBody))...))
	}
	r := bufio.NewReader(conn)
	for n := range 50 {
		if err := h2Until(r, 3); err != nil {
			t.Fatalf("%d of 300 requests were refused, want 50: %v", n, err)
		}
	}
	select {
	case <-full:
	case <-time.After(20 * time.Second):
		t.Errorf("only %d came in", inside.Load())
	}
	close(leave)
	if n := inside.Load(); n != 250 {
		t.Errorf("%d requests at once on one connection", n)
	}
}

// TestHTTP2Hostile speaks HTTP/2 by hand: reset streams without end, headers without end, a body that never comes, a frame
// that is too large. Each connection is ended or answered, and goleak finds nothing left.
func TestHTTP2Hostile(t *testing.T) {
	var inside, most atomic.Int64
	leave := make(chan struct{})
	f := &httpservertest.Submitter{OnResult: func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		most.Store(max(most.Load(), inside.Add(1)))
		defer inside.Add(-1)
		<-leave // a backend that does not look whether its client is still there
		return &httpserver.Result{Body: []byte("{}")}, nil
	}}
	addr := secure(t, f, httpserver.Options{BodyTimeout: 50 * time.Millisecond})
	for name, c := range map[string]struct {
		send func(io.Writer)
		want byte // the frame that must come, 0: the connection must be closed
	}{
		"rapid reset": {func(w io.Writer) {
			for id := uint32(1); id < 20_000; id += 2 {
				ask := append(h2Frame(1, 0x4, id, h2Headers("POST", "/v1/chat/completions")), h2Frame(0, 0x1, id, []byte(chatBody))...)
				if _, err := w.Write(append(ask, h2Frame(3, 0, id, []byte{0, 0, 0, 8})...)); err != nil {
					return
				}
			}
		}, 0},
		"endless headers": {func(w io.Writer) {
			_, _ = w.Write(h2Frame(1, 0x1, 1, h2Headers("GET", "/v1/models")))
			for range 1000 {
				_, _ = w.Write(h2Frame(9, 0, 1, append([]byte{0, 1, 'x', 0x7f, 0x81, 0x7f}, bytes.Repeat([]byte("a"), 16384-200)...)))
			}
		}, 0},
		"slow body":   {func(w io.Writer) { _, _ = w.Write(h2Frame(1, 0x4, 1, h2Headers("POST", "/v1/chat/completions"))) }, 1},
		"giant frame": {func(w io.Writer) { _, _ = w.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}) }, 0},
		"even stream": {func(w io.Writer) { _, _ = w.Write(h2Frame(1, 0x5, 2, h2Headers("GET", "/health"))) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn := h2Dial(t, addr)
			c.send(conn) // nothing is read meanwhile: the server must not wait for that either
			if err := h2Until(bufio.NewReader(conn), c.want); err != nil {
				t.Error(err)
			}
		})
	}
	if n := most.Load(); n < 1 || n > 250 {
		t.Errorf("%d handlers ran at once", n)
	}
	close(leave)
}

// TestHTTP2LongAnswer: the times of a body and of a part of an answer don't end a stream whose answer takes longer.
func TestHTTP2LongAnswer(t *testing.T) {
	const short = 20 * time.Millisecond
	f := &httpservertest.Submitter{OnResult: func(ctx context, _ *httpserver.Request, v httpserver.View) (*httpserver.Result, error) {
		select {
		case <-time.After(10 * short):
			return httpservertest.Whole(v, "j"), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	conn := h2Dial(t, secure(t, f, httpserver.Options{BodyTimeout: short, WriteTimeout: short}))
	_, _ = conn.Write(append(h2Frame(1, 0x4, 1, h2Headers("POST", "/v1/chat/completions")), h2Frame(0, 0x1, 1, []byte(chatBody))...))
	r := bufio.NewReader(conn)
	if err := h2Until(r, 1); err != nil { // its headers, not the stream's reset
		t.Fatal(err)
	}
}

// h2Dial begins an HTTP/2 connection.
func h2Dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // its own server
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+string(h2Frame(4, 0, 0, nil)))
	return conn
}

// h2Frame is a frame of RFC 9113, section 4.1.
func h2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// h2Headers are a request's pseudo headers in HPACK, without tables and Huffman.
func h2Headers(method, path string) []byte {
	b := append([]byte{0x02, byte(len(method))}, method...)
	b = append(append(b, 0x87, 0x04, byte(len(path))), path...)
	return append(append(b, 0x01, 9), "localhost"...)
}

// h2Until reads frames until one of the kind comes, or until the connection ends.
func h2Until(r io.Reader, kind byte) error {
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if kind == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return fmt.Errorf("frame %d did not come: %w", kind, err)
		}
		if _, err := io.CopyN(io.Discard, r, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil && kind != 0 {
			return err
		}
		if kind != 0 && head[3] == kind {
			return nil
		}
	}
}
