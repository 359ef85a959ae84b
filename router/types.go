package router

import (
	"time"
)

// Surface names the API that a body is written in: the client's on a Job, the worker's on CopyOptions.
type Surface uint8

// The surfaces. Native is the body of POST /v2/tasks, or POST /v1/execute towards a worker.
const (
	Native Surface = iota
	Chat
	Completion
	Embeddings
	OllamaChat
	OllamaGenerate
	Raw // any other path: bytes pass through in both directions
)

// String gives the surface's name for logs.
func (s Surface) String() string {
	names := [...]string{"native", "chat", "completion", "embeddings", "ollama-chat", "ollama-generate", "raw"}
	if int(s) < len(names) {
		return names[s]
	}
	return "unknown"
}

// The worker protocols.
const (
	ProtocolOpenAI  = "openai"
	ProtocolExecute = "execute"
)

// Job is one request, parsed once by whoever took it. The router owns it from Submit on: it changes Attempt and Exclude
// and nothing else, and never while the scheduler looks at it.
type Job struct {
	ID       string // empty: made by Options.NewID
	Tenant   string
	Model    string // the name that the client used
	ModelRef string
	Priority string // interactive or batch
	Session  string
	Node     string

	Surface     Surface
	Path        string // of a Raw or Embeddings job: where it goes on the worker
	Body        []byte
	ContentType string // empty: application/json
	Prompt      []byte // for the scheduler; not sent

	Stream   bool // the client asked for a stream
	Inline   bool // where a slot is free at once, whoever submits carries the job: it must call Handle.Carry
	Detached bool // runs to its end whoever listens

	Submitted, Deadline     time.Time
	PromptTokens, MaxTokens int

	IdempotencyKey, CorrelationID, Traceparent string

	Set   map[string]string // parameters forced on the request: name to raw JSON value
	Strip []string          // parameters removed from the request

	Attempt int      // attempts made so far
	Exclude []string // workers that have just failed this job: Place and Pick should avoid them
	Aux     any      // the embedder's own; the router never looks
}

// Capabilities are what a worker's engine can do beyond its protocol.
type Capabilities struct {
	Prefill      bool // chat: a last message of role assistant is continued
	ContinueFlag bool // the same, but only where the request says so (vLLM: continue_final_message)
	CancelCall   bool // execute: POST /v1/cancel exists
}

// Worker is where an attempt runs.
type Worker struct {
	ID, Node, Address string
	Protocol          string // openai or execute
	Model             string // the name the engine knows its model by; empty: the job's
	APIKey            string
	Slots             int
	Capabilities      Capabilities
}

// Action is what the scheduler decided for a job.
type Action uint8

// The actions.
const (
	Route     Action = iota // a slot of Worker is reserved
	Provision               // load the model on Node first
	Wait                    // wait in the line
	Reject                  // Code and Reason say why
)

// Placement is a decision with its reservation.
type Placement struct {
	Action     Action
	Worker     Worker
	Node       string
	Device     string
	Evict      []string
	LoadBytes  int64 // Provision: size of what is loaded, for the load's time limit; 0 = unknown
	Code       string
	Reason     string
	RetryAfter time.Duration
	Release    func(Outcome) // called exactly once; nil when nothing is reserved
}

// Kind says how an attempt ended.
type Kind uint8

// How an attempt can end.
const (
	Completed   Kind = iota
	ClientError      // the worker refused the request itself: 4xx
	Busy             // the worker had no room: 429, 503
	WorkerFault      // died, hung, cut, 5xx
	Aborted          // by the client, a deadline or shutdown
	Internal         // our own side failed: journal, store
)

// Outcome is what one attempt on one worker came to. Stream.Copy and Stream.Body fill the counts; the router the rest.
type Outcome struct {
	Kind         Kind
	Worker, Node string
	Frames       int // frames relayed by this attempt
	Tokens       int // of the whole job so far, earlier attempts included
	PromptTokens int
	CachedTokens int
	StopReason   string
	Started      time.Time     // posted
	FirstToken   time.Duration // from Started; 0 when there was none
	Duration     time.Duration // from Started
	Err          error
}

// State of a finished job.
type State string

// The terminal states.
const (
	Complete     State = "complete"
	Failed       State = "failed"
	CancelledJob State = "cancelled"
)

// Result is the end of a job.
type Result struct {
	State         State
	Code, Message string // of a failed or cancelled job
	StopReason    string
	Status        int // HTTP status of the worker's answer; 0 when there was none
	Worker, Node  string
	Attempt       int
	PromptTokens  int
	CachedTokens  int
	TokensOut     int
	Submitted     time.Time
	Started       time.Time // first posted
	FirstToken    time.Time
	Completed     time.Time
}

// CopyOptions tell a Stream what it is given.
type CopyOptions struct {
	Protocol string  // of the worker
	Surface  Surface // of the frames: Chat, Completion, Native (execute events) or Raw
	Attempt  int
	// Status and ContentType of the worker's answer: a Raw one is shown with them.
	Status      int
	ContentType string
	// Continued: the frames go on after the prefix that earlier attempts emitted; they are patched to look like one stream.
	Continued bool
	// UsageInjected: the client did not ask for the usage chunk, the router did.
	UsageInjected bool
	// Stop strings of the request, to be matched across the seam of a continuation.
	Stop []string
	// FirstToken and InterToken bound the waits. The router enforces them on bytes; a stream may enforce them on frames.
	FirstToken, InterToken time.Duration
}

// Progress of a load.
type Progress struct {
	State                 string // downloading, loading, ...
	BytesDone, BytesTotal int64
	Fraction              float64 // 0 to 1
	ETA                   time.Duration
}

// Loading is what a waiting job can tell about the load that it waits for.
type Loading struct {
	Model, Node string
	Progress
	Since time.Time
}
