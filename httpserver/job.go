package httpserver

import (
	"context"
	"errors"
	"net/http"
)

// ErrAborted is wrapped by an error of Job.Serve when the stream broke at a place where no error can be written any
// more; the server then cuts the connection, so that the client can't take the rest for a whole answer.
var ErrAborted = errors.New("the stream broke in the middle: the connection is cut")

// Submitter accepts jobs. It is the one thing that a Server can't do without.
type Submitter interface {
	// Submit takes a job or refuses it with a coded error (see Coder). It may keep the Request. The context is the
	// client's: when it ends, an attached job that nobody else reads may be cancelled.
	Submit(ctx context.Context, r *Request) (Job, error)
}

// Job is a submitted job, seen by one reader.
type Job interface {
	ID() string
	// Position is the job's place in the waiting line from 1, or 0 when it waits no longer.
	Position() int
	// Committed returns when the job is stored so that it survives; only then is it acknowledged with 202.
	Committed(ctx context.Context) error
	// Serve writes the job's stream. It must write nothing before it knows that it has a stream: an error returned
	// before the first byte or header is rendered with its own status by the server. Later errors are in-band, and
	// are returned only to be logged, except ErrAborted.
	Serve(ctx context.Context, w http.ResponseWriter, v View) error
	// Result waits for the whole answer as one body. A worker's own 4xx is a Result with that status.
	Result(ctx context.Context, v View) (*Result, error)
	// Limits are the x-ratelimit-* headers; nil when no limit is set.
	Limits() http.Header
}

// The formats of a View.
const (
	FormatNative         = "native"
	FormatChat           = "chat"
	FormatCompletion     = "completion"
	FormatOpenAI         = "openai" // on resume: chat or completion, whichever the job is
	FormatOllamaChat     = "ollama_chat"
	FormatOllamaGenerate = "ollama_generate"
	FormatRaw            = "raw"
)

// View says in which shape a reader wants a job's events.
type View struct {
	Format       string
	IDs          bool   // an id: line with each event
	IncludeUsage bool   // a last chunk with the usage
	LastEventID  string // events up to this one are known to the reader
	Model        string // the name of the model as the client wrote it
	// OnHeaders is called with the response's headers just before they are sent; may be nil.
	OnHeaders func(http.Header)
}

// Result is a whole answer.
type Result struct {
	Status      int         // 0 = 200
	ContentType string      // "" = what Header says, or else application/json
	WorkerID    string      // for X-Rbee-Worker-Id, "" = not told
	QueueMs     string      // for X-Rbee-Queue-Ms, "" = not told
	Header      http.Header // others; hop-by-hop fields are ignored. Most answers need none, and no map is made for the fields above
	Body        []byte
}
