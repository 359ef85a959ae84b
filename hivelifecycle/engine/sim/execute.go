package sim

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// execute speaks the native protocol: started, token..., end or error, with consecutive ids.
func (s *Server) execute(w http.ResponseWriter, r *http.Request) {
	var in struct {
		JobID     string    `json:"job_id"`
		Prompt    string    `json:"prompt"`
		Messages  []message `json:"messages"`
		Prefix    string    `json:"prefix"`
		MaxTokens *int      `json:"max_tokens"`
		Attempt   int       `json:"attempt"`
	}
	if !read(w, r, &in) {
		return
	}
	prompt, prefix := in.Prompt, in.Prefix
	if len(in.Messages) > 0 {
		var prefill string
		prompt, prefill = render(in.Messages)
		prefix = prefill + prefix
	}
	code := "INVALID_REQUEST"
	t, err := s.plan(prompt, prefix, in.MaxTokens)
	if err == nil && s.tooLong(t) {
		code, err = "CONTEXT_LENGTH_EXCEEDED", errors.New("the prompt exceeds the context of "+strconv.Itoa(s.c.Context)+" tokens")
	}
	if err != nil {
		reply(w, http.StatusBadRequest, map[string]any{"error": map[string]any{"code": code, "message": err.Error()}})
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer s.jobs.add(in.JobID, cancel)()

	sw := &events{stream: newStream(w)}
	started := func() {
		if sw.id == 0 {
			sw.event("started", map[string]any{"job_id": in.JobID, "model": s.o.Alias, "attempt": max(in.Attempt, 1),
				"started_at": time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00")})
		}
	}
	out, err := s.generate(ctx, t, func(i int, token string) {
		started()
		sw.token(i, token)
	}, sw.flush)
	switch {
	case err == nil:
		started()
		sw.event("end", map[string]any{"tokens_out": out.tokens, "prompt_tokens": out.prompt, "cached_tokens": out.cached,
			"decode_time_ms": out.decode.Milliseconds(), "stop_reason": t.reason})
	case errors.Is(err, errCancelled):
		sw.event("error", map[string]any{"code": "CANCELLED", "message": "the job was cancelled"})
	default:
		s.broken(w, err, sw.begun)
		return
	}
	_ = sw.flush()
}

// events adds names and ids to a stream.
type events struct {
	*stream
	id int
}

func (e *events) head(name string) {
	e.id++
	e.buf = append(e.buf, "id: "...)
	e.buf = strconv.AppendInt(e.buf, int64(e.id), 10)
	e.buf = append(e.buf, "\nevent: "...)
	e.buf = append(e.buf, name...)
	e.buf = append(e.buf, '\n')
}

func (e *events) event(name string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	e.head(name)
	e.frame(b)
}

func (e *events) token(i int, token string) {
	e.head("token")
	e.buf = append(e.buf, `data: {"t":"`...)
	e.buf = append(e.buf, token...)
	e.buf = append(e.buf, `","i":`...)
	e.buf = strconv.AppendInt(e.buf, int64(i), 10)
	e.buf = append(e.buf, "}\n\n"...)
}
