package sserelay

// rawView passes on whatever the worker sent.
type rawView struct {
	bytes  bool // no event stream: errors can only cut it
	openai bool // chat or completion chunks, whose [DONE] the relay took away
}

func (r *rawView) frame(x *emitter, m Meta, data []byte) {
	switch m.Kind() {
	case KindStarted:
		x.header, x.refusal = nil, nil // a refusal before this attempt is history
	case KindBody:
		if m.has(flagRefusal) {
			x.refuse(data)
			return
		}
		h, body := splitBody(data)
		x.header = &h
		r.bytes = m.Protocol() != Raw || !m.has(flagHeader)
		if len(body) > 0 {
			x.raw(body)
		}
	case KindData:
		if m.Protocol() == Bytes {
			x.raw(data)
			return
		}
		r.openai = r.openai || m.Protocol() == Chat || m.Protocol() == Completion
		x.block(data)
	case KindEnd:
		x.closed = true
		if r.openai && x.begin() {
			x.buf = append(x.buf, "data: [DONE]\n\n"...)
		}
	case KindError:
		x.closed = true
		x.failed = failureOf(data)
		if !r.bytes && x.begin() {
			x.bare("error", openaiError(nil, x.failed))
		}
	}
}

func (r *rawView) fail(x *emitter, e *Error) {
	if !r.bytes {
		x.bare("error", openaiError(nil, e))
	}
}

// raw appends bytes that are no event; they count as one so that a resume can skip them.
func (x *emitter) raw(b []byte) {
	x.id++
	if x.id > x.skip {
		x.buf = append(x.buf, b...)
	}
}
