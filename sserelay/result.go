package sserelay

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
)

// Answer is a whole answer as one body.
type Answer struct {
	Status      int
	ContentType string
	Body        []byte
}

// Result waits for the end of the stream and returns the whole answer in the format of the view: a non-streamed
// answer of the same protocol as the worker wrote it, else one put together from the frames. A stream that failed
// gives its *Error. The caller counts as a reader until Result returns.
func (s *Stream) Result(ctx context.Context, v View) (*Answer, error) {
	r := s.join(true)
	defer s.leave(r)
	if v.Carry != nil {
		if group := s.carry(ctx, r, v.Carry); group != nil {
			return s.answerOf(group, v)
		}
	}
	if v.Wait != nil {
		ctx = v.Wait(ctx)
	}
	s.listen(r, false)
	s.uncover()
	g := s.newGatherer(v)
	for {
		p, err := s.scan(ctx, r, g.take)
		switch {
		case err != nil:
			return nil, err
		case g.failed != nil && g.refusal != nil:
			return g.refusal, nil
		case g.failed != nil:
			return nil, g.failed
		case g.closed:
			return g.answer(), nil
		case p.ended:
			return nil, NewError("INTERNAL", "the job was not carried to its end; ask for its record and submit it again", nil)
		case p.more:
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// gatherer puts an answer together from frames.
type gatherer struct {
	translator
	v       View
	whole   *bodyHeader // the worker's own body in the wanted protocol
	body    []byte
	choices []*gathered
	first   ident
	started []byte // the first Started frame, which tells the identity
	latest  []byte // the last one, which tells the worker
	result  Result
	closed  bool
	failed  *Error
	refusal *Answer // the worker's own refusal
}

// refuse keeps a worker's refusal, to be returned as it is.
func (g *gatherer) refuse(frame []byte) {
	h, body := splitBody(frame)
	g.refusal = &Answer{Status: h.Status, ContentType: h.ContentType, Body: append([]byte(nil), body...)}
}

// gathered is one choice.
type gathered struct {
	index     int
	text      []byte // escaped, without quotes
	reasoning []byte
	logprobs  []byte
	legacy    [4][]byte // tokens, token_logprobs, top_logprobs, text_offset of the completion surface
	refusal   []byte
	calls     callSet
	finish    string
}

func (s *Stream) newGatherer(v View) *gatherer {
	g := &gatherer{v: v, translator: translator{job: s.id, model: v.Model, created: s.o.Created}}
	if s.o.Model != "" {
		g.model = s.o.Model
	}
	return g
}

// wants reports whether a body of protocol p is what the view asks for.
func (g *gatherer) wants(p Protocol) bool {
	switch g.v.Format {
	case FormatChat:
		return p == Chat
	case FormatCompletion:
		return p == Completion
	case FormatRaw:
		return true
	}
	return false
}

func (g *gatherer) take(_ uint64, m Meta, data []byte) bool {
	switch m.Kind() {
	case KindStarted:
		if g.started == nil {
			g.started = append(g.started, data...)
		}
		g.latest = append(g.latest[:0], data...)
		g.refusal = nil // another worker took the job
	case KindBody:
		if m.has(flagRefusal) {
			if g.wants(m.Protocol()) {
				g.refuse(data)
			}
			return true
		}
		if g.wants(m.Protocol()) || m.Protocol() == Raw || m.Protocol() == Bytes {
			h, body := splitBody(data)
			g.whole, g.body = &h, append(g.body, body...)
			return true
		}
		g.pieces(m, data)
	case KindData:
		if g.whole != nil {
			g.body = append(g.body, data...)
			if m.Protocol() != Bytes {
				g.body = append(g.body, '\n')
			}
			return true
		}
		g.pieces(m, data)
	case KindEnd:
		g.result, g.closed = decodeEnd(data), true
	case KindError:
		g.failed, g.closed = failureOf(data), true
	}
	return true
}

func (g *gatherer) pieces(m Meta, data []byte) {
	if g.first.id == nil && m.Protocol() != Execute {
		block := data
		if m.Kind() == KindBody {
			_, body := splitBody(data)
			block = append([]byte("data: "), oneLine(nil, body)...)
		}
		g.first = readIdent(block)
	}
	eachPiece(m, data, func(p choice) { g.at(p.index).add(&p, m.Protocol()) })
}

func (g *gatherer) at(index int) *gathered {
	for _, c := range g.choices {
		if c.index == index {
			return c
		}
	}
	c := &gathered{index: index}
	at := len(g.choices)
	for at > 0 && g.choices[at-1].index > index {
		at--
	}
	g.choices = append(g.choices, nil)
	copy(g.choices[at+1:], g.choices[at:])
	g.choices[at] = c
	return c
}

func (c *gathered) add(p *choice, proto Protocol) {
	c.text = append(c.text, inner(p.text)...)
	c.reasoning = append(c.reasoning, inner(p.reasoning)...)
	c.refusal = append(c.refusal, inner(member(p.delta, "refusal"))...)
	c.calls.add(p.tools)
	if len(p.finish) > 0 {
		c.finish = string(p.finish)
	}
	if p.logprobs == nil {
		return
	}
	if proto == Completion {
		for i, name := range legacyLogprobs {
			c.legacy[i] = joinArray(c.legacy[i], member(p.logprobs, name))
		}
	}
	c.logprobs = joinArray(c.logprobs, member(p.logprobs, "content"))
}

var legacyLogprobs = [4]string{"tokens", "token_logprobs", "top_logprobs", "text_offset"}

// joinArray appends the elements of a raw array to those of another, without the brackets.
func joinArray(dst, array []byte) []byte {
	eachElement(array, func(v []byte) bool {
		if len(dst) > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, v...)
		return true
	})
	return dst
}

// answer writes the body.
func (g *gatherer) answer() *Answer {
	if g.whole != nil {
		return wholeAnswer(*g.whole, g.body)
	}
	a := &Answer{Status: http.StatusOK, ContentType: "application/json"}
	if g.started != nil {
		g.note(newMeta(KindStarted, None, 0, 0), g.started)
	}
	if len(g.choices) == 0 {
		g.at(0)
	}
	switch g.v.Format {
	case FormatChat:
		a.Body = g.openai(Chat)
	case FormatCompletion:
		a.Body = g.openai(Completion)
	case FormatOllamaChat, FormatOllamaGenerate:
		a.Body = g.ollama()
	default:
		a.Body = g.native()
	}
	return a
}

func quoted(b, escaped []byte) []byte {
	return append(append(append(b, '"'), escaped...), '"')
}

// openai writes a chat.completion or a text_completion.
func (g *gatherer) openai(p Protocol) []byte {
	view := &openaiView{translator: g.translator, protocol: p, opening: opening{known: true, id: g.first}}
	b := view.head(nil)
	if p == Chat {
		b = replaceOnce(b, `"chat.completion.chunk"`, `"chat.completion"`)
	}
	b = append(b, `"choices":[`...)
	for i, c := range g.choices {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"index":`...), int64(c.index), 10)
		if p == Chat {
			b = append(c.message(append(b, `,"message":`...), true), `,"logprobs":`...)
		} else {
			b = append(quoted(append(b, `,"text":`...), c.text), `,"logprobs":`...)
		}
		b = c.appendLogprobs(b)
		finish := c.finish
		if finish == "" {
			finish = g.result.Finish
		}
		b = append(quote(append(b, `,"finish_reason":`...), finish), '}')
	}
	b = append(b, `],"usage":`...)
	b = appendUsage(b, g.result.PromptTokens, g.result.OutputTokens, g.result.CachedTokens)
	return append(b, '}')
}

func (c *gathered) appendLogprobs(b []byte) []byte {
	switch {
	case c.legacy[0] != nil:
		b = append(b, '{')
		for i, name := range legacyLogprobs {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, '"'), name...), `":[`...)
			b = append(append(b, c.legacy[i]...), ']')
		}
		return append(b, '}')
	case c.logprobs != nil:
		return append(append(append(b, `{"content":[`...), c.logprobs...), `],"refusal":null}`...)
	}
	return append(b, "null"...)
}

// message writes an assistant message.
func (c *gathered) message(b []byte, openai bool) []byte {
	b = append(b, `{"role":"assistant","content":`...)
	if len(c.text) == 0 && len(c.calls.list) > 0 {
		b = append(b, "null"...)
	} else {
		b = quoted(b, c.text)
	}
	if len(c.reasoning) > 0 {
		b = quoted(append(b, `,"reasoning_content":`...), c.reasoning)
	}
	if len(c.refusal) > 0 {
		b = quoted(append(b, `,"refusal":`...), c.refusal)
	} else if openai { // has it always
		b = append(b, `,"refusal":null`...)
	}
	if len(c.calls.list) > 0 {
		b = append(append(b, `,"tool_calls":`...), c.calls.openai()...)
	}
	return append(b, '}')
}

// ollama writes the answer of /api/chat or /api/generate.
func (g *gatherer) ollama() []byte {
	view := &ollamaView{translator: g.translator, generate: g.v.Format == FormatOllamaGenerate}
	c := g.choices[0]
	p := choice{text: quoted(nil, c.text)}
	if len(c.reasoning) > 0 {
		p.reasoning = quoted(nil, c.reasoning)
	}
	var calls []byte
	if len(c.calls.list) > 0 {
		calls = c.calls.ollama()
	}
	b := append(view.body(view.head(nil), &p, calls), ',')
	return append(ollamaFigures(b, g.result), '}')
}

// native writes the answer of a waiting /v2 request.
func (g *gatherer) native() []byte {
	c := g.choices[0]
	b := quote([]byte(`{"job_id":`), g.job)
	b = quote(append(b, `,"model":`...), g.model)
	b = quote(append(b, `,"worker_id":`...), unquote(member(g.latest, "worker_id")))
	b = quote(append(b, `,"node":`...), unquote(member(g.latest, "node")))
	b = quoted(append(b, `,"text":`...), c.text)
	if len(c.reasoning) > 0 || len(c.calls.list) > 0 || len(g.choices) > 1 {
		b = append(b, `,"messages":[`...)
		for i, c := range g.choices {
			if i > 0 {
				b = append(b, ',')
			}
			b = c.message(b, false)
		}
		b = append(b, ']')
	}
	for _, f := range []struct {
		name string
		n    int64
	}{{"tokens_out", int64(g.result.OutputTokens)}, {"prompt_tokens", int64(g.result.PromptTokens)},
		{"cached_tokens", int64(g.result.CachedTokens)}, {"decode_time_ms", g.result.Decode.Milliseconds()}} {
		b = append(append(append(b, `,"`...), f.name...), `":`...)
		b = strconv.AppendInt(b, f.n, 10)
	}
	return append(quote(append(b, `,"stop_reason":`...), g.result.Finish), '}')
}

func replaceOnce(b []byte, old, with string) []byte {
	return bytes.Replace(b, []byte(old), []byte(with), 1)
}
