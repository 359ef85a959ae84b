package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver/clients/payload"
)

// recorder stands between clients and the queen, holds every answer against its schema, and counts retries.
type recorder struct {
	url   string
	check *payload.Checker

	mu       sync.Mutex
	answers  int
	retries  int
	problems []string
}

func (q *queen) recorder() *recorder {
	q.t.Helper()
	check, err := payload.New()
	if err != nil {
		q.t.Fatal(err)
	}
	target, err := url.Parse(q.url)
	if err != nil {
		q.t.Fatal(err)
	}
	r := &recorder{check: check}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			if n := p.In.Header.Get("X-Stainless-Retry-Count"); n != "" && n != "0" {
				r.mu.Lock()
				r.retries++
				r.mu.Unlock()
			}
		},
		FlushInterval:  -1,
		ModifyResponse: r.watch,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// All of the body first: where an answer begins before the proxy has seen its end, the proxy cuts the connection. What is cut
		// stays cut for the client: the proxy's own panic says so to net/http.
		body, err := io.ReadAll(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		proxy.ServeHTTP(w, req)
	}))
	q.t.Cleanup(srv.Close)
	r.url = srv.URL
	return r
}

func (r *recorder) watch(resp *http.Response) error {
	for _, h := range []string{"X-Request-Id", "X-Correlation-Id"} {
		if resp.Header.Get(h) == "" {
			r.problem("%s %s: no %s", resp.Request.Method, resp.Request.URL.Path, h)
		}
	}
	if path := resp.Request.URL.Path; resp.StatusCode >= 400 && resp.Header.Get("X-Rbee-Error") == "" {
		r.problem("%s %s: %d without X-Rbee-Error", resp.Request.Method, path, resp.StatusCode)
	}
	resp.Body = &tap{ReadCloser: resp.Body, r: r, resp: resp}
	return nil
}

func (r *recorder) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// tap keeps what is read of an answer and judges it when it is closed.
type tap struct {
	io.ReadCloser
	r    *recorder
	resp *http.Response
	body bytes.Buffer
	end  bool
	once sync.Once
}

// Read implements io.Reader.
func (t *tap) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	t.body.Write(b[:n])
	t.end = t.end || err == io.EOF
	return n, err
}

// Close implements io.Closer.
func (t *tap) Close() error {
	t.once.Do(func() {
		req := t.resp.Request
		err := t.r.check.Answer(req.Method, req.URL.Path, t.resp.StatusCode, t.resp.Header.Get("Content-Type"), t.body.Bytes(), !t.end)
		if err != nil {
			t.r.problem("%s %s: %v", req.Method, req.URL.Path, err)
		}
		t.r.mu.Lock()
		t.r.answers++
		t.r.mu.Unlock()
	})
	return t.ReadCloser.Close()
}

// judge reports what was wrong with the answers that passed.
func (r *recorder) judge(t *testing.T, least int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.problems {
		t.Error(p)
	}
	if r.retries != 0 {
		t.Errorf("%d retries", r.retries)
	}
	if r.answers < least {
		t.Errorf("only %d answers were seen, want at least %d", r.answers, least)
	}
	t.Logf("%d answers held against their schemas, %d retries", r.answers, r.retries)
}
