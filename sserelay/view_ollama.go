package sserelay

import (
	"strconv"
	"time"
)

// ollamaView writes Ollama's newline-delimited JSON.
type ollamaView struct {
	translator
	generate bool
	calls    callSet
	begun    time.Time
}

func (o *ollamaView) frame(x *emitter, m Meta, data []byte) {
	switch m.Kind() {
	case KindStarted:
		o.note(m, data)
		if o.begun.IsZero() {
			o.begun, _ = time.Parse(time.RFC3339, unquote(member(data, "started_at")))
		}
	case KindData, KindBody:
		if m.has(flagUsage) || m.has(flagHeader) || m.Protocol() == Bytes {
			return
		}
		eachPiece(m, data, func(p choice) {
			o.calls.add(p.tools)
			if isText(p.text) || p.reasoning != nil {
				o.piece(x, &p)
			}
		})
	case KindEnd:
		o.end(x, decodeEnd(data))
	case KindError:
		x.closed = true
		x.failed = failureOf(data)
		o.fail(x, x.failed)
	}
}

func (o *ollamaView) fail(x *emitter, e *Error) {
	x.line(append(quote([]byte(`{"error":`), e.message), '}'))
}

func (o *ollamaView) head(b []byte) []byte {
	b = append(b, `{"model":`...)
	b = quote(b, o.model)
	b = append(b, `,"created_at":`...)
	at := o.begun
	if at.IsZero() {
		at = time.Unix(o.createdUnix(), 0)
	}
	b = quote(b, at.UTC().Format(time.RFC3339Nano))
	return append(b, ',')
}

// body appends the message or response member.
func (o *ollamaView) body(b []byte, p *choice, calls []byte) []byte {
	text := p.text
	if !isText(text) {
		text = []byte(`""`)
	}
	if o.generate {
		b = append(append(b, `"response":`...), text...)
		if p.reasoning != nil {
			b = append(append(b, `,"thinking":`...), p.reasoning...)
		}
		return b
	}
	b = append(append(b, `"message":{"role":"assistant","content":`...), text...)
	if p.reasoning != nil {
		b = append(append(b, `,"thinking":`...), p.reasoning...)
	}
	if calls != nil {
		b = append(append(b, `,"tool_calls":`...), calls...)
	}
	return append(b, '}')
}

func (o *ollamaView) piece(x *emitter, p *choice) {
	b := o.body(o.head(o.scratch[:0]), p, nil)
	b = append(b, `,"done":false}`...)
	o.scratch = b
	x.line(b)
}

func (o *ollamaView) end(x *emitter, r Result) {
	x.closed = true
	if !o.generate && len(o.calls.list) > 0 {
		b := o.body(o.head(o.scratch[:0]), &choice{}, o.calls.ollama())
		o.scratch = append(b, `,"done":false}`...)
		x.line(o.scratch)
	}
	b := o.body(o.head(o.scratch[:0]), &choice{}, nil)
	b = append(b, ',')
	b = append(ollamaFigures(b, r), '}')
	o.scratch = b
	x.line(b)
}

// ollamaFigures appends the members of the last line.
func ollamaFigures(b []byte, r Result) []byte {
	reason := r.Finish
	if reason != "length" {
		reason = "stop"
	}
	b = quote(append(b, `"done":true,"done_reason":`...), reason)
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"total_duration", r.Decode.Nanoseconds()}, {"load_duration", 0},
		{"prompt_eval_count", int64(r.PromptTokens)}, {"prompt_eval_duration", 0},
		{"eval_count", int64(r.OutputTokens)}, {"eval_duration", r.Decode.Nanoseconds()},
	} {
		b = append(append(append(b, `,"`...), f.name...), `":`...)
		b = strconv.AppendInt(b, f.n, 10)
	}
	return b
}
