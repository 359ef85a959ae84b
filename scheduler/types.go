package scheduler

import "time"

// Priorities of a job. Anything else counts as interactive.
const (
	Interactive = "interactive"
	Batch       = "batch"
)

// Job is what the scheduler needs to know of one request. It is never changed by the scheduler, and
// must not be changed by the caller between Place or Pick and Release.
type Job struct {
	ID, Tenant, Model, Priority string
	Session                     string            // affinity key; "" = none
	Node                        string            // only this hive; "" = any
	Labels                      map[string]string // the hive must carry all of these
	PromptTokens, MaxTokens     int               // MaxTokens 0 = unknown
	Blocks                      []uint64          // chained prefix hashes of the prompt, first block first (see Blocks)
	Submitted, Deadline         time.Time         // zero Deadline = none
	Exclude                     []string          // workers that failed this job already
	Need                        Need              // zero = Snapshot.Needs[Model]
}

// Need says what loading a model takes, in numbers (from the provisioner).
type Need struct {
	Memory    int64         // bytes on a device for one worker
	LoadBytes int64         // bytes to read or fetch; used when LoadTime is zero, at Options.LoadRate
	LoadTime  time.Duration // expected time from the decision to a ready worker
	Slots     int           // slots that the worker will have; 0 = 1
	Devices   int           // spread evenly over this many devices of one hive; 0 = 1
	Workers   int           // keep this many loaded (contract: `workers: N`)
	TTL       time.Duration // stop a worker idle this long; 0 = never
	Pin       bool          // workers of this model are never evicted
	Backends  []string      // device backends that can run it; empty = any
}

// WorkerState is what a worker can do now.
type WorkerState uint8

// The states of a worker. Only a Ready one is given jobs.
const (
	WorkerReady WorkerState = iota
	WorkerLoading
	WorkerDraining
	WorkerFailed
	WorkerSuspect // its hive or itself has been silent too long
)

// String names the state as explanations show it.
func (s WorkerState) String() string {
	return [...]string{"ready", "loading", "draining", "failed", "suspect"}[min(int(s), 4)]
}

// CacheKind says how a worker keeps prompt prefixes.
type CacheKind uint8

// The kinds of prefix cache.
const (
	CacheBlocks CacheKind = iota // a pool of blocks, least recently used dropped first (vLLM, SGLang, sim)
	CacheSlots                   // what each slot's last sequence still holds (llama.cpp)
	CacheNone                    // nothing is kept
)

// Worker is one engine process as the fleet's snapshot shows it.
type Worker struct {
	ID, Node, Model         string
	Device                  string // its device's id; several joined by commas when it is spread
	State                   WorkerState
	Slots                   int // requests at once; 0 = 1
	Free                    int // the hive's hint; used only for External workers, which others may use too
	Memory                  int64
	Started, LastUsed       time.Time
	Pinned                  bool
	Ejected                 bool // by the monitor: no new jobs
	External                bool // not owned: never evicted, takes no memory of ours
	Cache                   CacheKind
	CacheTokens             int     // prefix cache in tokens; 0 = unknown, learnt from observations
	CacheBlocks             int     // the same in blocks of Job.Blocks, where the caller knows it; wins
	PrefillRate, DecodeRate float64 // tokens/s if known (decode: of one slot); 0 = learn
	Speed                   float64 // relative to the others of its model, used until learnt; 0 = 1
}

// HiveState is what may be done on a hive.
type HiveState uint8

// The states of a hive. Models are loaded on an Online one only.
const (
	HiveOnline HiveState = iota
	HiveStarting
	HiveSuspect
	HiveOffline
	HiveDraining
)

// String names the state as explanations show it.
func (s HiveState) String() string {
	return [...]string{"online", "starting", "suspect", "offline", "draining"}[min(int(s), 4)]
}

// Device is memory that workers share.
type Device struct {
	ID, Backend string
	Total       int64 // what workers may use in all (after the node's budget); 0 = only Free counts
	Free        int64 // what is free now, as the hive reports it
}

// Hive is one machine.
type Hive struct {
	Name      string
	State     HiveState
	Labels    map[string]string
	Devices   []Device
	Models    []string // on disk: no download needed
	Bandwidth float64  // bytes/s for loading; 0 = Options.LoadRate
}

// Snapshot is the fleet at one moment. It is immutable: after a change, make a new one with a higher
// Version. Slots in use are not in it: the scheduler counts its own reservations.
type Snapshot struct {
	Version uint64
	Workers []Worker
	Hives   []Hive
	Needs   map[string]Need // every model that may be loaded
}

// Source gives the current snapshot; one atomic load in the running queen.
type Source interface{ Snapshot() *Snapshot }

// SourceFunc makes a Source of a func.
type SourceFunc func() *Snapshot

// Snapshot calls f.
func (f SourceFunc) Snapshot() *Snapshot { return f() }

// Action says what to do with a job.
type Action uint8

// The four outcomes of a decision.
const (
	Queue     Action = iota // nothing now: keep the job in the line, look again at the next change or after Wait
	Route                   // send it to Worker; a slot is reserved
	Provision               // load Model on Node/Device after stopping Evict; memory is reserved; then Place the job again
	Reject                  // Code and Reason say why
)

// String names the action as the contract does.
func (a Action) String() string {
	return [...]string{"queue", "route", "provision", "reject"}[min(int(a), 3)]
}

// Decision is the answer for one job.
type Decision struct {
	Action       Action
	Worker, Node string
	Device       string
	Model        string
	Evict        []string      // Provision: idle workers to stop first
	Code, Reason string        // Code: of the contract, for Reject
	Wait         time.Duration // Queue: look again after this at the latest, 0 = only at the next change
	Cached       int           // prompt tokens expected from the worker's prefix cache
	Estimate     time.Duration // expected time from now to the first token
	Snapshot     uint64        // version decided on
	Policy       string        // who decided
	PolicyHash   string
}

// Observation is what one attempt really took; it teaches speeds, output lengths and cache sizes.
type Observation struct {
	Job                    *Job
	Worker                 string
	Prompt, Cached, Output int           // tokens; Cached < 0 = the engine didn't say
	Queue, TTFT, Decode    time.Duration // in our line; dispatch to first token; first token to end
	OK                     bool
	Cold                   bool // the attempt had to wait for a load: not counted as speed
	LoadTime               time.Duration
}
