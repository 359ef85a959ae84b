package sserelay

import "strconv"

// openaiView writes chat or text completion chunks.
type openaiView struct {
	translator
	protocol Protocol
	opening  opening // once a chunk of the worker's own passed
	finish   bool    // a finish_reason was written
	used     bool    // a usage chunk was written
	roles    uint64  // choices whose role was written
}

func (o *openaiView) frame(x *emitter, m Meta, data []byte) {
	switch m.Kind() {
	case KindStarted:
		o.note(m, data)
		x.header, x.refusal = nil, nil // a refusal before this attempt is history
	case KindData:
		if m.Protocol() == o.protocol {
			o.pass(x, m, data)
			return
		}
		o.translate(x, m, data)
	case KindBody:
		if m.has(flagRefusal) {
			x.refuse(data)
			return
		}
		o.translate(x, m, data)
	case KindEnd:
		o.end(x, decodeEnd(data))
	case KindError:
		x.closed = true
		x.failed = failureOf(data)
		if x.begin() {
			x.bare("", openaiError(nil, x.failed))
		}
	}
}

func (o *openaiView) fail(x *emitter, e *Error) { x.bare("", openaiError(nil, e)) }

// pass lets a worker's own chunk through.
func (o *openaiView) pass(x *emitter, m Meta, block []byte) {
	if m.has(flagUsage) {
		if !o.usage {
			return
		}
		o.used = true
	}
	if !o.opening.known {
		o.opening.learn(block)
		o.roles = 1
	}
	o.finish = o.finish || m.has(flagFinish)
	x.block(block)
}

// translate writes the chunks that another protocol's frame amounts to.
func (o *openaiView) translate(x *emitter, m Meta, data []byte) {
	if m.has(flagUsage) || m.has(flagHeader) || m.Protocol() == Bytes {
		return
	}
	eachPiece(m, data, func(p choice) {
		if !p.empty() {
			o.chunk(x, &p)
		}
		if p.index != 0 && len(p.finish) > 0 { // the first choice's finish comes with the end of the job
			o.chunk(x, &choice{index: p.index, finish: p.finish})
		}
	})
}

func (o *openaiView) end(x *emitter, r Result) {
	x.closed = true
	if !o.finish {
		if r.Finish == "" {
			r.Finish = "stop"
		}
		o.chunk(x, &choice{finish: []byte(r.Finish)})
	}
	if o.usage && !o.used {
		o.used = true
		b := append(o.head(o.scratch[:0]), `"choices":[],"usage":`...)
		b = append(appendUsage(b, r.PromptTokens, r.OutputTokens, r.CachedTokens), '}')
		o.scratch = b
		x.event("", b)
	}
	if x.begin() {
		x.buf = append(x.buf, "data: [DONE]\n\n"...)
	}
}

// head appends the members that all chunks of a stream have in common.
func (o *openaiView) head(b []byte) []byte {
	first := o.opening.ident()
	b = append(b, `{"id":`...)
	if len(first.id) > 2 {
		b = append(b, first.id...)
	} else {
		prefix := "chatcmpl-"
		if o.protocol == Completion {
			prefix = "cmpl-"
		}
		b = quote(b, prefix+o.job)
	}
	if o.protocol == Chat {
		b = append(b, `,"object":"chat.completion.chunk","created":`...)
	} else {
		b = append(b, `,"object":"text_completion","created":`...)
	}
	if len(first.created) > 0 {
		b = append(b, first.created...)
	} else {
		b = strconv.AppendInt(b, o.createdUnix(), 10)
	}
	b = append(b, `,"model":`...)
	if len(first.model) > 0 {
		b = append(b, first.model...)
	} else {
		b = quote(b, o.model)
	}
	return append(b, ',')
}

// chunk writes one synthesised chunk, after the one with the role if that is still to come.
func (o *openaiView) chunk(x *emitter, p *choice) {
	if bit := uint64(1) << min(uint(p.index), 63); o.protocol == Chat && o.roles&bit == 0 {
		o.roles |= bit
		b := append(o.head(o.scratch[:0]), `"choices":[{"index":`...)
		b = strconv.AppendInt(b, int64(p.index), 10)
		o.close(x, append(b, `,"delta":{"role":"assistant","content":""},"finish_reason":null}]`...))
	}
	b := append(o.head(o.scratch[:0]), `"choices":[{"index":`...)
	b = strconv.AppendInt(b, int64(p.index), 10)
	if o.protocol == Chat {
		b = append(b, `,"delta":{`...)
		b = appendDelta(b, p)
		b = append(b, '}')
	} else {
		b = append(b, `,"text":`...)
		if isText(p.text) {
			b = append(b, p.text...)
		} else {
			b = append(b, '"', '"')
		}
	}
	if p.logprobs != nil {
		b = append(append(b, `,"logprobs":`...), p.logprobs...)
	} else if o.protocol != Chat { // a completion's choice has them always
		b = append(b, `,"logprobs":null`...)
	}
	b = append(b, `,"finish_reason":`...)
	if len(p.finish) > 0 && p.empty() {
		o.finish = o.finish || p.index == 0
		b = append(append(append(b, '"'), p.finish...), '"')
	} else {
		b = append(b, "null"...)
	}
	o.close(x, append(b, "}]"...))
}

// appendDelta writes the members of a delta.
func appendDelta(b []byte, p *choice) []byte {
	comma := false
	put := func(name string, v []byte) {
		if comma {
			b = append(b, ',')
		}
		comma = true
		b = append(append(append(append(b, '"'), name...), `":`...), v...)
	}
	if p.reasoning != nil {
		put("reasoning_content", p.reasoning)
	}
	if isText(p.text) {
		put("content", p.text)
	}
	if p.tools != nil {
		put("tool_calls", indexed(p.tools))
	}
	return b
}

// close ends a chunk: the chunks before the usage say usage null when usage was asked for.
func (o *openaiView) close(x *emitter, b []byte) {
	if o.usage {
		b = append(b, `,"usage":null`...)
	}
	b = append(b, '}')
	o.scratch = b
	x.event("", b)
}

// indexed gives each tool call of a whole message the index that a streamed one must have.
func indexed(tools []byte) []byte {
	if v := member(firstElement(tools), "index"); v != nil {
		return tools
	}
	out := []byte{'['}
	n := 0
	eachElement(tools, func(v []byte) bool {
		if len(v) < 2 || v[0] != '{' {
			return true
		}
		if n > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(append(out, `{"index":`...), int64(n), 10)
		if len(v) > 2 {
			out = append(out, ',')
		}
		out = append(out, v[1:]...)
		n++
		return true
	})
	return append(out, ']')
}

func firstElement(array []byte) (first []byte) {
	eachElement(array, func(v []byte) bool { first = v; return false })
	return first
}
