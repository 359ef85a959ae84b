package sserelay

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// chunk is what one event of a worker holds, as raw JSON that aliases the event.
type chunk struct {
	done    bool // data: [DONE]
	choices []byte
	count   int // choices in this chunk
	choice  choice
	usage   []byte
	timings []byte
	err     []byte // an error object, or the event's data when it is one as a whole
	verbose []byte // __verbose
	tokens  []byte // tokens of a completion chunk
	id      []byte
	created []byte
	model   []byte
}

// choice is one choice of a chunk or of a whole answer, raw.
type choice struct {
	index     int
	raw       []byte
	delta     []byte // delta or message
	text      []byte // content, text or t: a raw string
	reasoning []byte
	role      []byte
	tools     []byte
	logprobs  []byte
	finish    []byte // without quotes
	extra     bool   // delta holds something else
}

// parseChunk reads the data of one chat or completion event. ok is false when it is not a JSON object.
func parseChunk(data []byte) (c chunk, ok bool) {
	if string(bytes.TrimSpace(data)) == "[DONE]" {
		c.done = true
		return c, true
	}
	if ok = c.fields(data); !ok {
		return c, false
	}
	eachElement(c.choices, func(v []byte) bool {
		if c.count == 0 {
			c.choice = parseChoice(v)
		}
		c.count++
		return true
	})
	return c, true
}

// fields reads the members of a chunk or of a whole answer, but for its choices; ok is false when it is not a JSON object.
func (c *chunk) fields(data []byte) (ok bool) {
	ok = eachField(data, func(k, v []byte) bool {
		switch string(k) {
		case "id":
			c.id = v
		case "created":
			c.created = v
		case "model":
			c.model = v
		case "choices":
			c.choices = v
		case "usage":
			c.usage = v
		case "timings":
			c.timings = v
		case "error":
			c.err = v
		case "__verbose":
			c.verbose = v
		case "tokens":
			c.tokens = v
		}
		return true
	})
	if isNull(c.err) {
		c.err = nil
	}
	if isNull(c.usage) {
		c.usage = nil
	}
	return ok
}

// finishOf returns why the first of the choices ended, where it says so.
func finishOf(choices []byte) (finish []byte) {
	i := skipSpace(choices, 0)
	if i >= len(choices) || choices[i] != '[' {
		return nil
	}
	if i = skipSpace(choices, i+1); i >= len(choices) || choices[i] != '{' {
		return nil
	}
	skipObject(choices, i, 1, func(k, v []byte) bool {
		if string(k) == "finish_reason" {
			finish = inner(v)
		}
		return true
	})
	return finish
}

// parseChoice reads one element of choices, streamed or whole.
func parseChoice(raw []byte) (ch choice) {
	ch.raw = raw
	eachField(raw, func(k, v []byte) bool {
		switch string(k) {
		case "index":
			ch.index = number(v)
		case "delta", "message":
			ch.delta = v
		case "text":
			ch.text = v
		case "logprobs":
			if isFilled(v) {
				ch.logprobs = v
			}
		case "finish_reason":
			ch.finish = inner(v)
		}
		return true
	})
	if ch.delta == nil {
		return ch
	}
	eachField(ch.delta, func(k, v []byte) bool {
		switch string(k) {
		case "content":
			ch.text = v
		case "role":
			ch.role = v
		case "reasoning_content", "reasoning":
			if isText(v) {
				ch.reasoning = v
			}
		case "tool_calls":
			if isFilled(v) {
				ch.tools = v
			}
		default:
			if isFilled(v) {
				ch.extra = true
			}
		}
		return true
	})
	return ch
}

// flags returns the frame flags of a chunk.
func (c *chunk) flags() (f uint8) {
	if c.count == 0 {
		if c.usage != nil {
			return flagUsage
		}
		return 0
	}
	ch := &c.choice
	if isText(ch.text) {
		f |= flagText
	}
	if len(ch.finish) > 0 {
		f |= flagFinish
	}
	if c.count > 1 || ch.index != 0 || ch.more() || ch.logprobs != nil {
		f |= flagMore
	}
	return f
}

// more reports whether the delta holds more than text.
func (ch *choice) more() bool { return ch.reasoning != nil || ch.tools != nil || ch.extra }

// empty reports whether the choice carries nothing of an answer.
func (ch *choice) empty() bool {
	return !isText(ch.text) && !ch.more() && ch.logprobs == nil
}

// tokenCount returns how many tokens a chunk carries: what the engine says, else 1 when there is anything.
func (c *chunk) tokenCount() int {
	for _, ids := range [][]byte{c.tokens, member(c.verbose, "tokens")} {
		n := 0
		if eachElement(ids, func([]byte) bool { n++; return true }) && n > 0 {
			return n
		}
	}
	if c.count == 0 || c.choice.empty() && c.count == 1 {
		return 0
	}
	return c.count
}

// usage is the token counts that a worker reports.
type usage struct {
	prompt, cached, output int
	seen                   bool
}

// readUsage reads an OpenAI usage object, or llama.cpp's timings where there is none.
func (c *chunk) readUsage(u *usage) {
	if c.timings != nil && !u.seen {
		cached := number(member(c.timings, "cache_n"))
		u.prompt, u.cached = number(member(c.timings, "prompt_n"))+cached, cached
		u.output = number(member(c.timings, "predicted_n"))
	}
	if c.usage == nil {
		return
	}
	u.seen, u.prompt, u.output = true, 0, 0
	eachField(c.usage, func(k, v []byte) bool {
		switch string(k) {
		case "prompt_tokens":
			u.prompt = number(v)
		case "completion_tokens":
			u.output = number(v)
		case "prompt_tokens_details":
			if d := member(v, "cached_tokens"); d != nil {
				u.cached = number(d)
			}
		}
		return true
	})
}

// workerError turns a raw error value into a typed one; it is an object or a string.
func workerError(raw []byte) *WorkerError {
	e := &WorkerError{}
	if len(raw) > 0 && raw[0] == '{' {
		e.Message = unquote(member(raw, "message"))
		e.WorkerCode = unquote(member(raw, "code"))
		if e.WorkerCode == "" {
			e.WorkerCode = unquote(member(raw, "type"))
		}
	} else {
		e.Message = unquote(raw)
	}
	if e.Message == "" {
		e.Message = "the worker reported an error without a message"
	}
	if len(e.Message) > 2000 {
		e.Message = e.Message[:2000]
	}
	return e
}

// unquote decodes a raw JSON string; anything else gives its own characters, null gives "".
func unquote(raw []byte) string {
	if isNull(raw) {
		return ""
	}
	var s string
	if raw[0] != '"' {
		return string(raw)
	}
	if plainEnd(raw, 1) == len(raw)-1 && utf8.Valid(raw) {
		return string(raw[1 : len(raw)-1])
	}
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
