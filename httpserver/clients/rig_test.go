package clients

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/batches"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type refusal struct {
	code, message string
	after         time.Duration
}

func (e refusal) Error() string             { return e.message }
func (e refusal) Code() string              { return e.code }
func (e refusal) RetryAfter() time.Duration { return e.after }

type rig struct {
	url      string
	requests atomic.Int64
	released chan struct{} // a hanging job was told that its client had gone
	busy     atomic.Int64
}

// newRig starts a server with one model, stories. The word hang in a prompt makes an endless stream, break one that
// breaks, quota and busy refusals.
func newRig(t *testing.T) *rig {
	t.Helper()
	g := &rig{released: make(chan struct{}, 16)}
	f := &httpservertest.Submitter{Refuse: g.refuse}
	f.OnServe = func(ctx context.Context, r *httpserver.Request, w http.ResponseWriter, v httpserver.View) error {
		switch {
		case strings.Contains(string(r.Prompt), "hang"):
			return g.hang(ctx, w, v)
		case strings.Contains(string(r.Prompt), "break"):
			w.Header().Set("Content-Type", "text/event-stream")
			_, err := io.WriteString(w, `data: {"error":{"message":"the worker was lost","type":"server_error","param":null,"code":"worker_failed"}}`+"\n\n")
			return err
		}
		return httpservertest.Answer(w, v, "c1")
	}
	f.OnResult = func(_ context.Context, r *httpserver.Request, v httpserver.View) (*httpserver.Result, error) {
		if r.Surface == httpserver.SurfaceEmbeddings && strings.Contains(string(r.Body), `"base64"`) {
			return &httpserver.Result{Body: fmt.Appendf(nil, `{"object":"list","model":"stories","data":[{"object":"embedding","index":0,"embedding":%q}],"usage":{"prompt_tokens":2,"total_tokens":2}}`, vector(0.5, 0.25))}, nil
		}
		return httpservertest.Whole(v, "c1"), nil
	}
	b, err := batches.New(batches.NewMemory(), f, batches.Options{FlushEvery: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	s, err := httpserver.New(f, httpservertest.Auth{Strict: true}, httpserver.Options{Catalog: httpservertest.Models{}, Batches: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.Run(ctx) }()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		s.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() { ts.Close(); cancel(); <-done })
	g.url = ts.URL
	return g
}

func (g *rig) refuse(r *httpserver.Request) error {
	prompt := string(r.Prompt)
	switch {
	case r.Model != "stories":
		return refusal{code: "MODEL_NOT_FOUND", message: "no model " + r.Model + ": GET /v1/models lists what there is"}
	case strings.Contains(prompt, "quota"):
		return refusal{code: "QUOTA_EXCEEDED", message: "the tenant's tokens for today are used up", after: time.Hour}
	case strings.Contains(prompt, "busy once") && g.busy.Add(1) == 1:
		return refusal{code: "RATE_LIMITED", message: "too many requests", after: 20 * time.Millisecond}
	}
	return nil
}

func (g *rig) hang(ctx context.Context, w http.ResponseWriter, v httpserver.View) error {
	line := `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"stories","choices":[{"index":0,"delta":{"role":"assistant","content":"x"},"finish_reason":null}]}` + "\n\n"
	if v.Format == httpserver.FormatOllamaChat {
		line = `{"model":"stories","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"x"},"done":false}` + "\n"
	}
	for range 3 {
		_, _ = io.WriteString(w, line)
	}
	_ = http.NewResponseController(w).Flush()
	<-ctx.Done()
	g.released <- struct{}{}
	return ctx.Err()
}

func vector(values ...float32) string {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// missing ends a test for want of a tool: a skip for people, a failure for CI.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatal(what)
	}
	t.Skip("needs test data from make deps: " + what)
}
