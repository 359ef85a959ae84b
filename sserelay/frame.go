package sserelay

import "context"

// Kind says what a frame is.
type Kind uint8

// The kinds of frames. Their values are stored in journals: never renumber them.
const (
	KindStarted Kind = 1 // a worker took the job; JSON of the contract's "started" event
	KindData    Kind = 2 // one event of the worker, bytes untouched, without the closing blank line
	KindBody    Kind = 3 // a whole non-streamed answer: a JSON header line, then the bytes
	KindEnd     Kind = 4 // the job's end; JSON of the contract's "end" event
	KindError   Kind = 5 // the job's failure; JSON of the contract's "error" event
)

// Protocol says which language a data or body frame speaks.
type Protocol uint8

// The protocols of frames. Their values are stored in journals: never renumber them.
const (
	None       Protocol = 0 // frames that the relay wrote itself
	Execute    Protocol = 1 // the native worker protocol
	Chat       Protocol = 2 // /v1/chat/completions
	Completion Protocol = 3 // /v1/completions
	Raw        Protocol = 4 // server-sent events of any other endpoint
	Bytes      Protocol = 5 // any other body, in pieces
)

// Meta is what a journal stores beside a frame's bytes: kind, protocol, flags and token count in 32 bits.
type Meta uint32

// Flags of a data frame, set once when the frame is taken in so that no view has to look again.
const (
	flagText    = 1 << iota // carries text of an answer
	flagFinish              // carries a finish_reason
	flagUsage               // a usage chunk without choices
	flagMore                // carries more than text: tool calls, reasoning, logprobs, another choice
	flagHeader              // a body frame whose bytes follow as data frames
	flagRefusal             // a body frame that is the worker's refusal of the request
)

const maxTokens = 1<<16 - 1

func newMeta(k Kind, p Protocol, flags uint8, tokens int) Meta {
	tokens = min(max(tokens, 0), maxTokens)
	return Meta(k)&0xf | Meta(p)&0xf<<4 | Meta(flags)<<8 | Meta(tokens)<<16
}

// NewMeta packs a kind, a protocol and a token count (at most 65,535).
func NewMeta(k Kind, p Protocol, tokens int) Meta { return newMeta(k, p, 0, tokens) }

// Kind returns what the frame is.
func (m Meta) Kind() Kind { return Kind(m & 0xf) }

// Protocol returns the language of the frame's bytes.
func (m Meta) Protocol() Protocol { return Protocol(m >> 4 & 0xf) }

// Tokens returns how many tokens the frame carries.
func (m Meta) Tokens() int { return int(m >> 16) }

// Terminal reports whether nothing may follow the frame.
func (m Meta) Terminal() bool { return m.Kind() == KindEnd || m.Kind() == KindError }

func (m Meta) has(flag uint8) bool { return uint8(m>>8)&flag != 0 }

// Journal keeps the frames of streams. queue's journal satisfies it as it is; NewMemoryJournal is one for
// embedding. Sequence numbers of a job start at 1 and have no gaps; data may be reused by the caller as soon as
// a call returns. Read passes every frame after the given number in order and sees everything that Append or
// Buffer accepted before; the bytes are valid only inside fn, and an error from fn ends the reading and is returned.
type Journal interface {
	// Append returns when a sudden death of the process can't lose the frame.
	Append(ctx context.Context, job string, seq uint64, meta uint32, data []byte) error
	// Buffer returns at once; the frame is stored within a tenth of a second.
	Buffer(job string, seq uint64, meta uint32, data []byte) error
	// Read passes the stored frames with a number above after.
	Read(ctx context.Context, job string, after uint64, fn func(seq uint64, meta uint32, data []byte) error) error
}

// Flusher is a Journal that can be told not to keep what was buffered any longer: it is called before each write to a
// reader, so that a sudden death takes next to nothing that a reader has seen.
type Flusher interface {
	Flush() error
}
