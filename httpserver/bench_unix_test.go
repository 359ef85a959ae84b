//go:build unix

package httpserver_test

import (
	"bufio"
	"bytes"
	stdcontext "context"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// used is the processor time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLoopback is the same over a connection, the client's share of time and processor included, beside a handler of net/http that reads the
// body and answers with as much.
func BenchmarkLoopback(b *testing.B) {
	plain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(whole.Body)
	})
	cases := benchCases()
	b.Run("plain handler", func(b *testing.B) {
		overLoopback(b, cases[0], &http.Server{Handler: plain, ReadHeaderTimeout: time.Second})
	})
	for _, c := range cases {
		if c.status != 0 {
			s := c.server(b)
			b.Run(c.name, func(b *testing.B) { overLoopback(b, c, s) })
		}
	}
}

func overLoopback(b *testing.B, c benchCase, s any) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch s := s.(type) {
		case *http.Server:
			_ = s.Serve(l)
		case *httpserver.Server:
			_ = s.Serve(stdcontext.Background(), l)
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	raw := fmt.Appendf(nil, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nUser-Agent: bench\r\nContent-Length: %d\r\n\r\n%s",
		l.Addr(), c.key, len(c.body), c.body)
	rd := bufio.NewReader(conn)
	b.ReportAllocs()
	began := used()
	for b.Loop() {
		if _, err := conn.Write(raw); err != nil {
			b.Fatal(err)
		}
		if err := skipAnswer(rd); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(used()-began)/float64(b.N), "cpu-ns/op")
	_ = conn.Close()
	_ = l.Close()
	<-done
}

// skipAnswer reads one answer with a stated length and allocates nothing.
func skipAnswer(rd *bufio.Reader) error {
	length := 0
	for {
		line, err := rd.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			_, err := rd.Discard(length)
			return err
		}
		if digits, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length = 0
			for _, d := range bytes.TrimSpace(digits) {
				length = 10*length + int(d-'0')
			}
		}
	}
}
