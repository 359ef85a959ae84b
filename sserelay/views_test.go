package sserelay

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// chunks makes a chat stream of the given choice arrays.
func chunks(choices ...string) string {
	var b strings.Builder
	for _, c := range choices {
		fmt.Fprintf(&b, "data: {\"id\":\"chatcmpl-w\",\"object\":\"chat.completion.chunk\",\"created\":7,\"model\":\"m\",\"choices\":%s}\n\n", c)
	}
	return b.String() + "data: [DONE]\n\n"
}

func result(t *testing.T, s *Stream, v View) string {
	t.Helper()
	a, err := s.Result(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(a.Body) {
		t.Fatalf("not JSON: %s", a.Body)
	}
	return string(a.Body)
}

func TestToolCallsInEveryView(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, chunks(
		`[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]`,
		`[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"get","arguments":""}}]},"finish_reason":null}]`,
		`[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]},"finish_reason":null}]`,
		`[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"Bern\"}"}}]},"finish_reason":null}]`,
		`[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"c2","type":"function","function":{"name":"now","arguments":"{}"}}]},"finish_reason":null}]`,
		`[{"index":0,"delta":{},"finish_reason":"tool_calls"}]`,
	), CopyOptions{Protocol: Chat})
	calls := `[{"id":"c1","type":"function","function":{"name":"get","arguments":"{\"city\":\"Bern\"}"}},{"id":"c2","type":"function","function":{"name":"now","arguments":"{}"}}]`
	if got := result(t, s, View{Format: FormatChat}); !strings.Contains(got, `"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":`+calls+`}`) || !strings.Contains(got, `"finish_reason":"tool_calls"`) {
		t.Errorf("chat: %s", got)
	}
	native := serve(t, s, View{})
	if !strings.Contains(native, `data: {"t":"","i":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":"}}]}}`) || !strings.Contains(native, `"stop_reason":"tool_calls"`) {
		t.Errorf("native: %s", native)
	}
	ollama := serve(t, s, View{Format: FormatOllamaChat})
	if !strings.Contains(ollama, `"tool_calls":[{"function":{"name":"get","arguments":{"city":"Bern"}}},{"function":{"name":"now","arguments":{}}}]`) {
		t.Errorf("ollama: %s", ollama)
	}
	// and from native events back to chunks, as a worker of the execute protocol sends them
	e := open(t, nil, "j2", StreamOptions{})
	run(t, e, strings.ReplaceAll(native, "event: started", "event: ignored"), CopyOptions{Protocol: Execute})
	back := result(t, e, View{Format: FormatChat})
	if !strings.Contains(back, `"tool_calls":`+calls) {
		t.Errorf("back: %s", back)
	}
	if got := serve(t, e, View{Format: FormatChat}); !strings.Contains(got, `"delta":{"tool_calls":[{"index":1,"id":"c2",`) {
		t.Errorf("back, streamed: %s", got)
	}
}

func TestReasoningInEveryView(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, chunks(
		`[{"index":0,"delta":{"role":"assistant","reasoning_content":"let me "},"finish_reason":null}]`,
		`[{"index":0,"delta":{"reasoning_content":"think"},"finish_reason":null}]`,
		`[{"index":0,"delta":{"content":"42"},"finish_reason":null}]`,
		`[{"index":0,"delta":{},"finish_reason":"stop"}]`,
	), CopyOptions{Protocol: Chat})
	for v, want := range map[Format]string{
		FormatChat:       `"content":"42","reasoning_content":"let me think"`,
		FormatOllamaChat: `"content":"42","thinking":"let me think"`,
		FormatNative:     `"text":"42","messages":[{"role":"assistant","content":"42","reasoning_content":"let me think"}]`,
	} {
		if got := result(t, s, View{Format: v}); !strings.Contains(got, want) {
			t.Errorf("format %d: %s", v, got)
		}
	}
	if got := serve(t, s, View{}); !strings.Contains(got, `data: {"t":"","i":1,"delta":{"reasoning_content":"think"}}`) {
		t.Errorf("native: %s", got)
	}
	if got := serve(t, s, View{Format: FormatOllamaChat}); !strings.Contains(got, `"message":{"role":"assistant","content":"","thinking":"think"},"done":false}`) {
		t.Errorf("ollama: %s", got)
	}
}

func TestSeveralChoicesAndLogprobs(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	lp := `"logprobs":{"content":[{"token":%q,"logprob":-0.5}]}`
	run(t, s, chunks(
		`[{"index":1,"delta":{"role":"assistant","content":"b1"},`+fmt.Sprintf(lp, "b1")+`,"finish_reason":null}]`,
		`[{"index":0,"delta":{"role":"assistant","content":"a1"},`+fmt.Sprintf(lp, "a1")+`,"finish_reason":null}]`,
		`[{"index":0,"delta":{"content":"a2"},`+fmt.Sprintf(lp, "a2")+`,"finish_reason":null},{"index":1,"delta":{"content":"b2"},"finish_reason":null}]`,
		`[{"index":1,"delta":{},"finish_reason":"length"}]`,
		`[{"index":0,"delta":{},"finish_reason":"stop"}]`,
	), CopyOptions{Protocol: Chat})
	got := result(t, s, View{Format: FormatChat})
	want := `"choices":[{"index":0,"message":{"role":"assistant","content":"a1a2","refusal":null},"logprobs":{"content":[{"token":"a1","logprob":-0.5},{"token":"a2","logprob":-0.5}],"refusal":null},"finish_reason":"stop"},` +
		`{"index":1,"message":{"role":"assistant","content":"b1b2","refusal":null},"logprobs":{"content":[{"token":"b1","logprob":-0.5}],"refusal":null},"finish_reason":"length"}]`
	if !strings.Contains(got, want) {
		t.Errorf("got %s", got)
	}
	completion := serve(t, s, View{Format: FormatCompletion})
	for _, part := range []string{`"choices":[{"index":1,"text":"b2"`, `"choices":[{"index":1,"text":"","logprobs":null,"finish_reason":"length"}]`, `"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]`} {
		if !strings.Contains(completion, part) {
			t.Errorf("%s is missing in %s", part, completion)
		}
	}
	if native := serve(t, s, View{}); !strings.Contains(native, `{"t":"b1","i":0,"delta":{"index":1,"delta":{"role":"assistant","content":"b1"},"logprobs":`) {
		t.Errorf("native: %s", native)
	}
}

func TestBodiesAreKeptAsTheyAre(t *testing.T) {
	in := `{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"timings":{"x":1}}`
	s := open(t, nil, "j1", StreamOptions{})
	ctx := t.Context()
	out, err := s.Body(ctx, Chat, 200, http.Header{"Content-Type": {"application/json; charset=utf-8"}}, []byte(in))
	if err != nil || out.Finish != "length" || out.PromptTokens != 3 || out.OutputTokens != 2 {
		t.Fatalf("%+v %v", out, err)
	}
	if err := s.End(ctx, Result{Finish: out.Finish, PromptTokens: 3, OutputTokens: 2}); err != nil {
		t.Fatal(err)
	}
	a, err := s.Result(ctx, View{Format: FormatChat})
	if err != nil || string(a.Body) != in || a.ContentType != "application/json; charset=utf-8" || a.Status != 200 {
		t.Fatalf("%s %v", a.Body, err)
	}
	if got := result(t, s, View{Format: FormatCompletion}); !strings.Contains(got, `"text":"hi"`) {
		t.Errorf("completion: %s", got)
	}
	if got := serve(t, s, View{}); !strings.Contains(got, "event: token\ndata: {\"t\":\"hi\",\"i\":0,\"n\":2}\n") {
		t.Errorf("native: %s", got)
	}
	chat := serve(t, s, View{Format: FormatChat, IncludeUsage: true})
	if txt, _, roles, finish := text(t, chat); txt != "hi" || roles != 1 || finish != "length" {
		t.Errorf("chunks: %s", chat)
	}
	big := strings.Repeat("x", 600<<10) // larger than the window
	r := open(t, nil, "j2", StreamOptions{})
	if _, err := r.Body(ctx, Bytes, 201, http.Header{"Content-Type": {"audio/mpeg"}}, []byte(big)); err != nil {
		t.Fatal(err)
	}
	if err := r.End(ctx, Result{}); err != nil {
		t.Fatal(err)
	}
	a, err = r.Result(ctx, View{Format: FormatRaw})
	if err != nil || a.Status != 201 || string(a.Body) != big || a.ContentType != "audio/mpeg" {
		t.Fatalf("%v %d", err, len(a.Body))
	}
	w := httptest.NewRecorder()
	if err := r.Serve(ctx, w, View{Format: FormatRaw}); err != nil || w.Code != 201 || w.Body.String() != big || w.Header().Get("Content-Type") != "audio/mpeg" {
		t.Errorf("raw: %v %d %d", err, w.Code, w.Body.Len())
	}
}

func TestRawStreamsAndBytes(t *testing.T) {
	in := "event: response.created\ndata: {\"a\":1}\n\nid: 7\nevent: response.done\ndata: {}\n\n"
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, in, CopyOptions{Protocol: Raw, ContentType: "text/event-stream"})
	if diff := cmp.Diff(in, serve(t, s, View{Format: FormatRaw})); diff != "" {
		t.Error(diff)
	}
	want := "id: 2\nevent: response.done\ndata: {}\n\n"
	if diff := cmp.Diff(want, serve(t, s, View{Format: FormatRaw, IDs: true, LastEventID: "1"})); diff != "" {
		t.Error(diff)
	}
	b := open(t, nil, "j2", StreamOptions{})
	run(t, b, "RIFF\x00\n\n", CopyOptions{Protocol: Bytes, ContentType: "audio/wav"})
	w := httptest.NewRecorder()
	if err := b.Serve(t.Context(), w, View{Format: FormatRaw}); err != nil || w.Body.String() != "RIFF\x00\n\n" || w.Header().Get("Content-Type") != "audio/wav" {
		t.Errorf("%v %q %v", err, w.Body, w.Header())
	}
	c := open(t, nil, "j3", StreamOptions{})
	c.Copy(t.Context(), body("half of a song"), CopyOptions{Protocol: Bytes, ContentType: "audio/wav"})
	done := make(chan error, 1)
	cut := &pipeWriter{ResponseRecorder: httptest.NewRecorder(), wrote: make(chan struct{}, 8)}
	go func() { done <- c.Serve(t.Context(), cut, View{Format: FormatRaw}) }()
	<-cut.wrote
	if err := c.Fail(t.Context(), "WORKER_FAILED", "lost"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrAborted) {
		t.Errorf("a body that broke must be cut: %v", err)
	}
}

// pipeWriter tells when something was written.
type pipeWriter struct {
	*httptest.ResponseRecorder
	wrote chan struct{}
}

func (p *pipeWriter) Write(b []byte) (int, error) {
	defer func() { p.wrote <- struct{}{} }()
	return p.ResponseRecorder.Write(b)
}

func TestRefusalIsShownAsItIs(t *testing.T) {
	refusal := `{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error","n_prompt_tokens":99}}`
	s := open(t, nil, "j1", StreamOptions{})
	ctx := t.Context()
	if err := s.Started(ctx, "w", "n", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Body(ctx, Chat, 400, http.Header{"Content-Type": {"application/json"}}, []byte(refusal)); err != nil {
		t.Fatal(err)
	}
	if err := s.Fail(ctx, "INVALID_REQUEST", "the worker refused it"); err != nil {
		t.Fatal(err)
	}
	a, err := s.Result(ctx, View{Format: FormatChat})
	if err != nil || a.Status != 400 || string(a.Body) != refusal {
		t.Fatalf("%v %+v", err, a)
	}
	w := httptest.NewRecorder()
	if err := s.Serve(ctx, w, View{Format: FormatChat}); err != nil || w.Code != 400 || w.Body.String() != refusal || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%v %d %s", err, w.Code, w.Body)
	}
	if got := serve(t, s, View{}); !strings.Contains(got, "event: error\ndata: {\"code\":\"INVALID_REQUEST\"") {
		t.Errorf("native: %s", got)
	}
	var e *Error
	if _, err := s.Result(ctx, View{}); !errors.As(err, &e) || e.Code() != "INVALID_REQUEST" {
		t.Errorf("native result: %v", err)
	}
}

func TestOllamaViews(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, execStream(0, "Hi", "!"), CopyOptions{Protocol: Execute})
	for f, piece := range map[Format]string{
		FormatOllamaChat:     `"message":{"role":"assistant","content":"Hi"},"done":false}`,
		FormatOllamaGenerate: `"response":"Hi","done":false}`,
	} {
		w := httptest.NewRecorder()
		if err := s.Serve(t.Context(), w, View{Format: f, IDs: true}); err != nil {
			t.Fatal(err)
		}
		if ct := w.Header().Get("Content-Type"); ct != "application/x-ndjson" {
			t.Errorf("content type %q", ct)
		}
		lines := strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n")
		if len(lines) != 3 || !strings.HasSuffix(lines[0], piece) {
			t.Errorf("lines %q", lines)
		}
		var last struct {
			Model      string    `json:"model"`
			CreatedAt  time.Time `json:"created_at"`
			Done       bool      `json:"done"`
			Reason     string    `json:"done_reason"`
			EvalCount  int       `json:"eval_count"`
			PromptEval int       `json:"prompt_eval_count"`
		}
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
			t.Fatal(err)
		}
		if last.Model != "tiny" || !last.Done || last.Reason != "length" || last.EvalCount != 2 || last.PromptEval != 5 || last.CreatedAt.IsZero() {
			t.Errorf("last line %+v", last)
		}
		for _, l := range lines {
			if !json.Valid([]byte(l)) {
				t.Errorf("not JSON: %s", l)
			}
		}
	}
	if got := result(t, s, View{Format: FormatOllamaGenerate}); !strings.Contains(got, `"response":"Hi!"`) {
		t.Errorf("result %s", got)
	}
	bad := open(t, nil, "j2", StreamOptions{})
	if err := bad.Started(t.Context(), "w", "n", 1); err != nil {
		t.Fatal(err)
	}
	bad.Copy(t.Context(), body(cutAfter(execStream(0, "a", "b"), 2)), CopyOptions{Protocol: Execute})
	if err := bad.Fail(t.Context(), "WORKER_FAILED", "lost"); err != nil {
		t.Fatal(err)
	}
	if got := serve(t, bad, View{Format: FormatOllamaChat}); !strings.HasSuffix(got, "{\"error\":\"lost\"}\n") || strings.Contains(got, `"done":true`) {
		t.Errorf("failed: %s", got)
	}
}

func TestOnHeadersAndWorker(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	run(t, s, chatStream("a"), CopyOptions{Protocol: Chat})
	w := httptest.NewRecorder()
	err := s.Serve(t.Context(), w, View{Format: FormatChat, OnHeaders: func(h http.Header) {
		id, node := s.Worker()
		h.Set("X-Rbee-Worker-Id", id+"@"+node)
	}})
	if err != nil || w.Header().Get("X-Rbee-Worker-Id") != "w1@local" || w.Header().Get("Content-Type") != "text/event-stream; charset=utf-8" {
		t.Errorf("%v %v", err, w.Header())
	}
}

// TestAskedIsKept: what the job's own client reads is known to whoever comes later, in another life too, and shown to nobody.
func TestAskedIsKept(t *testing.T) {
	j := NewMemoryJournal(MemoryOptions{})
	for id, o := range map[string]StreamOptions{"chat": {Format: FormatChat}, "text": {Format: FormatCompletion, IncludeUsage: true}, "task": {}} {
		s, err := NewHub(j, Options{}).Open(t.Context(), id, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Started(t.Context(), "w", "n", 1); err != nil {
			t.Fatal(err)
		}
		if err := s.End(t.Context(), Result{}); err != nil {
			t.Fatal(err)
		}
		later, err := NewHub(j, Options{}).Replay(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for life, s := range map[string]*Stream{"its own": s, "a later": later} {
			f, usage, known := s.Asked()
			if f != o.Format || usage != o.IncludeUsage || known != (id != "task") {
				t.Errorf("%s in %s life: %v %t %t", id, life, f, usage, known)
			}
		}
		w := httptest.NewRecorder()
		if err := later.Serve(t.Context(), w, View{Format: FormatNative}); err != nil {
			t.Fatal(err)
		}
		if out := w.Body.String(); strings.Contains(out, `"as"`) || strings.Contains(out, "usage") || !strings.Contains(out, `"attempt":1,"started_at":`) {
			t.Errorf("native readers see %s", out)
		}
	}
}
