package httpserver

import (
	"encoding/json"
	"net/http"
	"strings"
)

// maxRefusal bounds what is kept of a worker's refusal.
const maxRefusal = 1 << 20

// answer is where a stream is written. It holds a worker's refusal back, which arrives instead of a stream, so that it
// can be told in the shape that the client understands.
type answer struct {
	*response
	refused int // the status of a refusal, 0 = none
	body    []byte
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if status >= 400 && a.response.status == 0 {
		a.refused = status
		return
	}
	a.response.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	if a.refused == 0 {
		return a.response.Write(b)
	}
	a.body = append(a.body, b[:min(len(b), maxRefusal-len(a.body))]...)
	return len(b), nil
}

// Flush implements http.Flusher.
func (a *answer) Flush() {
	if a.refused == 0 {
		a.response.Flush()
	}
}

// Send implements Sender.
func (a *answer) Send(p []byte) (sent bool, err error) {
	if a.refused != 0 {
		return false, nil
	}
	return a.response.Send(p)
}

// workerRefusal is a worker's own refusal of a request, told in the shape of the client's surface.
type workerRefusal struct {
	code    string
	status  int
	message string
}

// Error implements error.
func (e *workerRefusal) Error() string { return e.message }

// Code returns the code of the contract.
func (e *workerRefusal) Code() string { return e.code }

// Status returns the worker's status.
func (e *workerRefusal) Status() int { return e.status }

// LogText keeps the worker's words, which can repeat a prompt, out of the log.
func (e *workerRefusal) LogText() string { return "the worker refused the request: " + e.code }

// refusalOf reads a worker's error body, of whichever of the usual shapes.
func refusalOf(status int, body []byte) *workerRefusal {
	e := &workerRefusal{code: CodeInvalidRequest, status: status, message: workerMessage(body)}
	var shape struct {
		Error struct {
			Type string
			Code any
		}
	}
	_ = json.Unmarshal(body, &shape) // other shapes have no type
	code, _ := shape.Error.Code.(string)
	if code == "" {
		var flat struct{ Code string }
		_ = json.Unmarshal(body, &flat)
		code = flat.Code
	}
	switch {
	case status == http.StatusNotImplemented:
		e.code, e.status = CodeNotFound, http.StatusNotFound
		e.message = "the model's worker does not serve this path: " + e.message
	case code == CodeContextLength || code == "context_length_exceeded" || shape.Error.Type == "exceed_context_size_error" || strings.Contains(e.message, "maximum context length"):
		e.code = CodeContextLength
	case status == http.StatusNotFound:
		e.code = CodeNotFound
	case status == http.StatusConflict:
		e.code = CodeConflict
	case status == http.StatusRequestEntityTooLarge:
		e.code = CodeRequestTooLarge
	case status >= 500:
		e.code = CodeWorkerFailed
	}
	return e
}

// workerRefused answers with what a worker said instead of an answer. What was passed through keeps its bytes, since only
// its own client knows their shape; the OpenAI surface's own endpoints get an object that has all that OpenAI's has.
func (c *call) workerRefused(req *Request, status int, body []byte) error {
	e := refusalOf(status, body)
	h := c.w.Header()
	for _, k := range []string{"Cache-Control", "X-Accel-Buffering"} { // of the stream that did not come
		h.Del(k)
	}
	if e.code == CodeNotFound && status == http.StatusNotImplemented || faceOf(c.r.URL.Path) != faceOpenAI {
		return e
	}
	p := resolve(e)
	setRetry(h, &p, nil)
	h.Set("X-Rbee-Error", p.code)
	if req.Surface != SurfaceRaw {
		h.Set("Content-Type", "application/json")
		body = openaiRefusal(&p, body)
	}
	c.w.WriteHeader(p.status)
	_, _ = c.w.Write(body)
	return nil
}

// openaiRefusal is a worker's error object with all four fields of OpenAI's; what else the worker said stays.
func openaiRefusal(p *problem, body []byte) []byte {
	var said struct {
		Error map[string]any `json:"error"`
	}
	if json.Unmarshal(body, &said) != nil || said.Error == nil {
		said.Error = map[string]any{}
	}
	out := said.Error
	out["message"] = p.message
	if s, ok := out["type"].(string); !ok || s == "" || p.code == CodeContextLength {
		out["type"] = openaiType(p.status, p.code)
	}
	s, _ := out["code"].(string)
	if _, ours := lookup(s); s == "" || ours || p.code == CodeContextLength {
		out["code"] = openaiCode(p)
	}
	if _, ok := out["param"].(string); !ok {
		out["param"] = nil
	}
	b, err := json.Marshal(map[string]any{"error": out})
	if err != nil { // it came from JSON, so it goes into JSON
		return body
	}
	return append(b, '\n')
}

// workerMessage finds the message in a worker's error body.
func workerMessage(body []byte) string {
	var e struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	var o struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &e) == nil {
		if s, ok := unquoted(e.Error); ok {
			return clip(s, 500)
		}
		if json.Unmarshal(e.Error, &o) == nil && o.Message != "" {
			return clip(o.Message, 500)
		}
		if e.Message != "" {
			return clip(e.Message, 500)
		}
	}
	return "the worker refused the request"
}
