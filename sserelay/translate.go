package sserelay

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
)

// translator is what the views share: the identity of the stream and the pieces of an answer in a worker's frames.
type translator struct {
	job     string
	model   string
	usage   bool
	created time.Time
	unix    int64
	started bool
	scratch []byte
}

// note learns the identity from the first Started frame, so that a replay after a restart looks the same.
func (t *translator) note(m Meta, data []byte) {
	if m.Kind() != KindStarted || t.started {
		return
	}
	model, unix := t.model, int64(0)
	t.started = eachField(data, func(k, v []byte) bool {
		switch string(k) {
		case "model":
			if string(inner(v)) != model {
				model = unquote(v)
			}
		case "created":
			unix = int64(number(v))
		}
		return true
	})
	if !t.started {
		return
	}
	if model != "" {
		t.model = model
	}
	t.unix = unix
}

func (t *translator) createdUnix() int64 {
	if t.unix == 0 && !t.created.IsZero() {
		t.unix = t.created.Unix()
	}
	return t.unix
}

// eachPiece calls fn with every choice that a data or body frame holds; text is always in piece.text.
func eachPiece(m Meta, data []byte, fn func(p choice)) {
	if m.has(flagRefusal) {
		return
	}
	switch {
	case m.Kind() == KindBody:
		_, body := splitBody(data)
		eachBodyPiece(m.Protocol(), body, fn)
	case m.Protocol() == Execute:
		t, ok := parseToken(blockData(data))
		if !ok {
			return
		}
		p := choice{text: t.text}
		if t.delta != nil {
			p = parseChoice(t.delta) // a delta may be a whole choice
			if p.delta == nil {
				p = parseDelta(t.delta)
			}
			p.text = t.text
		}
		fn(p)
	case m.Protocol() == Chat || m.Protocol() == Completion:
		eachChoice(blockData(data), fn)
	case m.Protocol() == Raw:
		if text := blockData(data); len(text) > 0 {
			p := choice{text: quote(nil, string(text))}
			fn(p)
		}
	}
}

// eachChoice calls fn with the choices of a chunk or of a whole answer.
func eachChoice(data []byte, fn func(p choice)) {
	c, ok := parseChunk(data)
	if !ok || c.done {
		return
	}
	eachElement(c.choices, func(v []byte) bool {
		fn(parseChoice(v))
		return true
	})
}

// eachBodyPiece does the same for a whole answer. One of the native protocol may hold the text under a name of its own.
func eachBodyPiece(p Protocol, body []byte, fn func(p choice)) {
	if p != Execute || member(body, "choices") != nil {
		if p != Raw && p != Bytes {
			eachChoice(body, fn)
		}
		return
	}
	for _, name := range []string{"text", "content", "t"} {
		if v := member(body, name); isText(v) {
			fn(choice{text: v})
			return
		}
	}
}

// parseDelta reads a bare delta object.
func parseDelta(delta []byte) choice {
	wrapped := append(append([]byte(`{"delta":`), delta...), '}')
	return parseChoice(wrapped)
}

// plainJSON is the usual header.
const plainJSON = `{"status":200,"content_type":"application/json"}`

// splitBody parts a body frame into its header and its bytes.
func splitBody(frame []byte) (h bodyHeader, body []byte) {
	head, body, _ := bytes.Cut(frame, []byte{'\n'})
	if string(head) == plainJSON {
		return bodyHeader{Status: 200, ContentType: "application/json"}, body
	}
	if json.Unmarshal(head, &h) != nil || h.Status == 0 {
		h.Status = 200
	}
	return h, body
}

func appendUsage(dst []byte, prompt, output, cached int) []byte {
	dst = append(dst, `{"prompt_tokens":`...)
	dst = strconv.AppendInt(dst, int64(prompt), 10)
	dst = append(dst, `,"completion_tokens":`...)
	dst = strconv.AppendInt(dst, int64(output), 10)
	dst = append(dst, `,"total_tokens":`...)
	dst = strconv.AppendInt(dst, int64(prompt+output), 10)
	dst = append(dst, `,"prompt_tokens_details":{"cached_tokens":`...)
	dst = strconv.AppendInt(dst, int64(cached), 10)
	return append(dst, "}}"...)
}

// openaiError appends the OpenAI error object for a failure.
func openaiError(dst []byte, e *Error) []byte {
	code, kind := openaiCode(e.code)
	dst = append(dst, `{"error":{"message":`...)
	dst = quote(dst, e.message)
	dst = append(dst, `,"type":`...)
	dst = quote(dst, kind)
	dst = append(dst, `,"param":null,"code":`...)
	dst = quote(dst, code)
	return append(dst, "}}"...)
}

// openaiCode maps a code of the contract to OpenAI's own where there is one, and names the error's type.
func openaiCode(code string) (string, string) {
	switch code {
	case "INVALID_REQUEST", "INVALID_MODEL_REF", "REQUEST_TOO_LARGE", "CONFLICT":
		return lower(code), "invalid_request_error"
	case "MODEL_NOT_FOUND", "JOB_NOT_FOUND", "NODE_NOT_FOUND", "WORKER_NOT_FOUND":
		return lower(code), "invalid_request_error"
	case "UNAUTHENTICATED":
		return "invalid_api_key", "authentication_error"
	case "FORBIDDEN":
		return lower(code), "permission_error"
	case "QUOTA_EXCEEDED":
		return "insufficient_quota", "insufficient_quota"
	case "RATE_LIMITED":
		return "rate_limit_exceeded", "rate_limit_error"
	case "CONTEXT_LENGTH_EXCEEDED":
		return lower(code), "invalid_request_error"
	}
	return lower(code), "server_error"
}

func lower(code string) string { return string(bytes.ToLower([]byte(code))) }

// failureOf reads an error frame.
func failureOf(data []byte) *Error { return decodeFailure(data) }
