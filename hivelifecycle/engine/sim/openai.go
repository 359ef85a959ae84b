package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// message is one of a chat. Its content is a string or a list of parts.
type message struct {
	Role    string  `json:"role"`
	Content content `json:"content"`
}

// content takes the text of a message, whatever form it has.
type content string

// UnmarshalJSON reads a string, null or a list of parts, of which those with text count.
func (c *content) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err == nil {
		if s != nil {
			*c = content(*s)
		}
		return nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(b, &parts); err != nil {
		return errors.New("content is a string or a list of parts")
	}
	var sb strings.Builder
	for _, p := range parts {
		sb.WriteString(p.Text)
	}
	*c = content(sb.String())
	return nil
}

// render turns a chat into the text that is answered and, when the last message is the assistant's, the beginning of
// the answer.
func render(messages []message) (prompt, prefix string) {
	if n := len(messages); n > 0 && messages[n-1].Role == "assistant" {
		prefix = string(messages[n-1].Content)
		messages = messages[:n-1]
	}
	var sb strings.Builder
	for _, m := range messages {
		sb.WriteString(m.Role)
		sb.WriteString(": ")
		sb.WriteString(string(m.Content))
		sb.WriteByte('\n')
	}
	sb.WriteString("assistant: ")
	return sb.String(), prefix
}

// request is what chat and completions take; other fields are ignored, as an engine ignores what it does not know.
type request struct {
	Messages            []message       `json:"messages"`
	Prompt              json.RawMessage `json:"prompt"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	N                   *int            `json:"n"`
	Stream              bool            `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	var in request
	if !read(w, r, &in) {
		return
	}
	if len(in.Messages) == 0 {
		fail(w, http.StatusBadRequest, "invalid_request_error", "messages is missing or empty")
		return
	}
	prompt, prefix := render(in.Messages)
	if in.MaxTokens == nil {
		in.MaxTokens = in.MaxCompletionTokens
	}
	s.answer(w, r, in, prompt, prefix, &shape{chat: true})
}

func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	var in request
	if !read(w, r, &in) {
		return
	}
	prompt, err := promptText(in.Prompt)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return
	}
	s.answer(w, r, in, prompt, "", &shape{})
}

func promptText(raw json.RawMessage) (string, error) {
	var one string
	if json.Unmarshal(raw, &one) == nil && len(raw) > 0 {
		return one, nil
	}
	var list []string
	if json.Unmarshal(raw, &list) == nil && len(list) == 1 {
		return list[0], nil
	}
	return "", errors.New("prompt is one string; the simulator takes no token ids and no more than one prompt")
}

// answer runs a request of the OpenAI protocol.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, in request, prompt, prefix string, f *shape) {
	if in.N != nil && *in.N != 1 {
		fail(w, http.StatusBadRequest, "invalid_request_error", "the simulator gives one choice; leave n out")
		return
	}
	t, err := s.plan(prompt, prefix, in.MaxTokens)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return
	}
	if s.tooLong(t) {
		reply(w, http.StatusBadRequest, map[string]any{"error": map[string]any{"code": 400, "type": "exceed_context_size_error",
			"message": "the request exceeds the available context size", "n_prompt_tokens": promptTokens(t.full), "n_ctx": s.c.Context}})
		return
	}
	f.id, f.model, f.created = fmt.Sprintf("%s-sim%d", f.kind(), s.ids.Add(1)), s.o.Alias, time.Now().Unix()
	if !in.Stream {
		s.whole(w, r, t, f)
		return
	}
	sw := newStream(w)
	if f.chat {
		sw.frame(f.chunk(map[string]any{"role": "assistant", "content": ""}, "", nil))
	}
	pre, post := f.template()
	out, err := s.generate(r.Context(), t, func(_ int, token string) { sw.parts("data: ", pre, token, post) }, sw.flush)
	if err != nil {
		s.broken(w, err, sw.begun)
		return
	}
	sw.frame(f.chunk(map[string]any{}, t.reason, nil))
	if in.StreamOptions.IncludeUsage {
		sw.frame(f.chunk(nil, "", usage(out)))
	}
	sw.parts("data: [DONE]")
	_ = sw.flush()
}

func (s *Server) whole(w http.ResponseWriter, r *http.Request, t task, f *shape) {
	var sb strings.Builder
	out, err := s.generate(r.Context(), t, func(_ int, token string) { sb.WriteString(token) }, func() error { return nil })
	if err != nil {
		s.broken(w, err, false)
		return
	}
	choice := map[string]any{"index": 0, "finish_reason": t.reason, "logprobs": nil}
	object := "text_completion"
	if f.chat {
		object = "chat.completion"
		choice["message"] = map[string]any{"role": "assistant", "content": sb.String()}
	} else {
		choice["text"] = sb.String()
	}
	reply(w, http.StatusOK, map[string]any{"id": f.id, "object": object, "created": f.created, "model": f.model,
		"choices": []any{choice}, "usage": usage(out)})
}

func usage(o outcome) map[string]any {
	return map[string]any{"prompt_tokens": o.prompt, "completion_tokens": o.tokens, "total_tokens": o.prompt + o.tokens,
		"prompt_tokens_details": map[string]any{"cached_tokens": o.cached}}
}

// shape is the constant part of a stream's chunks.
type shape struct {
	chat    bool
	id      string
	model   string
	created int64
}

func (f *shape) kind() string {
	if f.chat {
		return "chatcmpl"
	}
	return "cmpl"
}

// chunk is one frame's data; delta nil makes the usage chunk, which has no choice.
func (f *shape) chunk(delta map[string]any, reason string, use map[string]any) []byte {
	choices := []any{}
	if delta != nil {
		c := map[string]any{"index": 0, "finish_reason": nil}
		if reason != "" {
			c["finish_reason"] = reason
		}
		if f.chat {
			c["delta"] = delta
		} else {
			c["text"] = ""
		}
		choices = append(choices, c)
	}
	object := "text_completion"
	if f.chat {
		object = "chat.completion.chunk"
	}
	m := map[string]any{"id": f.id, "object": object, "created": f.created, "model": f.model, "choices": choices}
	if use != nil {
		m["usage"] = use
	}
	b, err := json.Marshal(m)
	if err != nil {
		return []byte("{}")
	}
	return b
}

// template is a token's chunk in two halves: words need no escaping, so a token costs two copies.
func (f *shape) template() (pre, post string) {
	const mark = "\u0001"
	c := map[string]any{"index": 0, "finish_reason": nil}
	object := "text_completion"
	if f.chat {
		object = "chat.completion.chunk"
		c["delta"] = map[string]any{"content": mark}
	} else {
		c["text"] = mark
	}
	b, err := json.Marshal(map[string]any{"id": f.id, "object": object, "created": f.created, "model": f.model, "choices": []any{c}})
	if err != nil {
		return "", ""
	}
	pre, post, _ = strings.Cut(string(b), `\u0001`)
	return pre, post
}
