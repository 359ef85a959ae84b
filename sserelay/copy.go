package sserelay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// CopyOptions say how a worker's answer is taken in.
type CopyOptions struct {
	Protocol     Protocol                    // Execute, Chat, Completion, Raw or Bytes
	Status       int                         // of the worker's answer, for Raw and Bytes; 0 = 200
	ContentType  string                      // of the worker's answer, for Raw and Bytes
	FirstTimeout time.Duration               // longest wait for the first frame, 0 = none
	NextTimeout  time.Duration               // longest silence after it, 0 = none
	Hold         func(context.Context) error // awaited once before the first frame is emitted; may be nil
	OnFirst      func()                      // called once, before the first frame is emitted; may be nil
	StripUsage   bool                        // the client did not ask for the usage chunk
	StripVerbose bool                        // __verbose and tokens were injected into the request
	Continuation *Continuation               // a worker after a loss; nil = the first one
}

// Continuation tells Copy that an earlier worker's text goes on: the chunks keep the first stream's identity, the
// role is not repeated, and what was generated before counts.
type Continuation struct {
	Stop []string // the request's stop strings, matched across the seam
}

// Outcome is what Copy and Body learned. Counts are of the whole job, earlier workers included.
type Outcome struct {
	Finish       string // stop, length, tool_calls, content_filter, or empty
	PromptTokens int
	CachedTokens int
	OutputTokens int
	Frames       int // data frames of this worker
	First        time.Time
	Last         time.Time
	Complete     bool         // the protocol's end was seen
	WorkerError  *WorkerError // the error that the worker sent in its stream, also returned as error
}

// copier is one run of Copy.
type copier struct {
	s       *Stream
	ctx     context.Context
	o       CopyOptions
	body    io.ReadCloser
	stop    func() bool
	p       *Parser
	watch   watchdog
	out     Outcome
	use     usage
	base    int // tokens of earlier workers
	ended   bool
	dirty   bool // frames were published without waking the readers
	scratch []byte
	seam    *seam
	like    likeness
	burst   *burst // nil while the worker is silent
	batch   int    // frames of a detached stream since the readers were woken
	polled  Polled // the body, once it is not waited for
	polls   Polled // the body, if that is possible
	choked  bool   // the readers can't keep up
	then    func(Outcome, error)
	err     error // of a burst
}

// Copy reads a worker's streamed answer to its end and emits its frames. It closes body; one with a method Done() is told
// before that its protocol's end was seen, so that it can keep the connection. Nothing terminal of the
// worker is emitted: the caller ends the stream, or hands it to another worker. The error is nil only when the
// answer was complete; else ErrFirstTimeout, ErrStalled, ErrTruncated (a clean or a broken end without the protocol's
// end), *WorkerError, *ProtocolError, *LimitError, the error of Hold, or the context's.
func (s *Stream) Copy(ctx context.Context, body io.ReadCloser, o CopyOptions) (Outcome, error) {
	c := s.newCopier(ctx, body, o)
	defer c.close()
	return c.result(c.run())
}

// newCopier begins to watch over the body.
func (s *Stream) newCopier(ctx context.Context, body io.ReadCloser, o CopyOptions) *copier {
	c := &copier{s: s, ctx: ctx, o: o, body: body}
	c.watch.begin(body, o.FirstTimeout)
	c.stop = afterFunc(ctx, c.abort)
	s.wmu.Lock()
	c.base = s.state.tokens
	s.wmu.Unlock()
	if o.Continuation != nil {
		c.seam = s.newSeam(ctx, o.Continuation)
	}
	return c
}

// abort ends the copying for a context that has ended.
func (c *copier) abort() {
	c.body.Close()
	c.s.interrupt()
}

// afterFunc is context.AfterFunc. A context that offers that itself is asked directly: package context would make a context of
// its own in between. It must not be held up.
func afterFunc(ctx context.Context, fn func()) (stop func() bool) {
	if a, ok := ctx.(interface{ AfterFunc(func()) func() bool }); ok {
		return a.AfterFunc(func() { go fn() })
	}
	return context.AfterFunc(ctx, fn)
}

// close ends what newCopier began.
func (c *copier) close() {
	c.stop()
	c.watch.stop()
	c.body.Close()
	if c.p != nil {
		c.p.release()
	}
}

// result is what Copy returns after an end with this error.
func (c *copier) result(err error) (Outcome, error) {
	c.flush()
	if err == nil {
		err = c.err
	}
	if cause := c.ctx.Err(); cause != nil && err != nil {
		err = context.Cause(c.ctx)
	} else if w := c.watch.expired(); w != nil && err != nil {
		err = w
	}
	c.settle()
	if err != nil {
		c.out.Complete = false
	}
	return c.out, err
}

// Read notes when the worker spoke.
func (c *copier) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if n > 0 {
		c.watch.touch()
	}
	return n, err
}

func (c *copier) run() error {
	if c.o.Protocol == Raw || c.o.Protocol == Bytes {
		if err := c.header(); err != nil {
			return err
		}
	}
	if c.o.Protocol == Bytes {
		return c.pieces()
	}
	c.p = NewParser(c, ParserOptions{MaxLine: c.s.hub.o.MaxLine, MaxEvent: c.s.hub.o.MaxEvent, Before: c.pass})
	if c.polls != nil {
		c.p.large, c.p.try = c.s.hub, c.try
	}
	return c.events()
}

// events takes in what comes, until the end or, where the body is polled, until there is nothing now.
func (c *copier) events() error {
	for !c.ended {
		ev, err := c.p.next()
		switch {
		case err == nil:
		case errors.Is(err, errAgain):
			return err
		default:
			return c.eof(err)
		}
		if err := c.event(ev); err != nil {
			return err
		}
		if c.choked {
			return errChoked
		}
	}
	c.out.Complete = true
	if d, ok := c.body.(interface{ Done() }); ok {
		d.Done()
	}
	return nil
}

// eof decides what the end of the worker's bytes means.
func (c *copier) eof(err error) error {
	var limit *LimitError
	if errors.As(err, &limit) {
		return err
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	}
	if c.o.Protocol == Raw {
		c.out.Complete = true
		return nil
	}
	// A last line without its blank line is no event, but engines exist that end so.
	if c.out.Finish != "" && string(bytes.TrimSpace(blockData(c.p.Pending()))) == "[DONE]" {
		c.out.Complete = true
		return nil
	}
	return ErrTruncated
}

func (c *copier) event(ev *Event) error {
	switch c.o.Protocol {
	case Chat, Completion:
		return c.openai(ev)
	case Execute:
		return c.execute(ev)
	default:
		return c.emit(newMeta(KindData, Raw, 0, 0), ev.Raw)
	}
}

// openai takes one event of a chat or completion stream.
func (c *copier) openai(ev *Event) error {
	if len(ev.Type) == 0 && c.like.matches(ev.Data) {
		return c.emit(newMeta(KindData, c.o.Protocol, flagText, 1), ev.Raw)
	}
	ch, ok := parseChunk(ev.Data)
	switch {
	case !ok:
		return &ProtocolError{What: "an event is not a JSON object"}
	case ch.done:
		if c.out.Finish == "" {
			return fmt.Errorf("%w: [DONE] without a finish reason", ErrTruncated)
		}
		c.ended = true
		return nil
	case ch.err != nil || string(ev.Type) == "error":
		return c.inBand(ch.err, ev.Data)
	}
	ch.readUsage(&c.use)
	flags := ch.flags()
	if flags&flagFinish != 0 {
		c.out.Finish = string(ch.choice.finish)
	}
	if flags&flagUsage != 0 && c.o.StripUsage {
		return nil
	}
	if ch.count == 0 && flags == 0 && c.out.Frames == 0 && c.seam != nil {
		return nil
	}
	raw, tokens := ev.Raw, ch.tokenCount()
	if c.seam != nil || c.o.StripVerbose && (ch.verbose != nil || ch.tokens != nil) {
		var drop bool
		if raw, drop = c.patch(ev, &ch, &flags); drop {
			return nil
		}
	} else if flags == flagText && tokens == 1 {
		c.like.learn(ev.Data, &ch)
	}
	return c.emit(newMeta(KindData, c.o.Protocol, flags, tokens), raw)
}

// execute takes one event of the native worker protocol.
func (c *copier) execute(ev *Event) error {
	switch string(ev.Type) {
	case "token":
		return c.token(ev)
	case "end":
		return c.endEvent(ev.Data)
	case "error":
		return c.inBand(nil, ev.Data)
	}
	return nil // started, metrics and what later versions may add
}

func (c *copier) token(ev *Event) error {
	t, ok := parseToken(ev.Data)
	if !ok {
		return &ProtocolError{What: "a token event is not a JSON object"}
	}
	raw := ev.Raw
	if c.seam != nil {
		if cut, hit := c.seam.add(t.text); hit {
			c.out.Finish, c.ended = "stop", true
			if cut == "" {
				return nil
			}
			c.scratch = append(c.scratch[:0], "event: token\ndata: {\"t\":"...)
			c.scratch = append(quote(c.scratch, cut), '}', '\n')
			raw = c.scratch
		}
	}
	var flags uint8
	if isText(t.text) {
		flags |= flagText
	}
	if t.delta != nil {
		flags |= flagMore
	}
	return c.emit(newMeta(KindData, Execute, flags, t.n), raw)
}

func (c *copier) endEvent(data []byte) error {
	var reason []byte
	ok := eachField(data, func(k, v []byte) bool {
		switch string(k) {
		case "tokens_out":
			c.use.output, c.use.seen = number(v), true
		case "prompt_tokens":
			c.use.prompt = number(v)
		case "cached_tokens":
			c.use.cached = number(v)
		case "stop_reason":
			reason = inner(v)
		}
		return true
	})
	if !ok {
		return &ProtocolError{What: "its end event is not a JSON object"}
	}
	if c.out.Finish = string(reason); c.out.Finish == "" {
		c.out.Finish = "stop"
	}
	c.ended = true
	return nil
}

// inBand turns the error that a worker sent into a typed one.
func (c *copier) inBand(obj, data []byte) error {
	if obj == nil {
		obj = data
	}
	c.out.WorkerError = workerError(obj)
	return c.out.WorkerError
}

// header announces the content type of a raw or binary answer.
func (c *copier) header() error {
	status := c.o.Status
	if status == 0 {
		status = 200
	}
	return c.emit(newMeta(KindBody, c.o.Protocol, flagHeader, 0), appendHeader(nil, status, c.o.ContentType))
}

// pieces relays a body that is no event stream.
func (c *copier) pieces() error {
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if e := c.emit(newMeta(KindData, Bytes, 0, 0), buf[:n]); e != nil {
				return e
			}
			c.flush()
		}
		switch {
		case errors.Is(err, io.EOF):
			c.out.Complete = true
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrTruncated, err)
		}
	}
}

// emit hands a frame to the stream; the readers are woken when the parser has to wait for more.
func (c *copier) emit(m Meta, data []byte) error {
	if c.out.Frames == 0 && m.Kind() == KindData || m.has(flagHeader) {
		if err := c.begin(); err != nil {
			return err
		}
	}
	if m.Kind() == KindData {
		c.out.Frames++
		c.out.Last = c.watch.seen()
	}
	if c.err != nil {
		return c.err
	}
	if c.s.o.Detached || len(data) > c.s.hub.o.Window/8 {
		return c.emitOne(m, data)
	}
	if c.burst == nil {
		c.burst = c.s.hub.burst()
	}
	c.burst.add(m, data)
	c.dirty = true
	if c.burst.full() {
		c.flush()
		c.pressure()
	}
	return c.err
}

// pressure holds the worker back for readers that can't keep up.
func (c *copier) pressure() {
	switch {
	case !c.s.crowded():
	case c.polled != nil:
		c.choked = true
	default:
		c.s.waitForReaders(c.ctx)
		c.watch.touch() // that was not the worker's silence
	}
}

// emitOne emits a frame that may not wait for others: of a detached stream, or a large one.
func (c *copier) emitOne(m Meta, data []byte) error {
	c.flush()
	if c.err != nil {
		return c.err
	}
	s := c.s
	s.wmu.Lock()
	s.state.note(m, data)
	err := s.emit(c.ctx, m, data, false)
	s.wmu.Unlock()
	c.dirty = true
	if c.batch++; c.batch >= 64 || c.out.Frames&7 == 0 && s.crowded() {
		c.flush()
		c.pressure()
	}
	return err
}

// begin waits for whatever the first frame has to wait for.
func (c *copier) begin() error {
	if c.out.First.IsZero() {
		c.out.First = c.watch.seen()
		if c.o.OnFirst != nil {
			c.o.OnFirst()
		}
		if c.o.Hold != nil {
			c.watch.pause()
			if err := c.o.Hold(c.ctx); err != nil {
				return err
			}
		}
		c.watch.rearm(c.o.NextTimeout)
	}
	return nil
}

// flush passes on whatever is new.
func (c *copier) flush() {
	if c.dirty {
		c.intake()
		if !c.s.o.Detached && c.s.watched() { // a detached one's frames are appended, not buffered
			c.s.hub.Flush()
		}
		c.s.flush(true)
	}
}

// intake gives the stream what came.
func (c *copier) intake() {
	c.dirty, c.batch = false, 0
	if b := c.burst; b != nil {
		if c.err == nil {
			c.err = c.s.emitBurst(b)
		}
		c.burst = nil
		c.s.hub.putBurst(b)
	}
}

// settle works out the counts of the whole job.
func (c *copier) settle() {
	c.s.wmu.Lock()
	counted := c.s.state.tokens
	c.s.wmu.Unlock()
	c.out.OutputTokens = counted
	if c.use.output > 0 || c.use.seen {
		c.out.OutputTokens = max(counted, c.base+c.use.output)
		if c.base == 0 {
			c.out.OutputTokens = c.use.output
		}
	}
	c.out.PromptTokens, c.out.CachedTokens = c.use.prompt, c.use.cached
	if c.o.Continuation != nil {
		c.out.PromptTokens = max(0, c.use.prompt-c.base)
		c.out.CachedTokens = min(c.use.cached, c.out.PromptTokens)
	}
}
