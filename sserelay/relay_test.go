package sserelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// chatStream is what llama-server sends for a short answer.
func chatStream(words ...string) string {
	var b strings.Builder
	chunk := func(delta, finish string) {
		fmt.Fprintf(&b, `data: {"choices":[{"finish_reason":%s,"index":0,"delta":%s}],"created":7,"id":"chatcmpl-w","model":"m.gguf","object":"chat.completion.chunk"}`+"\n\n", finish, delta)
	}
	chunk(`{"role":"assistant","content":null}`, "null")
	for _, w := range words {
		chunk(fmt.Sprintf(`{"content":%q}`, w), "null")
	}
	chunk(`{}`, `"stop"`)
	fmt.Fprintf(&b, `data: {"choices":[],"created":7,"id":"chatcmpl-w","model":"m.gguf","object":"chat.completion.chunk","usage":{"completion_tokens":%d,"prompt_tokens":5,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":2}}}`+"\n\n", len(words))
	b.WriteString("data: [DONE]\n\n")
	return b.String()
}

// execStream is what the native worker protocol sends.
func execStream(from int, words ...string) string {
	var b strings.Builder
	b.WriteString("event: started\ndata: {}\n\n")
	for i, w := range words {
		fmt.Fprintf(&b, "event: token\ndata: {\"t\":%q,\"i\":%d}\n\n", w, from+i)
	}
	fmt.Fprintf(&b, "event: end\ndata: {\"tokens_out\":%d,\"prompt_tokens\":5,\"cached_tokens\":2,\"decode_time_ms\":9,\"stop_reason\":\"length\"}\n\n", len(words))
	return b.String()
}

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

func open(t *testing.T, j Journal, id string, o StreamOptions) *Stream {
	t.Helper()
	if o.Model == "" {
		o.Model = "tiny"
	}
	if o.Created.IsZero() {
		o.Created = time.Unix(1700000000, 0)
	}
	s, err := NewHub(j, Options{TakeAfter: -1}).Open(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run copies a whole worker answer and ends the stream.
func run(t *testing.T, s *Stream, stream string, o CopyOptions) Outcome {
	t.Helper()
	ctx := t.Context()
	if err := s.Started(ctx, "w1", "local", 1); err != nil {
		t.Fatal(err)
	}
	out, err := s.Copy(ctx, body(stream), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.End(ctx, Result{Finish: out.Finish, PromptTokens: out.PromptTokens, CachedTokens: out.CachedTokens, OutputTokens: out.OutputTokens}); err != nil {
		t.Fatal(err)
	}
	return out
}

func serve(t *testing.T, s *Stream, v View) string {
	t.Helper()
	w := httptest.NewRecorder()
	if err := s.Serve(t.Context(), w, v); err != nil {
		t.Fatalf("serve: %v", err)
	}
	return w.Body.String()
}

func TestChatPassThroughIsUntouched(t *testing.T) {
	for _, detached := range []bool{false, true} {
		s := open(t, nil, "j1", StreamOptions{Detached: detached})
		in := chatStream("Once", " upon", " a time")
		out := run(t, s, in, CopyOptions{Protocol: Chat})
		if diff := cmp.Diff(in, serve(t, s, View{Format: FormatChat, IncludeUsage: true})); diff != "" {
			t.Errorf("the worker's bytes changed (-worker +client):\n%s", diff)
		}
		if out.Finish != "stop" || out.OutputTokens != 3 || out.PromptTokens != 5 || out.CachedTokens != 2 || !out.Complete || out.Frames != 6 {
			t.Errorf("outcome %+v", out)
		}
	}
}

func TestUsageIsStrippedWhereItWasNotAskedFor(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	out := run(t, s, chatStream("a"), CopyOptions{Protocol: Chat, StripUsage: true})
	got := serve(t, s, View{Format: FormatChat})
	if strings.Contains(got, "usage") || !strings.HasSuffix(got, "data: [DONE]\n\n") {
		t.Errorf("got %s", got)
	}
	if out.OutputTokens != 1 || out.PromptTokens != 5 {
		t.Errorf("outcome %+v", out)
	}
}

func TestNativeViewOfChat(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, chatStream("Once", " upon"), CopyOptions{Protocol: Chat})
	got := serve(t, s, View{IDs: true})
	_, rest, _ := strings.Cut(got, "\n\n")
	want := "id: 2\nevent: token\ndata: {\"t\":\"Once\",\"i\":0}\n\n" +
		"id: 3\nevent: token\ndata: {\"t\":\" upon\",\"i\":1}\n\n" +
		"id: 4\nevent: end\ndata: {\"tokens_out\":2,\"prompt_tokens\":5,\"cached_tokens\":2,\"decode_time_ms\":0,\"stop_reason\":\"stop\"}\n\n"
	if diff := cmp.Diff(want, rest); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(got, "id: 1\nevent: started\ndata: {\"job_id\":\"j1\",\"model\":\"tiny\",\"worker_id\":\"w1\",\"node\":\"local\",\"attempt\":1,\"started_at\":") {
		t.Errorf("started: %s", got)
	}
	if tail := serve(t, s, View{IDs: true, LastEventID: "3"}); !strings.HasPrefix(tail, "id: 4\nevent: end") {
		t.Errorf("resume: %s", tail)
	}
}

func TestChatViewOfExecute(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, execStream(0, "Hi", " there"), CopyOptions{Protocol: Execute})
	head := `data: {"id":"chatcmpl-j1","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":`
	want := head + `[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `[{"index":0,"delta":{"content":" there"},"finish_reason":null}],"usage":null}` + "\n\n" +
		head + `[{"index":0,"delta":{},"finish_reason":"length"}],"usage":null}` + "\n\n" +
		head + `[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}` + "\n\n" +
		"data: [DONE]\n\n"
	if diff := cmp.Diff(want, serve(t, s, View{Format: FormatChat, IncludeUsage: true})); diff != "" {
		t.Error(diff)
	}
	a, err := s.Result(t.Context(), View{Format: FormatChat})
	if err != nil {
		t.Fatal(err)
	}
	wantBody := `{"id":"chatcmpl-j1","object":"chat.completion","created":1700000000,"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hi there","refusal":null},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}}}`
	if diff := cmp.Diff(wantBody, string(a.Body)); diff != "" {
		t.Error(diff)
	}
}

func TestFailureIsNeverADone(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	ctx := t.Context()
	if err := s.Started(ctx, "w", "n", 1); err != nil {
		t.Fatal(err)
	}
	cut := chatStream("a", "b", "c")
	cut = cut[:strings.Index(cut, `"c"`)]
	out, err := s.Copy(ctx, body(cut), CopyOptions{Protocol: Chat})
	if !errors.Is(err, ErrTruncated) || out.Complete {
		t.Fatalf("copy: %v %+v", err, out)
	}
	if err := s.Fail(ctx, "WORKER_FAILED", "lost"); err != nil {
		t.Fatal(err)
	}
	if err := s.End(ctx, Result{}); !errors.Is(err, ErrEnded) {
		t.Fatalf("second terminal: %v", err)
	}
	got := serve(t, s, View{Format: FormatChat})
	if strings.Contains(got, "[DONE]") || !strings.HasSuffix(got, `data: {"error":{"message":"lost","type":"server_error","param":null,"code":"worker_failed"}}`+"\n\n") {
		t.Errorf("got %s", got)
	}
	if _, err := s.Result(ctx, View{Format: FormatChat}); err == nil {
		t.Error("a failed stream gave a result")
	}
}

func TestErrorBeforeHeadersIsReturned(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	if err := s.Fail(t.Context(), "NO_HIVE_AVAILABLE", "add one"); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	err := s.Serve(t.Context(), w, View{Format: FormatChat})
	var e *Error
	if !errors.As(err, &e) || e.Code() != "NO_HIVE_AVAILABLE" || w.Body.Len() > 0 {
		t.Fatalf("%v %q", err, w.Body)
	}
}

func TestHeadersAreHeldThenPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil, "j1", StreamOptions{})
		w := httptest.NewRecorder()
		ctx, cancel := context.WithTimeout(t.Context(), 41*time.Second)
		defer cancel()
		err := s.Serve(ctx, w, View{Format: FormatChat})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if got := strings.Count(w.Body.String(), ": ping\n\n"); got != 3 { // 10, 25, 40 s
			t.Errorf("%d pings in %q", got, w.Body)
		}
	})
}

func TestIdleFollowsTheReaders(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	idle := s.Idle()
	a, b := s.join(false), s.join(false)
	s.leave(a)
	select {
	case <-idle:
		t.Fatal("idle with a reader left")
	default:
	}
	s.leave(b)
	<-idle
	c := s.join(false)
	select {
	case <-s.Idle():
		t.Fatal("idle after a reader came back")
	default:
	}
	s.leave(c)
	<-s.Idle()
}

func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, nil, "j1", StreamOptions{})
		r, w := io.Pipe()
		begin := time.Now()
		_, err := s.Copy(t.Context(), r, CopyOptions{Protocol: Chat, FirstTimeout: time.Minute, NextTimeout: time.Second})
		if !errors.Is(err, ErrFirstTimeout) || time.Since(begin) != time.Minute {
			t.Fatalf("%v after %v", err, time.Since(begin))
		}
		w.Close()
		r, w = io.Pipe()
		go io.WriteString(w, chatStream("a")[:200])
		_, err = s.Copy(t.Context(), r, CopyOptions{Protocol: Chat, FirstTimeout: time.Minute, NextTimeout: time.Second})
		if !errors.Is(err, ErrStalled) {
			t.Fatal(err)
		}
	})
}
