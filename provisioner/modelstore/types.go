package modelstore

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner"
)

// Options tune a Store. The zero value is usable.
type Options struct {
	Logger *slog.Logger
	Now    func() time.Time // nil means time.Now

	Budget   int64 // bytes that the store may hold; 0 means as much as the disk has
	Headroom int64 // bytes of the disk that stay free; 0 means 1 GiB, negative none

	// HFEndpoint is the hub; "" means the public one. Because the operator names it, it may be plain
	// http and at a loopback or private address.
	HFEndpoint string
	// AllowURLs are what https: references may begin with ("https://models.lan/gguf/"), or whole hosts.
	// Empty means that no https: reference is allowed.
	AllowURLs []string
	// Allow names further hosts that may be at loopback or private addresses or speak plain http,
	// such as the content server that a mirror redirects to.
	Allow []string
	TLS   *tls.Config // for private certificate authorities

	Connections int           // per file; 0 means 4
	Chunk       int64         // bytes of a range request; 0 means 8 MiB
	Stall       time.Duration // without a byte after which a connection is given up; 0 means 60 s
	PartialTTL  time.Duration // after which an unfinished file is removed at Open; 0 means 7 days

	// Inspect reads a model's metadata; nil means none is known.
	Inspect func(path string) (Info, error)
	// Evictor chooses what to drop to free need bytes, of items that are neither busy nor pinned. Nil
	// means least recently used first.
	Evictor func(ctx context.Context, items []Item, need int64) (refs []string, err error)
	// Retry, when given, wraps each request: the package itself makes one attempt. fn goes on where
	// the last attempt stopped; errors say RetryAfter() and Temporary().
	Retry func(ctx context.Context, op string, fn func(context.Context) error) error
	// Free says how many bytes the disk of dir has; nil asks the system.
	Free func(dir string) (int64, error)
}

// Info is what a model's files say about it.
type Info struct {
	Architecture  string             `json:"architecture,omitempty"`
	Quantization  string             `json:"quantization,omitempty"`
	ContextLength int                `json:"context_length,omitempty"`
	Parameters    int64              `json:"parameters,omitempty"`
	Layers        int                `json:"layers,omitempty"` // blocks, without the output layer
	Memory        provisioner.Memory `json:"memory,omitzero"`
}

// File is one file of a model.
type File struct {
	Path   string `json:"path"` // inside the model
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Model is a model that is ready.
type Model struct {
	Ref       string    `json:"model_ref"`
	Path      string    `json:"path"` // what an engine is given: a file or a directory; "" for sim: and ollama:
	SizeBytes int64     `json:"size_bytes"`
	SHA256    string    `json:"sha256,omitempty"` // of the file; of the list of files where there are several
	Commit    string    `json:"commit,omitempty"`
	Choice    string    `json:"choice,omitempty"` // why these files of a repository
	Files     []File    `json:"files,omitempty"`
	Info      Info      `json:"info,omitzero"`
	Added     time.Time `json:"added"`
	LastUsed  time.Time `json:"last_used"`
	Uses      int       `json:"uses,omitempty"`
	Pinned    bool      `json:"pinned,omitempty"`
	Busy      bool      `json:"-"`
	Owned     bool      `json:"-"` // the store's own files; false for file:, sim: and ollama:
}

// Item is a model that could be dropped, for an Evictor.
type Item struct {
	Ref      string
	Size     int64 // bytes that dropping it frees
	Added    time.Time
	LastUsed time.Time
	Uses     int
}

// Peer is another machine that has the model.
type Peer struct {
	URL           string // of its file server; /v1/files/SHA256 is added unless the URL has it
	Authorization string // the whole header value; sent to that machine only, never kept
	// Dial, when given, is the way there (a tunnel). Else private addresses may be dialled, metadata
	// addresses not; a peer is never followed through a redirect.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Files and Commit, when given, stand in for the hub when that can't be reached.
	Files  []File
	Commit string
}

// Request asks for a model.
type Request struct {
	Ref          string
	SHA256       string // required content, "" when not known; of the file, or Model.SHA256
	Token        string // for the hub; used for this request, never kept and never logged
	Peers        []Peer
	DeviceMemory int64 // bytes that the model may take, for the choice of a quantisation; 0: not known
}

// State is what a Job is doing.
type State string

// The states of a job; the last three are final.
const (
	Resolving   State = "resolving"
	Downloading State = "downloading"
	Verifying   State = "verifying"
	Ready       State = "ready"
	Failed      State = "failed"
	Cancelled   State = "cancelled"
)

// Final says that nothing follows.
func (s State) Final() bool { return s == Ready || s == Failed || s == Cancelled }

// Progress is the state of a job.
type Progress struct {
	ID         string
	Ref        string
	State      State
	File       string
	BytesDone  int64
	BytesTotal int64
	Rate       float64 // bytes a second, lately
	ETA        time.Duration
	Message    string
	Err        error
	At         time.Time
}
