package httpserver_test

import (
	stdcontext "context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// TestFault25DisconnectReachesTheJob leaves in the middle, streaming or not, before and after the first byte: the job's
// context must end.
func TestFault25DisconnectReachesTheJob(t *testing.T) {
	for name, body := range map[string]string{"waiting": chatBody, "stream in prefill": strings.Replace(chatBody, "{", `{"stream":true,`, 1), "stream": strings.Replace(chatBody, "{", `{"stream":true,"seed":1,`, 1)} {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, false, httpserver.Options{})
			begun, ended := make(chan struct{}), make(chan error, 1)
			hold := func(ctx context) error {
				close(begun)
				<-ctx.Done()
				ended <- ctx.Err()
				return ctx.Err()
			}
			g.f.OnResult = func(ctx context, _ *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
				return nil, hold(ctx)
			}
			g.f.OnServe = func(ctx context, _ *httpserver.Request, w http.ResponseWriter, _ httpserver.View) error {
				if name == "stream" {
					_, _ = io.WriteString(w, ": ping\n\n")
					_ = http.NewResponseController(w).Flush()
				}
				return hold(ctx)
			}
			ctx, cancel := stdcontext.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, "POST", g.url+"/v1/chat/completions", strings.NewReader(body))
			done := make(chan struct{})
			go func() {
				defer close(done)
				if resp, err := g.client.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			<-begun
			cancel()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("the job was not told that its client had gone")
			}
			<-done
		})
	}
}

// TestFault18FloodIsRefusedWithHints lets four jobs in and floods: every refusal carries a hint, and the four end well.
func TestFault18FloodIsRefusedWithHints(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	release := make(chan struct{})
	var held atomic.Int64
	inside := make(chan struct{}, 4)
	g.f.Refuse = func(r *httpserver.Request) error {
		if held.Add(1) > 4 {
			if r.Model == "quota" {
				return &coded{code: "RATE_LIMITED", after: time.Second}
			}
			return &coded{code: "SYSTEM_AT_CAPACITY", after: 2 * time.Second}
		}
		return nil
	}
	g.f.OnResult = func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		inside <- struct{}{}
		<-release
		return &httpserver.Result{Body: []byte(`{"ok":true}`)}, nil
	}
	var wg sync.WaitGroup
	answers := make(chan string, 4)
	for range 4 {
		wg.Go(func() { b, _ := g.try("POST", "/v1/chat/completions", chatBody); answers <- b })
		<-inside
	}
	for i := range 400 {
		body := chatBody
		if i%2 == 0 {
			body = strings.Replace(chatBody, "stories", "quota", 1)
		}
		resp, got := g.do(t, "POST", "/v1/chat/completions", body)
		if (resp.StatusCode != 429 && resp.StatusCode != 503) || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Retry-After-Ms") == "" ||
			resp.Header.Get("X-Should-Retry") != "true" {
			t.Fatalf("%d %v %s", resp.StatusCode, resp.Header, got)
		}
	}
	close(release)
	wg.Wait()
	for range 4 {
		if b := <-answers; b != `{"ok":true}` {
			t.Errorf("an accepted job answered %q", b)
		}
	}
}

// TestFault27Drain refuses new jobs, ends feeds, and waits for what is open.
func TestFault27Drain(t *testing.T) {
	f := &httpservertest.Submitter{}
	feed := &fakeFeed{}
	s, err := httpserver.New(f, httpservertest.Auth{}, httpserver.Options{Feed: feed})
	if err != nil {
		t.Fatal(err)
	}
	inside, release := make(chan struct{}), make(chan struct{})
	f.OnResult = func(context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		close(inside)
		<-release
		return &httpserver.Result{Body: []byte(`{"ok":true}`)}, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l) }()
	g := &rig{f: f, s: s, url: "http://" + l.Addr().String(), client: &http.Client{Transport: &http.Transport{}}}
	defer g.client.CloseIdleConnections()
	answer := make(chan string, 1)
	go func() { b, _ := g.try("POST", "/v1/chat/completions", chatBody); answer <- b }()
	<-inside
	followed := make(chan error, 1)
	go func() { _, err := g.try("GET", "/v2/events", ""); followed <- err }()
	feed.wait(t)
	s.Refuse()
	if err := <-followed; err != nil {
		t.Errorf("the feed did not end cleanly: %v", err)
	}
	g.client.CloseIdleConnections() // the server closes them, but the client may not have seen that
	resp, _ := g.do(t, "POST", "/v1/chat/completions", chatBody)
	if resp.StatusCode != 503 || resp.Header.Get("X-Rbee-Error") != "SHUTTING_DOWN" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := g.do(t, "GET", "/ready", ""); resp.StatusCode != 503 {
		t.Errorf("ready says %d", resp.StatusCode)
	}
	if resp, _ := g.do(t, "GET", "/health", ""); resp.StatusCode != 200 {
		t.Errorf("health says %d", resp.StatusCode)
	}
	drained := make(chan error, 1)
	go func() { drained <- s.Drain(t.Context()) }()
	select {
	case err := <-drained:
		t.Fatalf("drained (%v) before the job had ended", err)
	case err := <-served:
		if err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	if b := <-answer; b != `{"ok":true}` {
		t.Errorf("the open job answered %q", b)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestDrainCutsAtItsDeadline gives up on a job that never ends.
func TestDrainCutsAtItsDeadline(t *testing.T) {
	f := &httpservertest.Submitter{}
	s, err := httpserver.New(f, httpservertest.Auth{}, httpserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	inside := make(chan struct{})
	f.OnResult = func(ctx context, _ *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
		close(inside)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(t.Context(), l) }()
	g := &rig{f: f, s: s, url: "http://" + l.Addr().String(), client: &http.Client{Transport: &http.Transport{}}}
	defer g.client.CloseIdleConnections()
	cut := make(chan error, 1)
	go func() { _, err := g.try("POST", "/v1/chat/completions", chatBody); cut <- err }()
	<-inside
	ctx, cancel := stdcontext.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Drain(ctx); !errors.Is(err, stdcontext.DeadlineExceeded) {
		t.Errorf("drain: %v", err)
	}
	if err := <-cut; err == nil {
		t.Error("the job's client saw a clean end")
	}
}

// TestRefusedBodiesAreNobodys: the memory of a body that was refused is used again, that of a body that somebody has is not.
func TestRefusedBodiesAreNobodys(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	var mu sync.Mutex
	kept := map[byte][][]byte{} // by what they are filled with
	g.f.Refuse = func(r *httpserver.Request) error {
		mu.Lock()
		defer mu.Unlock()
		fill := r.Prompt[len(r.Prompt)/2]
		kept[fill] = append(kept[fill], r.Body)
		if fill%2 == 0 { // refused, too, but not by the parser
			return &coded{code: "RATE_LIMITED"}
		}
		return nil
	}
	body := func(fill byte, model string) string {
		return `{"model":` + model + `,"messages":[{"role":"user","content":"` + strings.Repeat(string(fill), 10_000) + `"}]}`
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			fill := byte('a' + worker)
			for range 50 {
				if got, err := g.try("POST", "/v1/chat/completions", body(fill, `"m"`)); err != nil || got == "" {
					t.Error(got, err)
				}
				if got, err := g.try("POST", "/v1/chat/completions", body('z', `5`)); err != nil || !strings.Contains(got, "model must be") {
					t.Error(got, err)
				}
			}
		})
	}
	wg.Wait()
	for fill, all := range kept {
		for _, b := range all {
			if string(b) != body(fill, `"m"`) {
				t.Fatalf("a body of %q became %.60q", fill, b)
			}
		}
	}
}
