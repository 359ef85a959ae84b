package httpserver

import "time"

// Surface says what kind of body a Request has. Ollama's endpoints arrive as SurfaceChat or SurfaceCompletions, since
// their bodies are translated; only their View differs.
type Surface string

// The surfaces of a Request. The last two are not made by this server: they are for programs that hand Ollama's own,
// untranslated bodies to the same Submitter.
const (
	SurfaceChat           Surface = "chat"        // POST /v1/chat/completions
	SurfaceCompletions    Surface = "completions" // POST /v1/completions
	SurfaceEmbeddings     Surface = "embeddings"  // POST /v1/embeddings
	SurfaceTask           Surface = "task"        // POST /v2/tasks
	SurfaceRaw            Surface = "raw"         // any other POST /v1/... that names a model
	SurfaceOllamaChat     Surface = "ollama_chat"
	SurfaceOllamaGenerate Surface = "ollama_generate"
)

// The two priorities of a Request.
const (
	PriorityInteractive = "interactive"
	PriorityBatch       = "batch"
)

// Scope is what a key may do; each one includes the one before.
type Scope string

// The scopes. ScopeHive belongs to a hive's token and includes none of the others.
const (
	ScopeNone    Scope = ""
	ScopeInfer   Scope = "infer"
	ScopeOperate Scope = "operate"
	ScopeAdmin   Scope = "admin"
	ScopeHive    Scope = "hive"
)

// Identity is who sent a request.
type Identity struct {
	Tenant string   // never empty behind an Authenticator that admits somebody
	KeyID  string   // "" when no key was needed
	Scope  Scope    // what it may do
	Models []string // names of models it may use; empty: all
	Node   string   // for ScopeHive: the hive that the token belongs to; "" = any
}

// Operator reports whether the identity sees every tenant's jobs.
func (id Identity) Operator() bool { return id.Scope == ScopeOperate || id.Scope == ScopeAdmin }

// MayUse reports whether the identity may use the model of that name.
func (id Identity) MayUse(model string) bool {
	if len(id.Models) == 0 {
		return true
	}
	for _, m := range id.Models {
		if m == model {
			return true
		}
	}
	return false
}

// Request is one job as a client asked for it, parsed once and checked against the bounds and the known fields.
type Request struct {
	Surface     Surface
	Path        string // the worker's path: /v1/chat/completions, ...; /v2/tasks for SurfaceTask
	Model       string // the name that the client used
	Body        []byte // as sent (from Ollama's endpoints: translated); valid JSON without duplicate keys, or multipart
	ContentType string // "application/json", or the multipart type with its boundary

	Prompt      []byte // the JSON value of messages, prompt or input; points into Body
	PromptChars int    // characters of text in it
	MaxTokens   int    // 0: not given
	N           int    // choices asked for, at least 1

	Stream       bool // the client reads a stream
	IncludeUsage bool // stream_options.include_usage
	Detach       bool // runs to its end whoever listens

	Priority string // PriorityInteractive or PriorityBatch
	Session  string // affinity key, may be empty
	Node     string // the hive that the client asked for, may be empty
	Deadline time.Time

	KeepAlive      string // Ollama's keep_alive as a Go duration, "" = not given, negative = for ever
	IdempotencyKey string
	BodyHash       string // SHA-256 over path and body in hexadecimal; only with an IdempotencyKey

	RequestID, CorrelationID, Traceparent string
	Identity                              Identity
}
