package httpserver_test

import (
	"bufio"
	"bytes"
	stdcontext "context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// secure serves over TLS, and HTTP/2 where the client wants it.
func secure(t *testing.T, f *httpservertest.Submitter, o httpserver.Options) (addr string, client *http.Client) {
	t.Helper()
	ts := httptest.NewUnstartedServer(nil)
	ts.EnableHTTP2 = true
	ts.StartTLS() // for its certificate and a client that trusts it
	config, client := ts.TLS.Clone(), ts.Client()
	ts.Close()
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
		client.CloseIdleConnections()
		_ = s.Drain(t.Context())
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), client
}

// TestHTTP2Streams: one connection has at most 250 requests under way; a client with more needs another.
func TestHTTP2Streams(t *testing.T) {
	var inside, dials atomic.Int64
	leave := make(chan struct{})
	release := sync.OnceFunc(func() { close(leave) })
	defer release()
	f := &httpservertest.Submitter{OnResult: func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		inside.Add(1)
		<-leave
		return &httpserver.Result{Body: []byte("{}")}, nil
	}}
	addr, client := secure(t, f, httpserver.Options{})
	tr := client.Transport.(*http.Transport) //nolint:forcetypeassert // httptest's
	tr.DialContext = func(ctx stdcontext.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	resp, err := client.Get("https://" + addr + "/health") // so that the connection is there and its limit known
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	var wg sync.WaitGroup
	ask := func() {
		resp, err := client.Post("https://"+addr+"/v1/chat/completions", "application/json", strings.NewReader(chatBody))
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Errorf("%s %s", resp.Proto, resp.Status)
		}
	}
	for _, step := range []struct{ requests, connections int64 }{{250, 1}, {251, 2}} {
		for range step.requests - inside.Load() {
			wg.Go(ask)
		}
		for late := time.Now().Add(20 * time.Second); inside.Load() < step.requests; <-time.After(time.Millisecond) {
			if time.Now().After(late) {
				t.Fatalf("only %d of %d came", inside.Load(), step.requests)
			}
		}
		if n := dials.Load(); n != step.connections {
			t.Errorf("%d requests at once took %d connections, want %d", step.requests, n, step.connections)
		}
	}
	release()
	wg.Wait()
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
	addr, _ := secure(t, f, httpserver.Options{BodyTimeout: 50 * time.Millisecond})
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
			conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // its own server
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+string(h2Frame(4, 0, 0, nil)))
			c.send(conn) // nothing is read meanwhile: the server must not wait for that either
			if err := h2Until(conn, c.want); err != nil {
				t.Error(err)
			}
		})
	}
	if n := most.Load(); n < 1 || n > 250 {
		t.Errorf("%d handlers ran at once", n)
	}
	close(leave)
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
func h2Until(conn net.Conn, kind byte) error {
	r := bufio.NewReader(conn)
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			if kind == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return fmt.Errorf("frame %d did not come: %w", kind, err)
		}
		if kind != 0 && head[3] == kind {
			return nil
		}
		if _, err := io.CopyN(io.Discard, r, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil && kind != 0 {
			return err
		}
	}
}
