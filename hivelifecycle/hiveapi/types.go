package hiveapi

import (
	"log/slog"
	"time"
)

// Health is the answer of GET /v1/health. Proof is set when the request carried a nonce, see Proof.
type Health struct {
	Status  string `json:"status"` // "ok" or "draining"
	ID      string `json:"id"`
	Node    string `json:"node"`
	Version string `json:"version"`
	Epoch   uint64 `json:"epoch"`
	PID     int    `json:"pid"`
	Proof   string `json:"proof,omitempty"`
}

// State is everything that a hive knows about its machine. Epoch rises with every start of the hive, Seq with every
// change within an epoch, so that a reader can tell old news from new whatever order they arrive in.
type State struct {
	Node    string    `json:"node"`
	ID      string    `json:"id"`
	Epoch   uint64    `json:"epoch"`
	Seq     uint64    `json:"seq"`
	Version string    `json:"version"`
	OS      string    `json:"os"`
	Arch    string    `json:"arch"`
	Started time.Time `json:"started_at"`
	Devices []Device  `json:"devices"`
	Workers []Worker  `json:"workers"`
	Models  []Model   `json:"models"`
	Disk    Disk      `json:"disk"`
}

// Disk is the file system that holds the hive's models, in bytes.
type Disk struct {
	Path  string `json:"path"`
	Total int64  `json:"total"`
	Free  int64  `json:"free"`
}

// Device is something that can run a model. Memory is in bytes; Unified says that it is the machine's own memory, so
// that it is counted once. Utilization is 0 to 1, or -1 when it is unknown.
type Device struct {
	ID          string  `json:"id"` // "cpu", "cuda:0", "rocm:1", "metal:0"
	Name        string  `json:"name"`
	Backend     string  `json:"backend"` // cpu, cuda, rocm, metal, vulkan
	Index       int     `json:"index"`
	UUID        string  `json:"uuid,omitempty"`
	MemoryTotal int64   `json:"memory_total"`
	MemoryFree  int64   `json:"memory_free"`
	Unified     bool    `json:"unified,omitempty"`
	Utilization float64 `json:"utilization"`
	Temperature float64 `json:"temperature,omitempty"` // degrees Celsius, 0 when unknown
	Cores       int     `json:"cores,omitempty"`
}

// WorkerState is where a worker stands in its life.
type WorkerState string

// The states of a worker, as the contract names them.
const (
	WorkerLoading  WorkerState = "loading"
	WorkerIdle     WorkerState = "idle"
	WorkerBusy     WorkerState = "busy"
	WorkerDraining WorkerState = "draining"
	WorkerFailed   WorkerState = "failed"
)

// Worker is one engine process that serves one model. Address is host:port as the hive's own machine sees it.
type Worker struct {
	WorkerID     string       `json:"worker_id"`
	Node         string       `json:"node"`
	Model        string       `json:"model"`
	ModelRef     string       `json:"model_ref"`
	Engine       string       `json:"engine"`
	SpecHash     string       `json:"spec_hash,omitempty"`
	Protocol     string       `json:"protocol"`
	State        WorkerState  `json:"state"`
	Address      string       `json:"address"`
	URL          string       `json:"url"`
	PID          int          `json:"pid"`
	Device       string       `json:"device"`
	Devices      []string     `json:"devices,omitempty"`
	MemoryBytes  int64        `json:"memory_bytes"`
	SlotsTotal   int          `json:"slots_total"`
	SlotsFree    int          `json:"slots_free"`
	Context      int          `json:"context,omitempty"`
	Progress     float64      `json:"progress,omitempty"` // of loading, 0 to 1, 0 when unknown
	Restarts     int          `json:"restarts,omitempty"`
	Restarting   bool         `json:"restarting,omitempty"` // failed, and about to be started again
	StartedAt    time.Time    `json:"started_at"`
	ReadyAt      time.Time    `json:"ready_at,omitzero"`
	LastUsedAt   time.Time    `json:"last_used_at,omitzero"`
	Message      string       `json:"message,omitempty"` // why it failed, as a sentence
	ErrorCode    string       `json:"error_code,omitempty"`
	Capabilities Capabilities `json:"capabilities"`
	// ModelName is what a request to the worker has to say as its model; most engines ignore it.
	ModelName string `json:"model_name,omitempty"`
	// APIKey is the bearer key that the engine checks; a secret that only the hive's queen is told.
	APIKey string `json:"api_key,omitempty"`
}

// LogValue keeps the API key out of logs.
func (w Worker) LogValue() slog.Value {
	return slog.GroupValue(slog.String("worker_id", w.WorkerID), slog.String("model_ref", w.ModelRef),
		slog.String("engine", w.Engine), slog.String("state", string(w.State)), slog.String("address", w.Address), slog.Int("pid", w.PID))
}

// ModelState is where a model stands on one hive.
type ModelState string

// The states of a model, as the contract names them.
const (
	ModelAbsent      ModelState = "absent"
	ModelDownloading ModelState = "downloading"
	ModelReady       ModelState = "ready"
	ModelLoading     ModelState = "loading"
	ModelLoaded      ModelState = "loaded"
	ModelFailed      ModelState = "failed"
)

// Model is a model file (or set of files) on one hive.
type Model struct {
	Model          string     `json:"model"`
	ModelRef       string     `json:"model_ref"`
	Node           string     `json:"node"`
	State          ModelState `json:"state"`
	Path           string     `json:"path,omitempty"`
	SizeBytes      int64      `json:"size_bytes"`
	SHA256         string     `json:"sha256,omitempty"`
	Progress       float64    `json:"progress"`
	ContextLength  int64      `json:"context_length,omitempty"`
	Parameters     int64      `json:"parameters,omitempty"`
	Layers         int        `json:"layers,omitempty"` // blocks, without the output layer
	MemoryEstimate int64      `json:"memory_estimate,omitempty"`
	Memory         Memory     `json:"memory,omitzero"`
	Architecture   string     `json:"architecture,omitempty"`
	Quantization   string     `json:"quantization,omitempty"`
	Commit         string     `json:"commit,omitempty"` // the revision that it was taken at
	Choice         string     `json:"choice,omitempty"` // why these files of a repository
	Pinned         bool       `json:"pinned,omitempty"`
	LastUsedAt     time.Time  `json:"last_used_at,omitzero"`
	Message        string     `json:"message,omitempty"`
}

// Memory is what a model takes when it is loaded, in bytes: Weights + Fixed + PerToken for each token of context +
// PerSlot for each slot. The zero value means unknown.
type Memory struct {
	Weights  int64 `json:"weights,omitempty"`
	Fixed    int64 `json:"fixed,omitempty"`
	PerToken int64 `json:"per_token,omitempty"`
	PerSlot  int64 `json:"per_slot,omitempty"`
}

// ProvisionRequest asks a hive to have a model. Sources are other machines that have it, tried before the reference's
// own place; SHA256, when given, is checked before the file is used. Size is what progress shows until the source
// says it.
type ProvisionRequest struct {
	ModelRef string   `json:"model_ref"`
	SHA256   string   `json:"sha256,omitempty"`
	Size     int64    `json:"size,omitempty"`
	Sources  []Source `json:"sources,omitempty"`
	// HubToken is for the hub that the reference names; a secret, used for this request only.
	HubToken string `json:"hub_token,omitempty"`
	// DeviceMemory is how many bytes the model may take, for the choice among several files of a repository.
	DeviceMemory int64 `json:"device_memory,omitempty"`
}

// LogValue keeps the token out of logs.
func (r ProvisionRequest) LogValue() slog.Value { return slog.StringValue(r.ModelRef) }

// Source is one place to fetch a file from. Authorization is the whole header value and is sent to that host only.
type Source struct {
	URL           string `json:"url"`
	Authorization string `json:"authorization,omitempty"`
}

// LogValue keeps the credentials out of logs.
func (s Source) LogValue() slog.Value { return slog.StringValue(s.URL) }

// Progress is one event of a download: the last one has the state ready or failed.
type Progress struct {
	ID         string     `json:"id"`
	ModelRef   string     `json:"model_ref"`
	State      ModelState `json:"state"`
	Phase      string     `json:"phase,omitempty"` // resolving, downloading or verifying, while the state is downloading
	File       string     `json:"file,omitempty"`
	BytesDone  int64      `json:"bytes_done"`
	BytesTotal int64      `json:"bytes_total"`
	Rate       float64    `json:"bytes_per_second,omitempty"`
	ETASeconds float64    `json:"eta_seconds,omitempty"`
	Message    string     `json:"message,omitempty"`
	Code       string     `json:"code,omitempty"` // the contract's code when it failed
	Model      *Model     `json:"model,omitempty"`
}

// ShutdownWorkerRequest stops a worker. Drain asks for its running requests to be finished first, for at most Grace.
type ShutdownWorkerRequest struct {
	WorkerID string `json:"worker_id"`
	Drain    bool   `json:"drain,omitempty"`
	GraceMS  int64  `json:"grace_ms,omitempty"` // until KILL; 0 = the hive's default of 10 s
}

// ShutdownRequest ends the hive. KeepWorkers leaves its workers running for the next hive to take over.
type ShutdownRequest struct {
	KeepWorkers bool `json:"keep_workers,omitempty"`
}

// ReadyRequest is a worker's own word that it serves, sent with the spawn token that it got in RBEE_SPAWN_TOKEN.
type ReadyRequest struct {
	WorkerID   string `json:"worker_id"`
	SpawnToken string `json:"spawn_token"`
	Address    string `json:"address,omitempty"`
	SlotsTotal int    `json:"slots_total,omitempty"`
}

// EnginePackage is one build of an engine that a hive can install. SHA256 is the archive's, pinned by the operator; when
// it is empty, DigestURL is asked for it at install time: a release of the GitHub API, whose assets carry a digest.
type EnginePackage struct {
	Engine    string   `json:"engine"` // llama.cpp, ...
	Version   string   `json:"version"`
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
	Backend   string   `json:"backend"` // cpu, cuda, vulkan, metal, rocm
	URL       string   `json:"url"`     // https:, or file: with an absolute path; .tar.gz, .tgz, .zip, or the program itself
	SHA256    string   `json:"sha256,omitempty"`
	DigestURL string   `json:"digest_url,omitempty"`
	Program   string   `json:"program"`         // name of the executable in the archive
	Smoke     []string `json:"smoke,omitempty"` // arguments of the trial run; default --version
}

// UseEngineRequest switches to another installed version of an engine, or names the one to remove.
type UseEngineRequest struct {
	Engine  string `json:"engine"`
	Version string `json:"version"`
	Backend string `json:"backend,omitempty"` // "" = the only one that is installed
}

// Engine is an engine that a hive can run: built in, installed or found on the machine.
type Engine struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Backend string `json:"backend,omitempty"`
	Path    string `json:"path,omitempty"`
	Source  string `json:"source"` // builtin, path, installed
	Active  bool   `json:"active"`
	Message string `json:"message,omitempty"`
}
