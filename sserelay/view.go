package sserelay

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
)

// Format is the language that a reader wants.
type Format uint8

// The formats of a view.
const (
	FormatNative         Format = iota // the contract's events
	FormatChat                         // OpenAI chat completion chunks, or one chat completion
	FormatCompletion                   // OpenAI text completion chunks, or one text completion
	FormatOllamaChat                   // Ollama's /api/chat, newline-delimited JSON
	FormatOllamaGenerate               // Ollama's /api/generate
	FormatRaw                          // whatever the worker sent
)

// Sender is what a ResponseWriter that is given to Serve may be, too: one that needs fewer system calls for a part of a stream.
type Sender interface {
	// Send is Write and Flush in one. sent is false where that can't be: nothing was written, and Write and Flush are called.
	Send(p []byte) (sent bool, err error)
}

// View is how one reader sees a stream. It is a pure function of the frames, so that an event has the same id each
// time it is read.
type View struct {
	Format       Format
	IDs          bool              // write an id: line with each event (always so in a native view of an events endpoint)
	IncludeUsage bool              // OpenAI: a usage chunk before [DONE]
	LastEventID  string            // resume after this event; "" = from the start
	Eager        bool              // send headers at once: every error is in-band, as on an events endpoint
	Model        string            // used where the stream does not know its model
	OnHeaders    func(http.Header) // called just before the headers go out; may be nil
	// TakeOver, when not nil, is asked once, after the headers, for the connection, so that a reader of a long answer needs no
	// goroutine. The ResponseWriter is then used no more. Serve returns ErrTaken.
	TakeOver func() (Conn, bool)
	// Carry, when not nil, is called by Result once the caller counts as a reader: it writes the stream on the caller's
	// own goroutine. A caller whose context ends meanwhile does not count any more, as soon as the answer has taken some time.
	Carry func()
	// Wait, when not nil, is called by Result after that where it may have to wait, and gives the context to wait with.
	Wait func(context.Context) context.Context
}

// viewer turns frames into a reader's events.
type viewer interface {
	// frame appends what a frame looks like.
	frame(x *emitter, m Meta, data []byte)
	// fail appends a failure in the middle of the stream.
	fail(x *emitter, e *Error)
}

// newViewer returns the translation for a view.
func (s *Stream) newViewer(v View) viewer {
	base := translator{job: s.id, model: v.Model, usage: v.IncludeUsage, created: s.o.Created}
	if s.o.Model != "" {
		base.model = s.o.Model
	}
	switch v.Format {
	case FormatChat:
		return &openaiView{translator: base, protocol: Chat}
	case FormatCompletion:
		return &openaiView{translator: base, protocol: Completion}
	case FormatOllamaChat, FormatOllamaGenerate:
		return &ollamaView{translator: base, generate: v.Format == FormatOllamaGenerate}
	case FormatRaw:
		return &rawView{}
	default:
		return &nativeView{translator: base}
	}
}

func (v View) ndjson() bool { return v.Format == FormatOllamaChat || v.Format == FormatOllamaGenerate }

// emitter collects a reader's bytes, numbers its events and leaves out those that it has already.
type emitter struct {
	buf     []byte
	ids     bool
	id      uint64 // events so far
	skip    uint64 // events that the reader has already
	seq     uint64 // frame that is being translated
	skipSeq uint64 // frame that event number skip came from
	failed  *Error // the frames ended with this error and nothing was written of it yet
	closed  bool   // a terminal event was translated
	header  *bodyHeader
	refusal []byte // the worker's own refusal, with header
}

// begin starts an event; false means that the reader has it already.
func (x *emitter) begin() bool {
	x.id++
	if x.id <= x.skip {
		if x.id == x.skip {
			x.skipSeq = x.seq
		}
		return false
	}
	if x.ids {
		x.buf = append(x.buf, "id: "...)
		x.buf = strconv.AppendUint(x.buf, x.id, 10)
		x.buf = append(x.buf, '\n')
	}
	return true
}

// refuse keeps a worker's refusal of the request: it is shown as it is to a reader that has seen nothing.
func (x *emitter) refuse(frame []byte) {
	h, body := splitBody(frame)
	x.header, x.refusal = &h, append([]byte(nil), body...)
}

// block writes a worker's event as it is, and closes it.
func (x *emitter) block(raw []byte) {
	if !x.begin() {
		return
	}
	if x.ids && hasIDLine(raw) {
		for len(raw) > 0 {
			line, rest := cutLine(raw)
			if !isIDLine(line) {
				x.buf = append(x.buf, line...)
			}
			raw = rest
		}
	} else {
		x.buf = append(x.buf, raw...)
	}
	x.buf = append(x.buf, '\n')
}

// cutLine splits off the first line with its line end.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		return b, nil
	}
	return b[:i+1], b[i+1:]
}

func isIDLine(line []byte) bool {
	return bytes.HasPrefix(line, []byte("id:")) || string(bytes.TrimRight(line, "\r\n")) == "id"
}

func hasIDLine(raw []byte) bool {
	return isIDLine(raw[:min(len(raw), 3)]) || bytes.Contains(raw, []byte("\nid"))
}

// event writes an event with one line of JSON.
func (x *emitter) event(name string, data []byte) {
	if x.begin() {
		x.bare(name, data)
	}
}

// bare writes an event that has no number.
func (x *emitter) bare(name string, data []byte) {
	if name != "" {
		x.buf = append(append(append(x.buf, "event: "...), name...), '\n')
	}
	x.buf = append(x.buf, "data: "...)
	x.buf = append(oneLine(x.buf, data), '\n', '\n')
}

// line writes one line of newline-delimited JSON.
func (x *emitter) line(data []byte) {
	x.id++
	if x.id > x.skip {
		x.buf = append(oneLine(x.buf, data), '\n')
	}
}

// parseLastEventID reads a Last-Event-ID that this package wrote.
func parseLastEventID(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	if len(s) <= 15 {
		digits := true
		for i := 0; i < len(s); i++ {
			digits = digits && s[i] >= '0' && s[i] <= '9'
		}
		if n, err := strconv.ParseUint(s, 10, 64); digits && err == nil {
			return n, nil
		}
	}
	return 0, NewError("INVALID_REQUEST", "Last-Event-ID must be the number of the last event that was received", nil)
}
