package sserelay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// text returns the text of the chat or completion chunks that a client got, and the ids that they had.
func text(t *testing.T, stream string) (text string, ids map[string]bool, roles int, finish string) {
	t.Helper()
	ids = map[string]bool{}
	p := NewParser(strings.NewReader(stream), ParserOptions{})
	for {
		ev, err := p.Next()
		if err != nil {
			return text, ids, roles, finish
		}
		c, ok := parseChunk(ev.Data)
		if !ok {
			t.Fatalf("not JSON: %s", ev.Data)
		}
		if c.done || c.count == 0 {
			continue
		}
		ids[string(c.id)+string(c.created)+string(c.model)] = true
		text += unquote(c.choice.text)
		if c.choice.role != nil {
			roles++
		}
		if len(c.choice.finish) > 0 {
			finish = string(c.choice.finish)
		}
	}
}

// second is what another worker sends for the rest of an answer.
func second(words ...string) string {
	s := strings.ReplaceAll(chatStream(words...), "chatcmpl-w", "chatcmpl-second")
	s = strings.ReplaceAll(s, `"created":7`, `"created":99`)
	return strings.ReplaceAll(s, "m.gguf", "other.gguf")
}

// cutAfter ends a stream in the middle of the event after n tokens.
func cutAfter(stream string, events int) string {
	parts := strings.SplitAfter(stream, "\n\n")
	return strings.Join(parts[:events], "") + parts[events][:len(parts[events])/2]
}

func TestContinuationLooksLikeOneStream(t *testing.T) {
	for _, recovered := range []bool{false, true} {
		t.Run(fmt.Sprint("recovered=", recovered), func(t *testing.T) {
			j := NewMemoryJournal(MemoryOptions{})
			s := open(t, j, "j1", StreamOptions{Detached: recovered})
			ctx := t.Context()
			if err := s.Started(ctx, "w1", "a", 1); err != nil {
				t.Fatal(err)
			}
			_, err := s.Copy(ctx, body(cutAfter(chatStream("Once", " upon", " a", " time"), 3)), CopyOptions{Protocol: Chat})
			if !errors.Is(err, ErrTruncated) {
				t.Fatal(err)
			}
			if recovered {
				s = open(t, j, "j1", StreamOptions{Detached: true, Recovered: true})
			}
			prefix, tokens, ok := s.Prefix()
			if prefix != "Once upon" || tokens != 2 || !ok {
				t.Fatalf("prefix %q %d %v", prefix, tokens, ok)
			}
			if err := s.Started(ctx, "w2", "b", 2); err != nil {
				t.Fatal(err)
			}
			out, err := s.Copy(ctx, body(second(" a", " time", ".")), CopyOptions{Protocol: Chat, Continuation: &Continuation{Stop: []string{"END"}}})
			if err != nil {
				t.Fatal(err)
			}
			if out.OutputTokens != 5 || out.PromptTokens != 3 || out.Finish != "stop" {
				t.Errorf("outcome %+v", out)
			}
			if err := s.End(ctx, Result{Finish: out.Finish, OutputTokens: out.OutputTokens, PromptTokens: out.PromptTokens}); err != nil {
				t.Fatal(err)
			}
			stream := serve(t, s, View{Format: FormatChat, IncludeUsage: true})
			got, ids, roles, finish := text(t, stream)
			if got != "Once upon a time." || len(ids) != 1 || roles != 1 || finish != "stop" {
				t.Errorf("%q, ids %v, %d roles, finish %q", got, ids, roles, finish)
			}
			if !strings.Contains(stream, `"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8,`) || !strings.HasSuffix(stream, "data: [DONE]\n\n") {
				t.Errorf("usage: %s", stream)
			}
			native := serve(t, s, View{IDs: true})
			if strings.Count(native, "event: started") != 2 || !strings.Contains(native, "id: 7\nevent: token\ndata: {\"t\":\".\",\"i\":4}\n") {
				t.Errorf("native: %s", native)
			}
		})
	}
}

func TestContinuationOfExecute(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	ctx := t.Context()
	if err := s.Started(ctx, "w1", "a", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Copy(ctx, body(cutAfter(execStream(0, "a", "b", "c"), 3)), CopyOptions{Protocol: Execute}); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
	// this worker counts from 0 again: the view puts the index right
	out, err := s.Copy(ctx, body(execStream(0, "c", "d")), CopyOptions{Protocol: Execute, Continuation: &Continuation{}})
	if err != nil || out.OutputTokens != 4 {
		t.Fatal(out, err)
	}
	if err := s.End(ctx, Result{Finish: out.Finish}); err != nil {
		t.Fatal(err)
	}
	got := serve(t, s, View{})
	for i, w := range []string{"a", "b", "c", "d"} {
		if want := fmt.Sprintf("event: token\ndata: {\"t\":%q,\"i\":%d}\n\n", w, i); !strings.Contains(got, want) {
			t.Errorf("%q is missing in %s", want, got)
		}
	}
}

func TestStopStringAcrossTheSeam(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after []string
		want          string
	}{
		"across":         {[]string{"one ", "E"}, []string{"ND", " two"}, "one E"},
		"later text":     {[]string{"one ", "E"}, []string{"x", "y", " two"}, "one Exy two"},
		"part of a word": {[]string{"one", "E"}, []string{"N", "Dx", " two"}, "oneEN"},
		"after the seam": {[]string{"one"}, []string{" EN", "D"}, "one END"}, // the worker's own business
	} {
		s := open(t, nil, "j1", StreamOptions{})
		ctx := t.Context()
		s.Copy(ctx, body(cutAfter(chatStream(append(tc.before, "lost")...), len(tc.before)+1)), CopyOptions{Protocol: Chat})
		out, err := s.Copy(ctx, body(second(tc.after...)), CopyOptions{Protocol: Chat, Continuation: &Continuation{Stop: []string{"END"}}})
		if err != nil || out.Finish != "stop" || !out.Complete {
			t.Fatalf("%s: %+v %v", name, out, err)
		}
		if err := s.End(ctx, Result{Finish: out.Finish}); err != nil {
			t.Fatal(err)
		}
		if got, _, _, finish := text(t, serve(t, s, View{Format: FormatChat})); got != tc.want || finish != "stop" {
			t.Errorf("%s: %q, finish %q", name, got, finish)
		}
	}
}

func TestInjectedFieldsAreStripped(t *testing.T) {
	chunk := `{"choices":[{"finish_reason":null,"index":0,"delta":{"content":"hi"}}],"created":7,"id":"x","model":"m"%s}`
	in := "data: " + fmt.Sprintf(chunk, `,"__verbose":{"content":"hi","tokens":[5,6,7]}`) + "\n\n" +
		"data: " + `{"tokens":[9],"choices":[{"index":0,"text":"!","finish_reason":"stop"}],"id":"x"}` + "\n\ndata: [DONE]\n\n"
	s := open(t, nil, "j1", StreamOptions{})
	out, err := s.Copy(t.Context(), body(in), CopyOptions{Protocol: Chat, StripVerbose: true})
	if err != nil || out.OutputTokens != 4 {
		t.Fatalf("%+v %v", out, err)
	}
	if err := s.End(t.Context(), Result{Finish: "stop"}); err != nil {
		t.Fatal(err)
	}
	want := "data: " + fmt.Sprintf(chunk, "") + "\n\n" + "data: " + `{"choices":[{"index":0,"text":"!","finish_reason":"stop"}],"id":"x"}` + "\n\ndata: [DONE]\n\n"
	if diff := cmp.Diff(want, serve(t, s, View{Format: FormatChat})); diff != "" {
		t.Error(diff)
	}
}

func TestPrefixIsRefused(t *testing.T) {
	delta := func(d string) string {
		return `data: {"choices":[{"index":0,"delta":` + d + `,"finish_reason":null}],"id":"x"}` + "\n\n"
	}
	for name, tc := range map[string]struct {
		proto Protocol
		in    string
	}{
		"tool calls":      {Chat, delta(`{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""}}]}`)},
		"reasoning":       {Chat, delta(`{"reasoning_content":"hm"}`)},
		"another choice":  {Chat, `data: {"choices":[{"index":1,"delta":{"content":"x"},"finish_reason":null}],"id":"x"}` + "\n\n"},
		"logprobs":        {Chat, `data: {"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[{"token":"x"}]},"finish_reason":null}],"id":"x"}` + "\n\n"},
		"a raw stream":    {Raw, "data: x\n\n"},
		"execute's delta": {Execute, "event: token\ndata: {\"t\":\"\",\"i\":0,\"delta\":{\"tool_calls\":[{\"index\":0}]}}\n\n"},
	} {
		s := open(t, nil, "j1", StreamOptions{})
		s.Copy(t.Context(), body(tc.in), CopyOptions{Protocol: tc.proto})
		if _, _, ok := s.Prefix(); ok {
			t.Errorf("%s: a continuation was allowed", name)
		}
	}
	s := open(t, nil, "j2", StreamOptions{})
	if text, tokens, ok := s.Prefix(); text != "" || tokens != 0 || !ok {
		t.Error("nothing emitted yet must be continuable")
	}
}

func TestHoldComesBeforeTheFirstFrame(t *testing.T) {
	s := open(t, nil, "j1", StreamOptions{})
	refused := errors.New("not stored")
	first := 0
	_, err := s.Copy(t.Context(), body(chatStream("a")), CopyOptions{Protocol: Chat, OnFirst: func() { first++ },
		Hold: func(context.Context) error {
			if s.Frames() != 0 {
				t.Error("a frame was out before the commit")
			}
			return refused
		}})
	if !errors.Is(err, refused) || s.Frames() != 0 || first != 1 {
		t.Fatalf("%v, %d frames, %d first", err, s.Frames(), first)
	}
}

func TestWorkerErrorsInTheStream(t *testing.T) {
	for name, tc := range map[string]struct {
		proto Protocol
		in    string
	}{
		"error object":  {Chat, "data: {\"error\":{\"message\":\"boom\",\"code\":500}}\n\n"},
		"error string":  {Completion, "data: {\"error\":\"boom\"}\n\n"},
		"error event":   {Chat, "event: error\ndata: {\"message\":\"boom\"}\n\n"},
		"execute error": {Execute, "event: error\ndata: {\"code\":\"X\",\"message\":\"boom\"}\n\n"},
	} {
		s := open(t, nil, "j1", StreamOptions{})
		out, err := s.Copy(t.Context(), body(tc.in+"data: [DONE]\n\n"), CopyOptions{Protocol: tc.proto})
		var we *WorkerError
		if !errors.As(err, &we) || we.Message != "boom" || out.Complete || out.WorkerError != we || s.Frames() != 0 {
			t.Errorf("%s: %v %+v", name, err, out)
		}
	}
	for name, in := range map[string]string{
		"not JSON": "data: oops\n\n", "half": "data: {\"choices\":[\n\n", "an array": "data: []\n\n", "two objects": "data: {} {}\n\n",
	} {
		s := open(t, nil, "j1", StreamOptions{})
		var pe *ProtocolError
		if _, err := s.Copy(t.Context(), body(in), CopyOptions{Protocol: Chat}); !errors.As(err, &pe) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := open(t, nil, "j1", StreamOptions{})
	if _, err := s.Copy(t.Context(), body("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"), CopyOptions{Protocol: Chat}); !errors.Is(err, ErrTruncated) {
		t.Errorf("[DONE] without a finish reason: %v", err)
	}
}
