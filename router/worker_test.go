package router

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// --- a worker on a real TCP port that speaks both protocols and misbehaves on command

type call struct {
	path   string
	header http.Header
	body   []byte
	fields map[string]json.RawMessage
	conn   net.Conn
	gone   chan struct{} // closed when the client closed the connection
	over   func()        // the worker is done with it
}

func (c *call) num(name string, other int) int {
	n := other
	_ = json.Unmarshal(c.fields[name], &n)
	return n
}

func (c *call) str(name string) string {
	var s string
	_ = json.Unmarshal(c.fields[name], &s)
	return s
}

// script is how a worker answers; it reports whether the connection stays.
type script func(w *fakeWorker, c *call) bool

type fakeWorker struct {
	Worker
	t      testing.TB
	l      net.Listener
	mu     sync.Mutex
	do     script
	conns  map[net.Conn]bool
	calls  []*call
	now    atomic.Int32
	peak   atomic.Int32
	dialed atomic.Int32
	wg     sync.WaitGroup
	seen   chan *call
}

func startWorker(t testing.TB, id, protocol string, do script) *fakeWorker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &fakeWorker{t: t, l: l, do: do, conns: map[net.Conn]bool{}, seen: make(chan *call, 4096),
		Worker: Worker{ID: id, Node: "n-" + id, Address: l.Addr().String(), Protocol: protocol, Slots: 4, APIKey: "key-" + id,
			Capabilities: Capabilities{Prefill: true}}}
	w.wg.Add(1)
	go w.accept()
	t.Cleanup(w.kill)
	return w
}

func (w *fakeWorker) accept() {
	defer w.wg.Done()
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.conns[c] = true
		w.mu.Unlock()
		w.dialed.Add(1)
		w.wg.Add(1)
		go w.serve(c)
	}
}

func (w *fakeWorker) serve(c net.Conn) {
	defer w.wg.Done()
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		k := &call{path: req.URL.Path, header: req.Header, body: body, conn: c, gone: make(chan struct{}), over: sync.OnceFunc(func() { w.now.Add(-1) })}
		_ = json.Unmarshal(body, &k.fields)
		w.mu.Lock()
		w.calls = append(w.calls, k)
		do := w.do
		w.mu.Unlock()
		if n := w.now.Add(1); n > w.peak.Load() {
			w.peak.Store(n)
		}
		watched := make(chan struct{})
		go func() { // one byte ahead: the client sends nothing more while it waits
			defer close(watched)
			if _, err := br.Peek(1); err != nil {
				close(k.gone)
			}
		}()
		w.seen <- k
		keep := do(w, k)
		k.over()
		if !keep {
			c.Close()
			<-watched
			return
		}
		<-watched
	}
}

// kill is what kill -9 does: every connection breaks, the port is closed.
func (w *fakeWorker) kill() {
	w.l.Close()
	w.mu.Lock()
	for c := range w.conns {
		if tc, ok := c.(*net.TCPConn); ok {
			_ = tc.SetLinger(0)
		}
		c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

func (w *fakeWorker) become(do script) {
	w.mu.Lock()
	w.do = do
	w.mu.Unlock()
}

func (w *fakeWorker) next(t testing.TB) *call {
	t.Helper()
	select {
	case c := <-w.seen:
		return c
	case <-time.After(patience):
		t.Fatalf("worker %s was not asked", w.ID)
		return nil
	}
}

func (w *fakeWorker) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls)
}

const sseHeader = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunk(c net.Conn, s string) { fmt.Fprintf(c, "%x\r\n%s\r\n", len(s), s) }

func reply(c net.Conn, status int, extra, body string) {
	fmt.Fprintf(c, "HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", status, extra, len(body), body)
}

// tok is token i of every answer.
func tok(i int) string { return fmt.Sprintf("t%d ", i) }

func whole(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(tok(i))
	}
	return b.String()
}

// begun counts the tokens that the request already has: a continuation goes on at the right one.
func begun(c *call) int {
	text := c.str("prompt") + c.str("prefix")
	var msgs []struct{ Role, Content string }
	_ = json.Unmarshal(c.fields["messages"], &msgs)
	if len(msgs) > 0 && msgs[len(msgs)-1].Role == "assistant" {
		text += msgs[len(msgs)-1].Content
	}
	return strings.Count(text, "t")
}

func emitToken(c *call, i int) {
	switch {
	case c.path == "/v1/execute":
		chunk(c.conn, fmt.Sprintf("event: token\ndata: {\"t\":%q,\"i\":%d}\n\n", tok(i), i))
	case c.path == "/v1/completions":
		chunk(c.conn, fmt.Sprintf("data: {\"choices\":[{\"index\":0,\"text\":%q}]}\n\n", tok(i)))
	default:
		chunk(c.conn, fmt.Sprintf("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", tok(i)))
	}
}

func emitEnd(c *call) {
	c.over()
	if c.path == "/v1/execute" {
		chunk(c.conn, "event: end\ndata: {\"stop_reason\":\"length\"}\n\n")
	} else {
		chunk(c.conn, "data: {\"choices\":[{\"index\":0,\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n")
	}
	io.WriteString(c.conn, "0\r\n\r\n")
}

// answer is a good worker. It advertises keep-alive and closes after a stream, as llama-server does.
func answer(w *fakeWorker, c *call) bool { return answerUntil(1<<30, nil)(w, c) }

// answerUntil stops before token n and does something then; it reports false: the connection is closed.
func answerUntil(n int, then func(w *fakeWorker, c *call)) script {
	return func(w *fakeWorker, c *call) bool {
		if c.path == "/v1/cancel" {
			reply(c.conn, 200, "", "{}")
			return true
		}
		start, max := begun(c), c.num("max_tokens", 16)
		if string(c.fields["stream"]) != "true" && c.path != "/v1/execute" {
			c.over()
			reply(c.conn, 200, "", fmt.Sprintf(`{"choices":[{"index":0,"text":%q,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":%d}}`, whole(max), max))
			return true
		}
		io.WriteString(c.conn, sseHeader)
		for i := start; i < start+max; i++ {
			if i >= n {
				if then != nil {
					then(w, c)
				}
				return false
			}
			emitToken(c, i)
		}
		emitEnd(c)
		return false
	}
}

// dieAt breaks the connection before token n; at 0 before anything was said.
func dieAt(n int) script {
	if n <= 0 {
		return func(w *fakeWorker, c *call) bool {
			_ = c.conn.(*net.TCPConn).SetLinger(0)
			return false
		}
	}
	return answerUntil(n, func(w *fakeWorker, c *call) { _ = c.conn.(*net.TCPConn).SetLinger(0) })
}

// hangAt says nothing more from token n on; at 0 nothing at all.
func hangAt(n int) script {
	if n <= 0 {
		return func(w *fakeWorker, c *call) bool { <-c.gone; return false }
	}
	return answerUntil(n, func(w *fakeWorker, c *call) { <-c.gone })
}

func refuseWith(status int, extra, body string) script {
	return func(w *fakeWorker, c *call) bool { reply(c.conn, status, extra, body); return true }
}
