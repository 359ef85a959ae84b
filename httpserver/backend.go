package httpserver

import (
	"context"
	"encoding/json"
	"io"
	"time"
)

// The interfaces of this file are what the server can show and change beside running jobs. Each is optional: an
// endpoint whose interface was not given answers 501 NOT_AVAILABLE. Errors are coded (see Coder).

// Jobs reads and cancels stored jobs. who limits what is seen: an Operator sees every job, others their tenant's; a
// job of another tenant is JOB_NOT_FOUND.
type Jobs interface {
	List(ctx context.Context, who Identity, q JobQuery) (jobs []JobRecord, next string, err error)
	Get(ctx context.Context, who Identity, id string) (JobRecord, error)
	// Explain returns the scheduler's decision for the job.
	Explain(ctx context.Context, who Identity, id string) (*Decision, error)
	// Cancel is idempotent; it returns the record as it is then.
	Cancel(ctx context.Context, who Identity, id string) (JobRecord, error)
	// Attach adds a reader to a live or finished job.
	Attach(ctx context.Context, who Identity, id string) (Job, error)
}

// JobQuery selects jobs.
type JobQuery struct {
	State, Model, Priority, Tenant, Cursor string
	Limit                                  int // 1 to 1000
}

// Catalog knows the models.
type Catalog interface {
	// Names are the models that clients can ask for: every alias and every model that a hive has or may provision.
	Names(ctx context.Context) ([]ModelName, error)
	// OnHives lists the models of one hive, or of all with node "".
	OnHives(ctx context.Context, node string) ([]Model, error)
	// Union lists every model once.
	Union(ctx context.Context) ([]Model, error)
}

// Models changes what models there are.
type Models interface {
	// Put adds or changes a model entry; entry is one JSON object as in the configuration, its fields unchecked.
	Put(ctx context.Context, name string, entry json.RawMessage) (Model, error)
	Delete(ctx context.Context, name string) error
	// Download begins to provision a model and returns the operation's id at once.
	Download(ctx context.Context, node, ref string) (id string, err error)
	// CancelDownload stops a download for all who wait; what was fetched stays for the next time.
	CancelDownload(ctx context.Context, id string) error
	// Evict drops a model's files from a hive.
	Evict(ctx context.Context, node, ref string) error
}

// Workers lists and changes workers.
type Workers interface {
	List(ctx context.Context, node string) ([]Worker, error)
	Health(ctx context.Context, node string) ([]WorkerHealth, error)
	Spawn(ctx context.Context, r SpawnRequest) (Spawned, error)
	Shutdown(ctx context.Context, workerID string, drain bool) error
	// Register takes a worker that nobody here started; node is the hive of the token, "" for an operator's key.
	Register(ctx context.Context, node string, w Worker) error
}

// Hives lists and changes hives.
type Hives interface {
	List(ctx context.Context) ([]Hive, error)
	// Add tests the connection first.
	Add(ctx context.Context, h NewHive) (Hive, error)
	Remove(ctx context.Context, node string) error
	// Start, Stop, Drain and Upgrade begin the operation and return its id for Operations.
	Start(ctx context.Context, node string) (operation string, err error)
	Stop(ctx context.Context, node string) (operation string, err error)
	// Drain sends nothing new there and ends when what runs has; Start ends the draining.
	Drain(ctx context.Context, node string) (operation string, err error)
	// Upgrade replaces the hive's program in place; its workers go on.
	Upgrade(ctx context.Context, node string) (operation string, err error)
	// Heartbeat takes a report of a hive that nobody here started, as one JSON object.
	Heartbeat(ctx context.Context, node string, report json.RawMessage) error
}

// Feed is a source of events that a client follows: the fleet's changes, or the progress of one operation.
type Feed interface {
	// Events sends events with an id above after until the context ends or, for an operation, until its last
	// event; then the channel is closed. topic "" is the fleet, else an operation's id.
	Events(ctx context.Context, topic string, after uint64) (<-chan Event, error)
}

// Event is one event of a Feed.
type Event struct {
	ID   uint64 // 0: ephemeral
	Type string
	Data json.RawMessage // one line
}

// Logs reads the logs of hives and workers.
type Logs interface {
	// Logs returns text lines; with Follow it goes on until the context ends.
	Logs(ctx context.Context, q LogQuery) (io.ReadCloser, error)
}

// LogQuery selects log lines.
type LogQuery struct {
	Node, WorkerID string
	Follow         bool
	Tail           int // last lines to begin with; 0 = the backend's choice
}

// Policies shows and changes the scheduling policy.
type Policies interface {
	Policy(ctx context.Context) (Policy, error)
	SetPolicy(ctx context.Context, p Policy) (Policy, error)
	// DryRun decides sample jobs without doing anything. The jobs are JSON objects with the fields of a task.
	DryRun(ctx context.Context, policy *Policy, jobs []json.RawMessage) ([]Decision, error)
	// Replay decides recorded decisions again with another policy; request and answer are JSON objects.
	Replay(ctx context.Context, request json.RawMessage) (json.RawMessage, error)
}

// Tenants shows and changes limits.
type Tenants interface {
	List(ctx context.Context) ([]Tenant, error)
	Put(ctx context.Context, t Tenant) (Tenant, error)
}

// Keys makes and revokes API keys.
type Keys interface {
	Create(ctx context.Context, k NewKey) (Key, error)
	List(ctx context.Context) ([]Key, error)
	Revoke(ctx context.Context, id string) error
}

// Doctor examines the installation.
type Doctor interface {
	Checks(ctx context.Context) ([]Check, error)
}

// Admin ends the program.
type Admin interface {
	// Shutdown begins to drain and returns; with cascade the hives that were started here are stopped too.
	Shutdown(ctx context.Context, cascade bool) error
}

// Targets lists scrape targets for Prometheus' http_sd.
type Targets interface {
	Targets(ctx context.Context) ([]Target, error)
}

// Loader loads and unloads a model at a client's wish; Ollama's clients do so with an empty prompt. IdentityOf tells who
// asks. keepAlive is as in Request.
type Loader interface {
	Load(ctx context.Context, model, keepAlive string) error
	Unload(ctx context.Context, model string) error
}

// Target is one group of scrape targets.
type Target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Spawned answers a spawn request.
type Spawned struct {
	WorkerID string `json:"worker_id"`
	Node     string `json:"node"`
	State    string `json:"state"`
}

// SpawnRequest asks for a worker.
type SpawnRequest struct {
	Node     string `json:"node"`
	ModelRef string `json:"model_ref"`
	Device   string `json:"device"`
}

// NewHive asks for a hive.
type NewHive struct {
	NodeName   string            `json:"node_name"`
	Mode       string            `json:"mode"`
	SSHHost    string            `json:"ssh_host"`
	SSHPort    int               `json:"ssh_port"`
	SSHUser    string            `json:"ssh_user"`
	SSHKeyPath string            `json:"ssh_key_path"`
	HostKey    string            `json:"host_key"`
	Backends   []string          `json:"backends"`
	Devices    []string          `json:"devices"`
	Labels     map[string]string `json:"labels"`
}

// NewKey asks for a key.
type NewKey struct {
	TenantID  string    `json:"tenant_id"`
	Scope     Scope     `json:"scope"`
	Models    []string  `json:"models"`
	ExpiresAt time.Time `json:"expires_at"`
	Label     string    `json:"label"`
}
