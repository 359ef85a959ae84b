package router

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// cannedConn is a worker in memory: every request that is written to it is answered at once with the same bytes.
type cannedConn struct {
	net.Conn
	answer []byte
	rest   []byte
}

func (c *cannedConn) Write(p []byte) (int, error) { c.rest = c.answer; return len(p), nil }
func (c *cannedConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
func (c *cannedConn) Close() error                     { return nil }
func (c *cannedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *cannedConn) SetWriteDeadline(time.Time) error { return nil }
func (c *cannedConn) SetDeadline(time.Time) error      { return nil }

type cannedDialer struct{ answer []byte }

func (d cannedDialer) DialWorker(context.Context, Worker) (net.Conn, error) {
	return &cannedConn{answer: d.answer}, nil
}

const cannedChat = `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,` +
	`"message":{"role":"assistant","content":" one two three four"},"finish_reason":"length"}],"usage":{"prompt_tokens":7,"completion_tokens":4,"total_tokens":11}}`

// cannedWhole is a short answer with the header that servers usually send.
func cannedWhole() []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nServer: rig\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Length: %d\r\n\r\n%s",
		len(cannedChat), cannedChat)
}

// cannedStream is a stream of n frames, each a chunk of its own.
func cannedStream(n int) []byte {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := func(s string) { fmt.Fprintf(&b, "%x\r\n%s\r\n", len(s), s) }
	for i := range n {
		chunk(fmt.Sprintf(`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":" t%d"},"finish_reason":null}]}`, i) + "\n\n")
	}
	chunk("data: [DONE]\n\n")
	b.WriteString("0\r\n\r\n")
	return b.Bytes()
}

// nullScheduler always has a slot; what it costs is its own.
type nullScheduler struct{ p Placement }

func (s *nullScheduler) Place(context.Context, *Job) (Placement, error) { return s.p, nil }
func (s *nullScheduler) Pick(context.Context, []*Job) (int, Placement, error) {
	return -1, Placement{}, nil
}
func (s *nullScheduler) Observe(*Job, Worker, Outcome) {}

type nullFleet struct{ changed chan struct{} }

func (nullFleet) Load(context.Context, LoadRequest) (string, error) { return "", nil }
func (f nullFleet) Changed() <-chan struct{}                        { return f.changed }
func (nullFleet) Report(string, error)                              {}

// donePending is a commit that is through.
type donePending struct{}

func (donePending) Wait(context.Context) error { return nil }

type freeQueue struct{ nullQueue }

func (freeQueue) Submit(*Job, bool, string, string) (Pending, error) { return donePending{}, nil }

// hotStream tells when the last reader goes, as the relay does, and reads a stream to its end.
type hotStream struct{ Stream }

func (hotStream) Started(context.Context, string, string, int) error { return nil }
func (hotStream) Body(context.Context, int, http.Header, []byte) (Outcome, error) {
	return Outcome{Frames: 1, Tokens: 4, PromptTokens: 7, StopReason: "length"}, nil
}
func (hotStream) End(context.Context, Result) error          { return nil }
func (hotStream) Fail(context.Context, string, string) error { return nil }
func (hotStream) OnIdle(func())                              {}

var hotBuffers = sync.Pool{New: func() any { return new([4096]byte) }}

func (hotStream) Copy(_ context.Context, body io.ReadCloser, _ CopyOptions) (Outcome, error) {
	buf := hotBuffers.Get().(*[4096]byte)
	defer hotBuffers.Put(buf)
	for {
		n, err := body.Read(buf[:])
		if bytes.HasSuffix(buf[:n], []byte("[DONE]\n\n")) {
			body.(interface{ Done() }).Done()
			_ = body.Close()
			return Outcome{Frames: 50, Tokens: 50, StopReason: "length"}, nil
		}
		if err != nil {
			return Outcome{}, err
		}
	}
}

type hotStreams struct{ s Stream }

func (s hotStreams) Open(*Job, bool) (Stream, error) { return s.s, nil }

const hotBody = `{"model":"m","messages":[{"role":"user","content":"Tell me a short story."}],"max_tokens":4,"temperature":0}`

// hotRouter is a router between neighbours that cost nothing.
func hotRouter(d Dialer, w Worker) *Router {
	w.Protocol, w.Slots = ProtocolOpenAI, 20000
	s := &nullScheduler{p: Placement{Action: Route, Worker: w, Release: func(Outcome) {}}}
	return New(s, freeQueue{}, nullFleet{}, d, hotStreams{hotStream{}}, Options{LateCommit: true, MaxIdle: 256,
		NewID: func() string { return "j" }, Slots: func(string) int { return 20000 }})
}

func hotJob(model string) Job {
	return Job{Tenant: "default", Model: "m", Priority: "interactive", Surface: Chat, Body: []byte(strings.Replace(hotBody, `"m"`, `"`+model+`"`, 1)), MaxTokens: 4,
		Inline: true, CorrelationID: "c-123", Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
}

func carryOne(b *testing.B, r *Router, j *Job) {
	h, err := r.Submit(context.Background(), j)
	if err != nil {
		b.Fatal(err)
	}
	h.Carry()
	if res := h.Result(); res.State != Complete {
		b.Fatalf("%+v", res)
	}
}

func benchHot(b *testing.B, d Dialer, w Worker, j Job) {
	r := hotRouter(d, w)
	b.ReportAllocs()
	for b.Loop() {
		j := j
		carryOne(b, r, &j)
	}
	b.StopTimer()
	_ = r.Drain(context.Background())
}

// BenchmarkInline is one short job that its submitter carries, everything around the router being free: the worker is in
// memory and answers at once. The engine's name of the model differs from the client's, or not.
func BenchmarkInline(b *testing.B) {
	b.Run("asis", func(b *testing.B) {
		benchHot(b, cannedDialer{cannedWhole()}, Worker{ID: "w", Address: "127.0.0.1:9000"}, hotJob("m"))
	})
	b.Run("renamed", func(b *testing.B) {
		benchHot(b, cannedDialer{cannedWhole()}, Worker{ID: "w", Address: "127.0.0.1:9000", Model: "engine-m", APIKey: "k"}, hotJob("m"))
	})
}

// BenchmarkInlineLoopback is BenchmarkInline over a socket.
func BenchmarkInlineLoopback(b *testing.B) {
	w := benchWorker(b)
	benchHot(b, tcpDialer{}, w, hotJob("m"))
}

// BenchmarkStream50 is a stream of 50 frames, carried by its submitter.
func BenchmarkStream50(b *testing.B) {
	j := hotJob("m")
	j.Stream = true
	benchHot(b, cannedDialer{cannedStream(50)}, Worker{ID: "w", Address: "127.0.0.1:9000"}, j)
}

// BenchmarkInlineParallel has many callers at once: what is shared shows.
func BenchmarkInlineParallel(b *testing.B) {
	r := hotRouter(cannedDialer{cannedWhole()}, Worker{ID: "w", Address: "127.0.0.1:9000"})
	var n sync.Mutex
	id := 0
	r.o.NewID = func() string { n.Lock(); defer n.Unlock(); id++; return fmt.Sprint(id) }
	j := hotJob("m")
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			j := j
			carryOne(b, r, &j)
		}
	})
	_ = r.Drain(context.Background())
}
