package sserelay

import (
	"context"
	"sync"
	"time"
)

// Stream is the output of one job: frames with consecutive numbers from 1, ending with exactly one terminal frame.
// One goroutine at a time writes (Started, Copy, Body, End, Fail), except that End and Fail may come from
// another; any number of readers follow.
type Stream struct {
	hub    *Hub
	id     string
	o      StreamOptions
	replay bool // journal only: nobody writes

	wmu   sync.Mutex // held while a frame is taken in: frames keep their order on the way to the journal
	state writerState
	held  *burst // the frames so far of an answer that may be over soon; guarded by wmu

	mu        sync.Mutex
	win       window
	next      uint64 // number of the next frame
	readers   []*reader
	own       reader        // the first of them
	first     [1]*reader    // where readers begins
	owned     bool          // own is, or was, in use
	carried   bool          // the only reader waits for the whole answer, on the goroutine that writes
	kept      int           // frames in held
	gap       bool          // the journal does not have all frames
	group     *burst        // all frames of a stream that has ended, until its carrier takes them
	room      chan struct{} // a reader moved while the writer waits
	waiting   bool
	parked    bool          // the writing side must not be held up
	idle      chan struct{} // nil until somebody asks for it
	unwatch   func() bool   // ends what looks after the carrier
	idleShut  bool
	onIdle    func()
	done      chan struct{} // likewise
	ended     bool
	broken    bool // ended without a terminal frame
	down      bool // ended for readers by a shutdown
	result    Result
	failure   *Error
	worker    string
	node      string
	ephemeral ephemeral
	asked     asked
	restored  uint64                // last frame found in the journal at recovery
	delivered [FormatRaw + 1]uint64 // per format, the last frame delivered with an id since recovery
}

// asked is the view of the job's own client; it does not change once the stream is open.
type asked struct {
	format Format
	usage  bool
}

// Asked gives the view of the job's own client, as StreamOptions named it, in this life or an earlier one; known is false
// where it was no stream of OpenAI's.
func (s *Stream) Asked() (f Format, includeUsage, known bool) {
	return s.asked.format, s.asked.usage, s.asked.format == FormatChat || s.asked.format == FormatCompletion
}

// writerState is what the writing side knows of the frames so far; guarded by wmu.
type writerState struct {
	tokens  int
	attempt int
	started bool // a Started frame was written
	opening opening
	model   string // of the Started frame
	created int64
	refuse  bool // something that a continuation can't carry was emitted
	data    int  // data frames
	body    bool
	lost    bool // the journal missed a frame
}

// ident is the identity of a worker's stream, as raw JSON values.
type ident struct {
	id, created, model []byte
}

// ephemeral is what native readers see without it being journalled.
type ephemeral struct {
	position   int
	queued     uint64 // version, 0 = nothing to show
	metrics    Metrics
	metricsVer uint64
}

// Metrics are the ephemeral figures of a running job.
type Metrics struct {
	TokensPerSecond float64
	QueueTime       time.Duration
	FirstToken      time.Duration
}

// Result is how a job ended well.
type Result struct {
	Finish       string // stop, length, tool_calls, content_filter
	PromptTokens int
	CachedTokens int
	OutputTokens int
	Decode       time.Duration // from the first token to the last
}

func newStream(h *Hub, id string, o StreamOptions) *Stream {
	return &Stream{hub: h, id: id, o: o, asked: asked{o.Format, o.IncludeUsage}, next: 1, win: window{base: 1, pool: &h.windows}}
}

// ID returns the job's id.
func (s *Stream) ID() string { return s.id }

// Done is closed when the stream has ended.
func (s *Stream) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.ended {
			close(s.done)
		}
	}
	return s.done
}

// over marks the end; mu is held, or nobody else knows the stream yet.
func (s *Stream) over() {
	s.ended = true
	if s.done != nil {
		close(s.done)
	}
}

// Ended reports whether the stream has ended, and how: err is nil after End, and has a code after Fail.
func (s *Stream) Ended() (ended bool, r Result, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure != nil {
		return true, Result{}, s.failure
	}
	return s.ended && !s.broken, s.result, nil
}

// Worker returns the worker that carries the job now; empty before Started.
func (s *Stream) Worker() (id, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.worker, s.node
}

// Frames returns how many frames the stream has.
func (s *Stream) Frames() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1 + uint64(s.kept)
}

// emit takes in one frame, first into the journal, then to the readers. For a detached stream a frame that can't be
// journalled is an error; an attached one goes on without. The caller holds wmu. wake is false when more frames follow at once.
func (s *Stream) emit(ctx context.Context, m Meta, data []byte, wake bool) error {
	if s.ended || s.replay {
		return ErrEnded
	}
	s.letGo()
	// A frame that does not fit the window must be readable from the journal before it is announced.
	first := s.o.Detached || len(data) > s.hub.o.Window
	seq := s.next
	if m.Terminal() {
		ctx = context.WithoutCancel(ctx) // the job's own end must not be lost to its cancellation
	}
	if first {
		err := s.hub.journal.Append(ctx, s.id, seq, uint32(m), data)
		if err != nil && !m.Terminal() {
			return NewError("INTERNAL", "the event could not be stored; look at the disk of the queen", err)
		}
		if err != nil {
			s.hub.o.Logger.Error("terminal event not journalled", "job_id", s.id, "error", err)
			s.noteGap()
		}
	}
	if !first {
		s.buffer(seq, m, data, wake)
	}
	s.publish(m, data, wake)
	return nil
}

// buffer journals a frame of an attached stream, whose readers get it whatever happens to the journal.
func (s *Stream) buffer(seq uint64, m Meta, data []byte, wake bool) {
	if s.state.lost {
		return
	}
	if err := s.hub.journal.Buffer(s.id, seq, uint32(m), data); err != nil {
		s.notJournalled(err)
	} else if wake && s.watched() {
		s.hub.Flush()
	}
}

// notJournalled gives up on the journal of an attached stream: what comes after a gap could not be read back. wmu is held.
func (s *Stream) notJournalled(err error) {
	s.state.lost = true
	s.noteGap()
	s.hub.o.Logger.Warn("event not journalled", "job_id", s.id, "error", err)
	if s.hub.o.OnJournal != nil {
		s.hub.o.OnJournal(s.id, err)
	}
}

// noteGap keeps the window as long as the stream.
func (s *Stream) noteGap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap = true
}

// watched reports whether somebody passes on what comes at once.
func (s *Stream) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.readers {
		if !r.whole {
			return true
		}
	}
	return false
}

// publish puts a frame in front of the readers.
func (s *Stream) publish(m Meta, data []byte, wake bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(data) > s.hub.o.Window {
		s.win.clear(s.next + 1)
	} else {
		s.trim(len(data))
		s.win.push(m, data, s.hub.o.Window)
	}
	s.next++
	if m.Terminal() {
		s.noteTerminal(m, data)
		s.finish()
	}
	if wake || m.Terminal() {
		s.wake(m.Kind() != KindStarted)
	}
}

// trim makes room for n bytes: frames that every reader has go first, then the oldest.
func (s *Stream) trim(n int) {
	const keep = 512
	if s.win.size() > keep {
		low := s.next
		for _, r := range s.readers {
			low = min(low, r.pos)
		}
		s.win.dropTo(low)
	}
	if s.win.size()+n+refSize <= s.hub.o.Window {
		return
	}
	// An eighth at once, so that making room does not move the whole window for each frame.
	for s.win.len() > 0 && s.win.size()+n+refSize > s.hub.o.Window/8*7 {
		s.win.dropTo(s.win.base + 1)
	}
}

// finish takes leave of the stream; mu is held.
func (s *Stream) finish() {
	s.over()
	if s.state.body && !s.o.Detached {
		s.hub.forget(s) // who has not read a short answer yet finds it in the journal
		return
	}
	s.expireLater()
}

func (s *Stream) noteTerminal(m Meta, data []byte) {
	if m.Kind() == KindError {
		s.failure = decodeFailure(data)
		return
	}
	s.result = decodeEnd(data)
}

// expireLater takes the stream out of memory once nobody needs it.
func (s *Stream) expireLater() {
	h := s.hub
	h.expiry.Lock()
	defer h.expiry.Unlock()
	h.over = append(h.over, expiring{s, time.Now().Add(h.o.Grace)})
	if len(h.over) == 1 {
		time.AfterFunc(h.o.Grace, h.expire)
	}
}

// wake tells the readers that there is something; those who want the whole answer only when it is for them. mu is held.
func (s *Stream) wake(whole bool) {
	for _, r := range s.readers {
		if !r.whole || whole {
			s.wakeOne(r)
		}
	}
}

func (s *Stream) wakeOne(r *reader) {
	if r.sv != nil && r.sv.conn != nil {
		r.sv.poke()
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// restore reads what the journal holds of the job.
func (s *Stream) restore(ctx context.Context) error {
	st := &s.state
	err := s.hub.journal.Read(ctx, s.id, 0, func(seq uint64, meta uint32, data []byte) error {
		m := Meta(meta)
		if seq != s.next {
			return NewError("JOB_NOT_FOUND", "events of this job are missing from the journal", ErrNotFound)
		}
		s.next = seq + 1
		st.note(m, data)
		switch {
		case m.Kind() == KindStarted:
			var was asked
			if s.worker, s.node, was = st.noteStarted(data); was.format != FormatNative {
				s.asked = was
			}
		case m.Terminal() && !s.ended:
			s.noteTerminal(m, data)
			s.over()
		}
		return nil
	})
	s.win.clear(s.next)
	s.restored = s.next - 1
	return err
}

// note keeps what a continuation or a view will want to know of a frame.
func (st *writerState) note(m Meta, data []byte) {
	switch m.Kind() {
	case KindData:
		st.tokens += m.Tokens()
		st.data++
		if m.has(flagMore) || m.Protocol() == Raw || m.Protocol() == Bytes {
			st.refuse = true
		}
		if m.Protocol() == Chat || m.Protocol() == Completion {
			st.opening.learn(data)
		}
	case KindBody:
		st.body, st.refuse = true, true
	}
}

// opening is the first of a worker's own chunks, whose identity few ask for: it is parsed when somebody does, unless it is too large
// to be kept.
type opening struct {
	known bool
	block []byte // as long as it was not parsed
	id    ident
}

// learn takes in a chunk; only the first one counts.
func (o *opening) learn(block []byte) {
	const most = 2 << 10
	switch {
	case o.known:
		return
	case len(block) > most:
		o.id = readIdent(block)
	default:
		o.block = append([]byte(nil), block...)
	}
	o.known = true
}

// ident gives the identity.
func (o *opening) ident() ident {
	if o.block != nil {
		o.id, o.block = readIdent(o.block), nil
	}
	return o.id
}

// readIdent copies the identity out of the first chunk.
func readIdent(block []byte) (id ident) {
	c, ok := parseChunk(blockData(block))
	if !ok || c.done {
		return id
	}
	clone := func(b []byte) []byte { return append([]byte(nil), b...) }
	if id.id = clone(c.id); id.id == nil {
		id.id = []byte(`""`)
	}
	id.created, id.model = clone(c.created), clone(c.model)
	return id
}
