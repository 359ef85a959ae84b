package httpserver

import (
	"encoding/json"
	"time"
)

// Time is a time that is written as RFC 3339 with milliseconds in UTC, and as null when it is zero.
type Time struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	b := make([]byte, 0, 28)
	b = append(b, '"')
	b = t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	return append(b, '"'), nil
}

// UnmarshalJSON implements json.Unmarshaler; it takes any RFC 3339 time and null.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		t.Time = time.Time{}
		return nil
	}
	return t.Time.UnmarshalJSON(b)
}

// JobRecord is a job as lists and lookups show it.
type JobRecord struct {
	JobID        string    `json:"job_id"`
	TenantID     string    `json:"tenant_id"`
	Model        string    `json:"model"`
	ModelRef     string    `json:"model_ref"`
	Priority     string    `json:"priority"`
	State        string    `json:"state"` // queued, running, complete, failed, cancelled
	WorkerID     string    `json:"worker_id"`
	Node         string    `json:"node"`
	Attempt      int       `json:"attempt"`
	SubmittedAt  Time      `json:"submitted_at"`
	StartedAt    Time      `json:"started_at"`
	FirstTokenAt Time      `json:"first_token_at"`
	CompletedAt  Time      `json:"completed_at"`
	Deadline     Time      `json:"deadline"`
	PromptTokens int       `json:"prompt_tokens"`
	CachedTokens int       `json:"cached_tokens,omitempty"`
	TokensOut    int       `json:"tokens_out"`
	Error        *JobError `json:"error"`
	Decision     *Decision `json:"decision,omitempty"` // with ?explain=true
}

// JobError is why a job ended without success.
type JobError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"status,omitempty"` // 499 for CANCELLED; filled by the server
}

// Worker is a worker record.
type Worker struct {
	WorkerID      string   `json:"worker_id"`
	Node          string   `json:"node"`
	Model         string   `json:"model"`
	ModelRef      string   `json:"model_ref"`
	Engine        string   `json:"engine"`
	Protocol      string   `json:"protocol"`
	State         string   `json:"state"` // loading, idle, busy, draining, failed
	URL           string   `json:"url"`
	PID           int      `json:"pid"`
	Device        string   `json:"device"`
	MemoryBytes   int64    `json:"memory_bytes"`
	SlotsTotal    int      `json:"slots_total"`
	SlotsFree     int      `json:"slots_free"`
	PendingTokens int64    `json:"pending_tokens"`
	StartedAt     Time     `json:"started_at"`
	LastUsedAt    Time     `json:"last_used_at"`
	Message       string   `json:"message,omitempty"`
	Capabilities  []string `json:"capabilities,omitempty"`

	ExpiresAt time.Time `json:"-"` // when it stops if nobody uses it, zero = never; shown by Ollama's /api/ps
}

// WorkerHealth is what a health check of a worker says.
type WorkerHealth struct {
	WorkerID string `json:"worker_id"`
	Node     string `json:"node"`
	State    string `json:"state"`
	Healthy  bool   `json:"healthy"`
	Ejected  bool   `json:"ejected"`
	Until    Time   `json:"ejected_until"`
	Message  string `json:"message,omitempty"`
}

// Hive is a hive record.
type Hive struct {
	NodeName string            `json:"node_name"`
	Mode     string            `json:"mode"`   // local, network
	Status   string            `json:"status"` // starting, online, suspect, offline, error, draining
	Address  string            `json:"address"`
	Version  string            `json:"version"`
	LastSeen Time              `json:"last_seen"`
	Labels   map[string]string `json:"labels"`
	Devices  []Device          `json:"devices"`
	Workers  []string          `json:"workers"`
	Models   []string          `json:"models"`
	Message  string            `json:"message"`
}

// Device is a device of a hive.
type Device struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Backend     string `json:"backend"`
	MemoryTotal int64  `json:"memory_total"`
	MemoryFree  int64  `json:"memory_free"`
}

// Model is a model record.
type Model struct {
	Model          string  `json:"model"`
	ModelRef       string  `json:"model_ref"`
	Node           string  `json:"node"`
	State          string  `json:"state"` // absent, downloading, ready, loading, loaded, failed
	SizeBytes      int64   `json:"size_bytes"`
	SHA256         string  `json:"sha256"`
	Progress       float64 `json:"progress"`
	ContextLength  int     `json:"context_length"`
	Parameters     int64   `json:"parameters"`
	MemoryEstimate int64   `json:"memory_estimate"`
	Engine         string  `json:"engine,omitempty"`
	Message        string  `json:"message,omitempty"`
}

// ModelName is a model as clients of /v1/models and /api/tags see it.
type ModelName struct {
	Name          string
	Ref           string // canonical reference
	OwnedBy       string // "rbee", "simulator", an external's name
	Created       time.Time
	SizeBytes     int64
	SHA256        string
	ContextLength int
	Parameters    int64
	Family        string // architecture, may be empty
	Quantization  string // may be empty
	Loaded        bool
	Embedding     bool
}

// Policy is a scheduling policy.
type Policy struct {
	Name      string   `json:"name"`
	Language  string   `json:"language,omitempty"` // native, starlark, yaml
	Mode      string   `json:"mode,omitempty"`     // home, platform
	Source    string   `json:"source,omitempty"`
	Hash      string   `json:"hash,omitempty"`
	Version   int      `json:"version,omitempty"`
	Failures  int64    `json:"failures,omitempty"` // runs that fell back to the native policy
	Available []string `json:"available,omitempty"`
}

// Decision is what the scheduler decided for a job, and why.
type Decision struct {
	Action          string      `json:"action"` // route, provision, queue, reject
	WorkerID        string      `json:"worker_id"`
	Node            string      `json:"node"`
	Evict           []string    `json:"evict"`
	Code            string      `json:"code"`
	Reason          string      `json:"reason,omitempty"`
	Policy          string      `json:"policy"`
	PolicyHash      string      `json:"policy_hash"`
	SnapshotVersion uint64      `json:"snapshot_version"`
	Candidates      []Candidate `json:"candidates"`
}

// Candidate is one worker or hive that a decision looked at.
type Candidate struct {
	WorkerID string             `json:"worker_id"`
	Node     string             `json:"node"`
	Kept     bool               `json:"kept"`
	Reason   string             `json:"reason"`
	Cost     map[string]float64 `json:"cost"`
	Rank     int                `json:"rank"`
}

// Tenant is a tenant's limits and usage; 0 means no limit.
type Tenant struct {
	ID           string          `json:"tenant_id"`
	RPM          int             `json:"rpm"`
	TPM          int             `json:"tpm"`
	Concurrent   int             `json:"concurrent"`
	TokensPerDay int64           `json:"tokens_per_day"`
	Models       []string        `json:"models"`
	Usage        json.RawMessage `json:"usage,omitempty"`
}

// Key is an API key; Secret only in the answer that made it.
type Key struct {
	ID        string   `json:"id"`
	Secret    string   `json:"key,omitempty"`
	TenantID  string   `json:"tenant_id"`
	Scope     Scope    `json:"scope"`
	Models    []string `json:"models,omitempty"`
	Label     string   `json:"label,omitempty"`
	CreatedAt Time     `json:"created_at"`
	ExpiresAt Time     `json:"expires_at"`
	RevokedAt Time     `json:"revoked_at"`
}

// Check is one finding of the doctor.
type Check struct {
	Name    string `json:"name"`
	Status  string `json:"status"` // ok, warn, fail
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}
