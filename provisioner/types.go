package provisioner

import (
	"context"
	"maps"
	"slices"
	"time"
)

// The sources of an Entry.
const (
	SourceConfig  = "config"  // from the configuration file
	SourceRuntime = "runtime" // added at run time, kept in the Store
	SourceRef     = "ref"     // a bare reference that nobody configured; only operators may use one
)

// Entry is a model that clients may name, and how it runs.
type Entry struct {
	Name    string         `json:"name"`
	Ref     string         `json:"ref"`
	Engine  string         `json:"engine,omitempty"`
	Slots   int            `json:"slots,omitempty"`
	Context int            `json:"context,omitempty"`
	TTL     time.Duration  `json:"ttl,omitempty"`
	Pin     bool           `json:"pin,omitempty"`
	Workers int            `json:"workers,omitempty"`
	Set     map[string]any `json:"set,omitempty"`
	Strip   []string       `json:"strip,omitempty"`
	Args    []string       `json:"args,omitempty"`
	Source  string         `json:"source,omitempty"`
}

func (e Entry) clone() Entry {
	e.Set, e.Strip, e.Args = maps.Clone(e.Set), slices.Clone(e.Strip), slices.Clone(e.Args)
	return e
}

// The states of a model on a machine.
const (
	StateAbsent      = "absent"
	StateDownloading = "downloading"
	StateReady       = "ready"
	StateFailed      = "failed"
)

// Model is a model on one machine's disk.
type Model struct {
	Ref           string  `json:"model_ref"`
	Node          string  `json:"node"`
	State         string  `json:"state"`
	SizeBytes     int64   `json:"size_bytes"`
	SHA256        string  `json:"sha256,omitempty"`
	Progress      float64 `json:"progress,omitempty"`
	Commit        string  `json:"commit,omitempty"` // the revision that it was taken at
	ContextLength int     `json:"context_length,omitempty"`
	Parameters    int64   `json:"parameters,omitempty"`
	Memory        Memory  `json:"memory,omitzero"`
}

// Memory is what a model takes when it is loaded: Weights + Fixed + PerToken for each token of context
// + PerSlot for each slot. The zero value means unknown.
type Memory struct {
	Weights  int64 `json:"weights,omitempty"`
	Fixed    int64 `json:"fixed,omitempty"`
	PerToken int64 `json:"per_token,omitempty"`
	PerSlot  int64 `json:"per_slot,omitempty"`
}

// Peer is a machine that has a model and may give it to another.
type Peer struct {
	Node   string `json:"node"`
	SHA256 string `json:"sha256,omitempty"`
}

// Spec is what a machine is asked to provide.
type Spec struct {
	Ref    string // canonical, pinned where that was possible
	SHA256 string // required content, "" when not known
	Token  string // for the source; never stored, never logged
	Peers  []Peer // where else the model is
}

// Progress is the state of a download.
type Progress struct {
	ID         string        `json:"download_id"`
	Node       string        `json:"node"`
	Ref        string        `json:"model_ref"`
	State      DownloadState `json:"state"`
	File       string        `json:"file,omitempty"`
	BytesDone  int64         `json:"bytes_done"`
	BytesTotal int64         `json:"bytes_total"`
	Rate       float64       `json:"bytes_per_second,omitempty"`
	ETASeconds float64       `json:"eta_seconds,omitempty"`
	Message    string        `json:"message,omitempty"`
	Code       string        `json:"code,omitempty"` // of a failure
	At         time.Time     `json:"at"`
}

// DownloadState is what a download is doing.
type DownloadState string

// The states of a download; the last three are final.
const (
	Resolving   DownloadState = "resolving"
	Downloading DownloadState = "downloading"
	Verifying   DownloadState = "verifying"
	Ready       DownloadState = "ready"
	Failed      DownloadState = "failed"
	Cancelled   DownloadState = "cancelled"
)

// Final says that nothing follows.
func (s DownloadState) Final() bool { return s == Ready || s == Failed || s == Cancelled }

// Hives are the machines that hold models.
type Hives interface {
	// Nodes names the machines that can be asked now.
	Nodes() []string
	// Models lists what a machine has.
	Models(ctx context.Context, node string) ([]Model, error)
	// Provision makes the machine get the model and returns when it is there; progress may be called
	// often. A model that is there already is no work. When ctx ends the machine may stop.
	Provision(ctx context.Context, node string, spec Spec, progress func(Progress)) (Model, error)
	// Evict drops the model's files; it refuses while they are in use.
	Evict(ctx context.Context, node, ref string) error
}

// Record is an unfinished download, kept so that it goes on after a restart.
type Record struct {
	ID, Node, Ref string
	Created       time.Time
}

// Store keeps what was added at run time. Implementations must be safe for concurrent use; a save is
// durable when it returns, a delete is idempotent, lists are sorted by name or id.
type Store interface {
	Entries(ctx context.Context) ([]Entry, error)
	SaveEntry(ctx context.Context, e Entry) error
	DeleteEntry(ctx context.Context, name string) error
	Downloads(ctx context.Context) ([]Record, error)
	SaveDownload(ctx context.Context, r Record) error
	DeleteDownload(ctx context.Context, id string) error
}
