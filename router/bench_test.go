package router

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// benchWorker answers every request with the same short body, as cheaply as it can, and keeps the connection.
func benchWorker(b *testing.B) Worker {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	b.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"); err != nil {
						return
					}
				}
			}()
		}
	}()
	return Worker{ID: "w", Address: l.Addr().String(), Protocol: ProtocolOpenAI, Slots: 64}
}

const benchBody = `{"model":"m","prompt":"Once upon a time","max_tokens":8,"temperature":0}`

// BenchmarkRouteOne carries one whole answer, everything around the router being free.
func BenchmarkRouteOne(b *testing.B) {
	w := benchWorker(b)
	s := newScheduler(b)
	s.add(w)
	r := New(s, nullQueue{}, newFleet(), tcpDialer{}, nullStreams{}, Options{NewID: func() string { return "j" }})
	b.ReportAllocs()
	for b.Loop() {
		h, err := r.Submit(context.Background(), &Job{Model: "m", Surface: Completion, Detached: true, Body: []byte(benchBody)})
		if err != nil {
			b.Fatal(err)
		}
		<-h.Done()
	}
	_ = r.Drain(context.Background())
}

// BenchmarkReverseProxyOne is the anchor: the standard library's proxy, without a server in front of it.
func BenchmarkReverseProxyOne(b *testing.B) {
	w := benchWorker(b)
	u, _ := url.Parse("http://" + w.Address)
	p := httputil.NewSingleHostReverseProxy(u)
	tr := &http.Transport{}
	p.Transport = tr
	b.ReportAllocs()
	for b.Loop() {
		req, _ := http.NewRequest(http.MethodPost, "/v1/completions", strings.NewReader(benchBody))
		p.ServeHTTP(nullWriter{}, req)
	}
	tr.CloseIdleConnections()
}

type nullWriter struct{}

func (nullWriter) Header() http.Header         { return http.Header{} }
func (nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (nullWriter) WriteHeader(int)             {}

type nullQueue struct{}

func (nullQueue) Submit(*Job, bool, string, string) (Pending, error)         { return &fakePending{}, nil }
func (nullQueue) Claim(context.Context, string, string, string) error        { return nil }
func (nullQueue) Started(context.Context, string, string, string, int) error { return nil }
func (nullQueue) Requeue(context.Context, string) error                      { return nil }
func (nullQueue) Finish(context.Context, string, Result) error               { return nil }
func (nullQueue) Line(context.Context, int) ([]*Job, error)                  { return nil, nil }
func (nullQueue) Recover(context.Context) ([]*Job, error)                    { return nil, nil }

type nullStreams struct{}

func (nullStreams) Open(*Job, bool) (Stream, error) { return nullStream{}, nil }

type nullStream struct{ Stream }

func (nullStream) Started(context.Context, string, string, int) error { return nil }
func (nullStream) Body(context.Context, int, http.Header, []byte) (Outcome, error) {
	return Outcome{}, nil
}
func (nullStream) End(context.Context, Result) error          { return nil }
func (nullStream) Fail(context.Context, string, string) error { return nil }

// BenchmarkPick is a wake-up of the dispatcher with a long line of which nothing can go.
func BenchmarkPick(b *testing.B) {
	s := newScheduler(b)
	s.add(Worker{ID: "w", Slots: 0})
	r := New(s, nullQueue{}, newFleet(), tcpDialer{}, nullStreams{}, Options{})
	for range 10_000 {
		t := newTask(r, &Job{Model: "m"})
		r.lineUp(t, false)
	}
	d := &dispatcher{r: r, view: view{count: make(map[string]int)}}
	b.ReportAllocs()
	for b.Loop() {
		d.dispatch(context.Background())
	}
}
