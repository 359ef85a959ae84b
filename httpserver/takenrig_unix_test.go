//go:build unix

package httpserver_test

import (
	stdcontext "context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

const patience = 20 * time.Second

// peeker is a Poller of one goroutine that looks at every connection again and again.
type peeker struct {
	mu    sync.Mutex
	all   map[*peeked]bool
	done  chan struct{}
	ended chan struct{}
}

type peeked struct {
	p    *peeker
	raw  syscall.RawConn
	fn   func()
	on   bool
	gone bool // it is the end that is waited for
}

func newPeeker(t testing.TB) *peeker {
	p := &peeker{all: map[*peeked]bool{}, done: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	t.Cleanup(func() {
		close(p.done)
		<-p.ended
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.all) != 0 {
			t.Errorf("%d connections are still watched", len(p.all))
		}
	})
	return p
}

func (p *peeker) run() {
	defer close(p.ended)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.done:
			return
		}
		p.mu.Lock()
		var due []*peeked
		for w := range p.all {
			if w.on && w.due() {
				if w.gone {
					delete(p.all, w) // once
				}
				due = append(due, w)
			}
		}
		p.mu.Unlock()
		for _, w := range due {
			w.fn()
		}
	}
}

func (w *peeked) due() (due bool) {
	err := w.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		due = !errors.Is(err, syscall.EAGAIN) && (!w.gone || n <= 0)
	})
	return due || err != nil && !w.gone
}

func (p *peeker) add(c net.Conn, fn func(), gone bool) (httpserver.Watch, bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, false
	}
	w := &peeked{p: p, raw: raw, fn: fn, on: gone, gone: gone}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[w] = true
	return w, true
}

func (p *peeker) Readable(c net.Conn, fn func()) (httpserver.Watch, bool) { return p.add(c, fn, false) }
func (p *peeker) Gone(c net.Conn, fn func()) (httpserver.Watch, bool)     { return p.add(c, fn, true) }

func (w *peeked) Resume() {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	w.on = true
}

func (w *peeked) Stop() {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	delete(w.p.all, w)
}

// handover is a job that gives its connection away after its first event.
type handover struct {
	hands bool                              // the test sends by itself
	write func(w http.ResponseWriter) error // serves instead
	say   chan string                       // what is sent then; closed: the answer ends
	ready chan *httpserver.Taken
	gone  chan struct{}
	ended chan error
}

func newHandover() *handover {
	return &handover{say: make(chan string), ready: make(chan *httpserver.Taken, 1), gone: make(chan struct{}), ended: make(chan error, 1)}
}

// serve is the job's Serve. Where the connection can't be had it goes on by itself; then ready gives nil.
func (h *handover) serve(w http.ResponseWriter) error {
	if h.write != nil {
		err := h.write(w)
		h.ended <- err
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(w, "data: first\n\n")
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	t, ok := w.(httpserver.Taker).Take()
	if !ok {
		h.ready <- nil
		for s := range h.say {
			_, _ = io.WriteString(w, s)
			_ = http.NewResponseController(w).Flush()
		}
		h.ended <- nil
		return nil
	}
	t.OnGone(func() { close(h.gone) })
	h.ready <- t
	if h.hands {
		return httpserver.ErrTaken
	}
	go func() {
		err := h.send(t)
		t.Finish(err)
		h.ended <- err
	}()
	return httpserver.ErrTaken
}

func (h *handover) send(t *httpserver.Taken) error {
	for {
		select {
		case s, more := <-h.say:
			if !more {
				return nil
			}
			all, err := t.Send([]byte(s))
			if err == nil && !all {
				err = t.Drain(time.Now().Add(patience))
			}
			if err != nil {
				return err
			}
		case <-h.gone:
			return stdcontext.Canceled
		}
	}
}

// takenRig is a server on a real listener.
type takenRig struct {
	t        *testing.T
	s        *httpserver.Server
	addr     string
	url      string
	dialer   func() (net.Conn, error)
	client   *http.Client
	mu       sync.Mutex
	next     []*handover
	observed []string
	served   chan error
	dials    int
}

// The ways to a server: plain, over TLS, and with HTTP/2.
var (
	http1 = []string{"plain", "TLS"} //nolint:gochecknoglobals // constants
	every = append(http1, "HTTP/2")  //nolint:gochecknoglobals // likewise
)

// each runs a test over each of the ways.
func each(t *testing.T, ways []string, test func(t *testing.T, over string)) {
	for _, over := range ways {
		t.Run(over, func(t *testing.T) { test(t, over) })
	}
}

// dial connects to the server, with TLS where the rig has it.
func (r *takenRig) dial() (net.Conn, error) { return r.dialer() }

func newTakenRig(t *testing.T, over string, o httpserver.Options) *takenRig {
	t.Helper()
	var clientTLS *tls.Config
	if over != "plain" {
		o.TLS, clientTLS = certificate()
		o.TLS.NextProtos = []string{"http/1.1"}
		if over == "HTTP/2" {
			o.TLS.NextProtos = []string{"h2"}
		}
	}
	r := &takenRig{t: t, served: make(chan error, 1)}
	f := &httpservertest.Submitter{OnServe: func(_ stdcontext.Context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
		r.mu.Lock()
		h := r.next[0]
		r.next = r.next[1:]
		r.mu.Unlock()
		return h.serve(w)
	}}
	o.Poller = newPeeker(t)
	o.Observe = func(route, method string, status int, _ time.Duration) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.observed = append(r.observed, fmt.Sprintf("%s %s %d", method, route, status))
	}
	s, err := httpserver.New(f, httpservertest.Auth{}, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.s, r.addr = s, l.Addr().String()
	r.url = "http://" + r.addr
	r.dialer = func() (net.Conn, error) { return net.Dial("tcp", r.addr) }
	if clientTLS != nil {
		r.url = "https://" + r.addr
		r.dialer = func() (net.Conn, error) { return tls.Dial("tcp", r.addr, clientTLS) }
	}
	ctx, cancel := stdcontext.WithCancel(stdcontext.Background())
	go func() { r.served <- s.Serve(ctx, l) }()
	tr := &http.Transport{TLSClientConfig: clientTLS, ForceAttemptHTTP2: over == "HTTP/2", DialContext: func(ctx stdcontext.Context, network, addr string) (net.Conn, error) {
		r.mu.Lock()
		r.dials++
		r.mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	r.client = &http.Client{Transport: tr}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		drain, done := stdcontext.WithTimeout(stdcontext.Background(), patience)
		defer done()
		_ = s.Drain(drain)
		cancel()
		if err := <-r.served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

// job makes the next stream's.
func (r *takenRig) job() *handover {
	h := newHandover()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = append(r.next, h)
	return h
}

const streamRequest = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`

// post begins a stream; reused says whether its connection had carried one before.
func (r *takenRig) post(body string) (resp *http.Response, reused bool) {
	r.t.Helper()
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(stdcontext.Background(), trace), http.MethodPost,
		r.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if resp, err = r.client.Do(req); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, reused
}

func within[T any](t *testing.T, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

// taken waits until the connection was given away.
func (r *takenRig) taken(h *handover) *httpserver.Taken {
	r.t.Helper()
	c := within(r.t, h.ready, "the handover")
	if c == nil {
		r.t.Fatal("the connection was not taken over")
	}
	return c
}

// observes waits for the record of n answers.
func (r *takenRig) observes(n int) []string {
	r.t.Helper()
	for late := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		r.mu.Lock()
		got := append([]string(nil), r.observed...)
		r.mu.Unlock()
		if len(got) >= n || time.Now().After(late) {
			return got
		}
	}
}
