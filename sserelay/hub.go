package sserelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options tune a Hub. The zero value is usable.
type Options struct {
	Window       int                       // bytes of newest frames kept in memory per stream for its readers, 0 = 256 KiB
	WriteTimeout time.Duration             // how long one write to a reader may block, 0 = 30 s
	HoldHeaders  time.Duration             // how long a reader's headers wait for the first event, 0 = 10 s
	Ping         time.Duration             // silence after which a comment is sent, 0 = 15 s
	TakeAfter    time.Duration             // how long an answer must have been coming before it goes on without goroutines, 0 = 5 ms, negative = at once
	Grace        time.Duration             // how long a finished stream without readers stays in memory, 0 = 2 s
	MaxLine      int                       // longest line of a worker's stream, 0 = 1 MiB
	MaxEvent     int                       // longest event of a worker's stream, 0 = 2 MiB
	Logger       *slog.Logger              // nil = discard
	OnCut        func(job string)          // a reader was cut for slowness
	OnJournal    func(job string, e error) // an attached stream's frame could not be journalled
}

func (o *Options) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.WriteTimeout, 30*time.Second)
	set(&o.HoldHeaders, 10*time.Second)
	set(&o.Ping, 15*time.Second)
	set(&o.Grace, 2*time.Second)
	if o.TakeAfter == 0 {
		o.TakeAfter = takeAfter
	}
	if o.Window <= 0 {
		o.Window = 256 << 10
	}
	if o.MaxLine <= 0 {
		o.MaxLine = 1 << 20
	}
	if o.MaxEvent <= 0 {
		o.MaxEvent = 2 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// StreamOptions say what a stream is for.
type StreamOptions struct {
	Detached  bool      // journal each frame before it is emitted
	Recovered bool      // the job was found unfinished at start: its frames so far are read from the journal
	Model     string    // the model's name as clients know it
	Created   time.Time // when the job was submitted; zero = now
	// Format and IncludeUsage are the view of the job's own client where that is a stream of OpenAI's: FormatChat or
	// FormatCompletion. They are journalled, so that Stream.Asked gives whoever comes later the same chunks.
	Format       Format
	IncludeUsage bool
}

// Hub holds the live streams of a process. Its methods may be called from any goroutine.
type Hub struct {
	journal  Journal
	flusher  Flusher // the journal, if it is one
	bulk     Bulk    // likewise
	o        Options
	mu       sync.Mutex
	streams  map[string]*Stream
	buffers  sync.Pool // of *[]byte: readers' output
	bursts   sync.Pool // of *burst
	reads    sync.Pool // of *[]byte: parsers' input
	windows  sync.Pool // of *lent
	firsts   sync.Pool // of *[]byte: parsers' input before much came
	timers   sync.Pool // of *time.Timer, stopped
	due      sync.Mutex
	fed      []*Stream // streams with frames that are not passed on yet
	spare    []*Stream
	passing  func() // passAll: a method value costs an allocation each time it is made
	expiry   sync.Mutex
	over     []expiring // finished streams that are still in memory, the oldest first
	holds    sync.Mutex
	carriers []carrier // the oldest first
	watched  []carrier // memory for those whose time has come
}

// expiring is a finished stream and when it may leave memory.
type expiring struct {
	s  *Stream
	at time.Time
}

// NewHub returns a hub over a journal; nil means one in memory.
func NewHub(j Journal, o Options) *Hub {
	o.defaults()
	if j == nil {
		j = NewMemoryJournal(MemoryOptions{})
	}
	f, _ := j.(Flusher)
	b, _ := j.(Bulk)
	h := &Hub{journal: j, flusher: f, bulk: b, o: o, streams: make(map[string]*Stream)}
	h.passing = h.passAll
	return h
}

// Open starts the stream of a job, or with Recovered goes on with the one in the journal. It returns ErrExists
// when the job's stream is open. A recovered stream that has its terminal frame already is returned ended:
// Ended gives the result.
func (h *Hub) Open(ctx context.Context, job string, o StreamOptions) (*Stream, error) {
	if job == "" {
		return nil, NewError("INVALID_REQUEST", "a stream needs a job id", nil)
	}
	if o.Created.IsZero() {
		o.Created = time.Now()
	}
	s := newStream(h, job, o)
	if o.Recovered {
		if err := s.restore(ctx); err != nil {
			return nil, fmt.Errorf("read the journal of job %s: %w", job, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.streams[job]; old != nil && !old.replay {
		return nil, ErrExists
	}
	h.streams[job] = s
	if s.ended {
		s.expireLater()
	}
	return s, nil
}

// Lookup returns the stream of a job while it is in memory.
func (h *Hub) Lookup(job string) (*Stream, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.streams[job]
	return s, s != nil
}

// Len returns how many streams are in memory.
func (h *Hub) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.streams)
}

// Replay returns the stream of a job from memory, else from the journal. A job without frames gives an error with
// the code JOB_NOT_FOUND. A journal without a terminal frame, whose job nobody carries on, gives a stream that
// ends with an INTERNAL error after its last frame.
func (h *Hub) Replay(ctx context.Context, job string) (*Stream, error) {
	if s, ok := h.Lookup(job); ok {
		return s, nil
	}
	s := newStream(h, job, StreamOptions{Recovered: true})
	s.replay = true
	if err := s.restore(ctx); err != nil {
		return nil, fmt.Errorf("read the journal of job %s: %w", job, err)
	}
	if s.next == 1 {
		return nil, notFound(job)
	}
	if !s.ended {
		s.broken = true
		s.over()
	}
	return s, nil
}

// Flush lets go of what the journal keeps of attached streams: after it, a kill of the process loses none of it.
func (h *Hub) Flush() {
	if h.flusher == nil {
		return
	}
	if err := h.flusher.Flush(); err != nil {
		h.o.Logger.Warn("events kept back by the journal", "error", err)
	}
}

// expire drops finished streams whose time has come; one timer serves them all.
func (h *Hub) expire() {
	now := time.Now()
	h.expiry.Lock()
	n := 0
	for n < len(h.over) && !now.Before(h.over[n].at) {
		n++
	}
	due := h.over[:n:n]
	h.over = h.over[n:]
	if len(h.over) > 0 {
		time.AfterFunc(h.over[0].at.Sub(now), h.expire)
	} else {
		h.over = nil
	}
	h.expiry.Unlock()
	for _, e := range due {
		if e.s.Readers() > 0 {
			e.s.expireLater()
			continue
		}
		h.forget(e.s)
	}
}

// forget drops a finished stream from memory.
func (h *Hub) forget(s *Stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams[s.id] == s {
		delete(h.streams, s.id)
	}
}

// Close fails every live stream with SHUTTING_DOWN, so that their readers end; journalled frames stay for the
// next process only where a stream is detached: its terminal frame is then not written.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	live := make([]*Stream, 0, len(h.streams))
	for _, s := range h.streams {
		live = append(live, s)
	}
	h.mu.Unlock()
	var errs []error
	for _, s := range live {
		if err := s.shutdown(ctx); err != nil && !errors.Is(err, ErrEnded) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
