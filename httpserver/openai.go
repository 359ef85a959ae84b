package httpserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

func (c *call) chat() error        { return c.infer(SurfaceChat, FormatChat) }
func (c *call) completions() error { return c.infer(SurfaceCompletions, FormatCompletion) }
func (c *call) embeddings() error  { return c.infer(SurfaceEmbeddings, FormatRaw) }

// infer runs one request of the OpenAI surface.
func (c *call) infer(surface Surface, format string) error {
	body, err := c.body(c.s.o.MaxBody)
	if err != nil {
		return err
	}
	req := &Request{Surface: surface, Path: c.r.URL.Path, N: 1, ContentType: "application/json", Body: body}
	if err := parseBody(req, body, c.s.o.MaxDepth); err != nil {
		c.reuse(body)
		return err
	}
	return c.run(req, View{Format: format, IncludeUsage: req.IncludeUsage, Model: req.Model})
}

// params collects what must be checked once the whole object was seen.
type params struct{ maxTokens, maxCompletion int }

// take checks one known field of an OpenAI body; unknown ones pass. Names are constants, so that no key is copied.
func (p *params) take(surface Surface, req *Request, key, v []byte) error {
	switch string(key) {
	case "model":
		return modelField(v, &req.Model)
	case "stream":
		return boolField("stream", v, &req.Stream)
	case "messages":
		if surface == SurfaceChat {
			return messagesField(v, req)
		}
	case "prompt":
		if surface == SurfaceCompletions {
			return promptField("prompt", v, req)
		}
	case "input":
		if surface == SurfaceEmbeddings {
			return promptField("input", v, req)
		}
	case "max_tokens":
		return wholeField("max_tokens", v, 1, 1<<31-1, &p.maxTokens)
	case "max_completion_tokens":
		return wholeField("max_completion_tokens", v, 1, 1<<31-1, &p.maxCompletion)
	case "n":
		return wholeField("n", v, 1, 128, &req.N)
	case "temperature":
		return rangeField("temperature", v, 0, 2)
	case "top_p":
		return rangeField("top_p", v, 0, 1)
	case "presence_penalty":
		return rangeField("presence_penalty", v, -2, 2)
	case "frequency_penalty":
		return rangeField("frequency_penalty", v, -2, 2)
	case "seed":
		return wholeField("seed", v, -1<<63, 1<<63-1, nil)
	case "stop":
		return stopField("stop", v)
	case "stream_options":
		return streamOptions(v, req)
	case "tools":
		if !isNull(v) && v[0] != '[' {
			return invalid("tools", "tools must be a list")
		}
	case "response_format":
		if !isNull(v) && v[0] != '{' {
			return invalid("response_format", "response_format must be an object")
		}
	}
	return nil
}

func (p *params) check(surface Surface, req *Request) error {
	if req.Model == "" {
		return invalid("model", "model is missing: GET /v1/models lists what there is")
	}
	req.MaxTokens = p.maxTokens
	if p.maxCompletion > 0 {
		req.MaxTokens = p.maxCompletion
	}
	if req.Prompt == nil {
		what := "messages"
		switch surface {
		case SurfaceCompletions:
			what = "prompt"
		case SurfaceEmbeddings:
			what = "input"
		}
		return invalid(what, "%s is missing", what)
	}
	if surface == SurfaceEmbeddings && req.Stream {
		return invalid("stream", "embeddings are not streamed")
	}
	return nil
}

func messagesField(v []byte, req *Request) error {
	n, ok := 0, true
	text := 0
	good := strict.Elements(v, func(e []byte) bool {
		n++
		role := false
		strict.Members(e, func(k, v []byte) bool {
			switch name := string(k); {
			case name == "role":
				role = len(v) > 2 && v[0] == '"'
			case spoken(name):
				text += chars(v, 2)
			}
			return true
		})
		ok = role
		return ok
	})
	if !good || !ok || n == 0 {
		return invalid("messages", "messages must be a list of at least one object, each with a role")
	}
	req.Prompt, req.PromptChars = v, text
	return nil
}

func promptField(name string, v []byte, req *Request) error {
	if v[0] != '"' && v[0] != '[' || string(v) == "[]" {
		return invalid(name, "%s must be a string or a list that is not empty", name)
	}
	req.Prompt, req.PromptChars = v, chars(v, 0)
	return nil
}

func streamOptions(v []byte, req *Request) error {
	if isNull(v) {
		return nil
	}
	var err error
	if !strict.Members(v, func(k, e []byte) bool {
		if string(k) == "include_usage" {
			err = boolField("stream_options.include_usage", e, &req.IncludeUsage)
		}
		return true
	}) {
		return invalid("stream_options", "stream_options must be an object")
	}
	return err
}

// run fills in what the headers say, submits the request and answers.
func (c *call) run(req *Request, view View) error {
	job, err := c.submit(req)
	if err != nil {
		return err
	}
	c.jobHeaders(job)
	if req.Stream {
		a := &answer{response: c.w}
		c.w.pace()
		if err := job.Serve(c.r.Context(), a, view); err != nil || a.refused == 0 {
			return err
		}
		return c.workerRefused(req, a.refused, a.body)
	}
	res, err := job.Result(c.r.Context(), view)
	if err != nil {
		return err
	}
	if res.Status >= 400 {
		c.resultHeaders(res)
		return c.workerRefused(req, res.Status, res.Body)
	}
	c.writeResult(res)
	return nil
}

func (c *call) submit(req *Request) (Job, error) {
	if c.s.draining.Load() {
		return nil, &Error{ErrCode: CodeShuttingDown, Message: "the server is shutting down: try again in a few seconds", Retry: 5e9}
	}
	if err := c.headers(req); err != nil {
		return nil, err
	}
	if !req.Identity.MayUse(req.Model) {
		return nil, &Error{ErrCode: CodeForbidden, Param: "model", Message: "this key may not use model " + clip(req.Model, 100)}
	}
	return c.s.submitter.Submit(c.r.Context(), req)
}

// headers reads the X-Rbee-* headers, the idempotency key and the trace context into the request.
func (c *call) headers(req *Request) error {
	h := c.r.Header
	req.RequestID, req.CorrelationID, req.Identity = c.requestID, c.correlation, c.id
	var err error
	if v := first(h, "X-Rbee-Priority"); v != "" || req.Priority == "" {
		if req.Priority, err = parsePriority("X-Rbee-Priority", v); err != nil {
			return err
		}
	}
	if v := first(h, "X-Rbee-Deadline"); v != "" {
		if req.Deadline, err = parseDeadline("X-Rbee-Deadline", v, c.now()); err != nil {
			return err
		}
	}
	if v := first(h, "X-Rbee-Session"); v != "" {
		req.Session = v
	}
	if err := checkSession("X-Rbee-Session", req.Session); err != nil {
		return err
	}
	switch v := first(h, "X-Rbee-Detach"); v {
	case "", "false":
	case "true":
		req.Detach = true
	default:
		return invalid("X-Rbee-Detach", "X-Rbee-Detach must be true or false")
	}
	if v := h["Traceparent"]; len(v) == 1 && traceparent(v[0]) { // anything else is as if there were none (W3C Trace Context)
		req.Traceparent = v[0]
	}
	if v := h["Idempotency-Key"]; len(v) > 0 {
		if len(v) > 1 || v[0] == "" || len(v[0]) > 255 || !printable(v[0]) {
			return invalid("Idempotency-Key", "an Idempotency-Key is 1 to 255 printable ASCII characters, given once")
		}
		req.IdempotencyKey = v[0]
		sum := sha256.New()
		sum.Write([]byte(c.r.URL.Path + "\n"))
		sum.Write(req.Body)
		req.BodyHash = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}

// traceparent reports whether a value is one of version 00: 00-TRACE-SPAN-FLAGS in lower-case hexadecimal, ids not all zero.
func traceparent(v string) bool {
	if len(v) != 55 || v[:3] != "00-" || v[35] != '-' || v[52] != '-' {
		return false
	}
	for i := 3; i < len(v); i++ {
		if c := v[i]; i != 35 && i != 52 && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return strings.Trim(v[3:35], "0") != "" && strings.Trim(v[36:52], "0") != ""
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func (c *call) jobHeaders(job Job) {
	h := c.w.Header()
	c.say(h, "X-Rbee-Job-Id", 2, job.ID())
	for k, v := range job.Limits() {
		h[k] = v
	}
}

func (c *call) resultHeaders(res *Result) {
	h := c.w.Header()
	for k, v := range res.Header {
		if k = http.CanonicalHeaderKey(k); !hopByHop(k) {
			h[k] = v
		}
	}
	c.say(h, "X-Rbee-Worker-Id", 3, res.WorkerID)
	c.say(h, "X-Rbee-Queue-Ms", 4, res.QueueMs)
	c.say(h, "Content-Type", 5, res.ContentType)
}

// say sets a header of one value that is not empty; at is the value's place in said.
func (c *call) say(h http.Header, name string, at int, value string) {
	if value != "" {
		c.said[at] = value
		h[name] = c.said[at : at+1 : at+1]
	}
}

// unchunked is the size up to which net/http finds out the length of a body by itself.
const unchunked = 2048

// writeResult passes a whole answer on.
func (c *call) writeResult(res *Result) {
	c.resultHeaders(res)
	h := c.w.Header()
	if first(h, "Content-Type") == "" {
		c.say(h, "Content-Type", 5, "application/json")
	}
	if len(res.Body) > unchunked {
		h["Content-Length"] = []string{strconv.Itoa(len(res.Body))}
	}
	status := res.Status
	if status == 0 {
		status = http.StatusOK
	}
	c.w.WriteHeader(status)
	_, _ = c.w.ResponseWriter.Write(res.Body) // its time has just begun
}

// hopByHop reports whether a field, its name in the canonical form, is not the worker's to say.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Transfer-Encoding", "Te", "Trailer", "Upgrade", "Content-Length", "Date", "Server",
		"Proxy-Connection", "Set-Cookie", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials":
		return true
	}
	return false
}

// first is h.Get of a name that is in its canonical form.
func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func trim(b []byte) []byte { return bytes.TrimSpace(b) }
