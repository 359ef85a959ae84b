package sserelay

import (
	"bytes"
	"strconv"
)

// nativeView writes the contract's events.
type nativeView struct {
	translator
	index int // token events so far
}

func (n *nativeView) frame(x *emitter, m Meta, data []byte) {
	switch m.Kind() {
	case KindStarted:
		n.note(m, data)
		x.event("started", public(data))
	case KindData, KindBody:
		n.data(x, m, data)
	case KindEnd:
		x.closed = true
		x.event("end", data)
	case KindError:
		x.closed = true
		x.failed = failureOf(data)
		x.event("error", data)
	}
}

func (n *nativeView) fail(x *emitter, e *Error) {
	x.bare("error", appendFailure(nil, e))
}

func appendFailure(dst []byte, e *Error) []byte {
	dst = quote(append(dst, `{"code":`...), e.code)
	return append(quote(append(dst, `,"message":`...), e.message), '}')
}

func (n *nativeView) data(x *emitter, m Meta, data []byte) {
	if m.has(flagUsage) || m.has(flagHeader) {
		return
	}
	if m.Kind() == KindBody && m.Tokens() == 0 {
		m = newMeta(KindBody, m.Protocol(), uint8(m>>8), 1)
	}
	if m.Kind() == KindData && m.Protocol() == Execute {
		n.pass(x, data)
		return
	}
	if m.Protocol() == Bytes || m.Protocol() == Raw && m.Kind() == KindBody {
		return // bytes have no native event: read them with the raw format
	}
	tokens := m.Tokens()
	eachPiece(m, data, func(p choice) {
		if p.empty() {
			return
		}
		n.token(x, &p, tokens)
	})
}

// pass lets the worker's own token event through when it says what the view would say.
func (n *nativeView) pass(x *emitter, block []byte) {
	t, ok := parseToken(blockData(block))
	if !ok {
		return
	}
	if string(t.index) == strconv.Itoa(n.index) {
		n.index++
		x.block(block)
		return
	}
	p := choice{text: t.text, delta: t.delta, extra: t.delta != nil}
	n.token(x, &p, t.n)
}

func (n *nativeView) token(x *emitter, p *choice, tokens int) {
	b := append(n.scratch[:0], `{"t":`...)
	if isText(p.text) {
		b = append(b, p.text...)
	} else {
		b = append(b, '"', '"')
	}
	b = strconv.AppendInt(append(b, `,"i":`...), int64(n.index), 10)
	if tokens != 1 {
		b = strconv.AppendInt(append(b, `,"n":`...), int64(tokens), 10)
	}
	switch {
	case p.index != 0 || p.logprobs != nil:
		b = append(append(b, `,"delta":`...), p.raw...)
	case p.more() && p.delta != nil:
		b = append(append(b, `,"delta":`...), p.delta...)
	}
	b = append(b, '}')
	n.scratch = b
	n.index++
	x.event("token", b)
}

// public is a started event as readers see it: without what only the views need.
func public(data []byte) []byte {
	i := bytes.LastIndex(data, []byte(`,"created":`))
	if i < 0 {
		return data
	}
	return append(bytes.Clone(data[:i]), '}')
}
