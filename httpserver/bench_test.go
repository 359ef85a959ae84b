package httpserver_test

import (
	"bytes"
	stdcontext "context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// sink is a ResponseWriter that costs nothing.
type sink struct {
	h      http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

func (s *sink) SetReadDeadline(time.Time) error  { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// ready is a job whose answer is there.
type ready struct{}

// Submit implements httpserver.Submitter.
func (ready) Submit(context, *httpserver.Request) (httpserver.Job, error) { return readyJob{}, nil }

type readyJob struct{}

func (readyJob) ID() string                                                  { return "job_01kb50dkm4000000000000abcd" }
func (readyJob) Position() int                                               { return 0 }
func (readyJob) Committed(context) error                                     { return nil }
func (readyJob) Limits() http.Header                                         { return nil }
func (readyJob) Serve(context, http.ResponseWriter, httpserver.View) error   { return nil }
func (readyJob) Result(context, httpserver.View) (*httpserver.Result, error) { return &whole, nil }

var whole = httpserver.Result{Status: 200, ContentType: "application/json", WorkerID: "w-01", QueueMs: "0",
	Body: []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1764331200,"model":"rig","choices":[{"index":0,"message":{"role":"assistant","content":"Once upon a time"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":4,"total_tokens":16}}`)}

type refusing struct{ err error }

func (r refusing) Submit(context, *httpserver.Request) (httpserver.Job, error) { return nil, r.err }

// admitted is how an error of another module arrives: wrapped, with headers of its own.
type admitted struct{ *coded }

func (a admitted) Unwrap() error { return a.coded }
func (a admitted) Header() http.Header {
	return http.Header{"X-Ratelimit-Limit-Requests": {"60"}, "X-Ratelimit-Remaining-Requests": {"0"}, "X-Ratelimit-Reset-Requests": {"1s"}}
}

// benchCase is one request and what it meets.
type benchCase struct {
	name, key, body string
	sub             httpserver.Submitter
	status          int
}

func benchCases() []benchCase {
	body := `{"model":"stories","messages":[{"role":"user","content":"Tell me a story, please."}],"max_tokens":16,"temperature":0.7}`
	long := `{"model":"stories","messages":[{"role":"user","content":"` + strings.Repeat("Tell me about bees. ", 50) + `"}],"max_tokens":64,"temperature":0.7}`
	stream := strings.Replace(body, `"max_tokens"`, `"stream":true,"stream_options":{"include_usage":true},"max_tokens"`, 1)
	return []benchCase{
		{"answer", "infer", body, ready{}, 200},
		{"answer to a longer prompt", "infer", long, ready{}, 200},
		{"stream", "infer", stream, ready{}, 0},
		{"no key", "", body, ready{}, 401},
		{"not JSON", "infer", "nonsense", ready{}, 400},
		{"key twice", "infer", `{"model":"a","model":"b"}`, ready{}, 400},
		{"nested", "infer", `{"model":"demo","messages":` + strings.Repeat("[", 20_000), ready{}, 400},
		{"unknown model", "infer", body, refusing{&coded{code: "MODEL_NOT_FOUND"}}, 404},
		{"rate", "infer", body, refusing{admitted{&coded{code: "RATE_LIMITED", after: 59e9}}}, 429},
		{"full line", "infer", body, refusing{admitted{&coded{code: "SYSTEM_AT_CAPACITY", after: 1e9}}}, 503},
	}
}

func (c benchCase) server(b *testing.B) *httpserver.Server {
	s, err := httpserver.New(c.sub, httpservertest.Auth{Strict: true}, httpserver.Options{Observe: func(string, string, int, time.Duration) {}})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkHandler measures what the server itself costs, without a network: an answer, and refusals of each kind.
func BenchmarkHandler(b *testing.B) {
	for _, c := range benchCases() {
		b.Run(c.name, func(b *testing.B) {
			h, rd := c.server(b).Handler(), bytes.NewReader(nil)
			ctx := stdcontext.WithValue(stdcontext.Background(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7833})
			r := httptest.NewRequestWithContext(ctx, "POST", "http://127.0.0.1:7833/v1/chat/completions", nil)
			r.Header.Set("Authorization", "Bearer "+c.key)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("User-Agent", "bench")
			r.ContentLength = int64(len(c.body))
			data, w := []byte(c.body), &sink{h: make(http.Header, 16)}
			r.Body = io.NopCloser(rd)
			b.ReportAllocs()
			for b.Loop() {
				rd.Reset(data)
				clear(w.h)
				w.status = 0
				h.ServeHTTP(w, r)
			}
			if w.status != c.status {
				b.Fatalf("status %d, want %d", w.status, c.status)
			}
		})
	}
}
