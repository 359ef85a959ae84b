package registry

import (
	"slices"
	"strings"
	"time"
)

// Status is the state of a hive.
type Status string

// The states of a hive, as the queen's API shows them.
const (
	StatusStarting Status = "starting"
	StatusOnline   Status = "online"
	StatusSuspect  Status = "suspect"
	StatusOffline  Status = "offline"
	StatusError    Status = "error"
	StatusDraining Status = "draining"
)

func (s Status) valid() bool {
	switch s {
	case StatusStarting, StatusOnline, StatusSuspect, StatusOffline, StatusError, StatusDraining:
		return true
	}
	return false
}

// WorkerState is the state of a worker.
type WorkerState string

// The states of a worker, as the queen's API shows them.
const (
	WorkerLoading  WorkerState = "loading"
	WorkerIdle     WorkerState = "idle"
	WorkerBusy     WorkerState = "busy"
	WorkerDraining WorkerState = "draining"
	WorkerFailed   WorkerState = "failed"
)

func (s WorkerState) valid() bool {
	switch s {
	case WorkerLoading, WorkerIdle, WorkerBusy, WorkerDraining, WorkerFailed:
		return true
	}
	return false
}

// The modes of a hive: a child of the queen on her own machine, or one across the network.
const (
	ModeLocal   = "local"
	ModeNetwork = "network"
)

// SSHTarget says how a hive's machine is reached. It names a key file, it never holds a key.
type SSHTarget struct {
	User     string `json:"user,omitempty"`
	Host     string `json:"host"`
	Port     int    `json:"port,omitempty"` // 0 means 22
	Identity string `json:"identity,omitempty"`
	HostKey  string `json:"host_key,omitempty"`
}

func (t *SSHTarget) same(o *SSHTarget) bool {
	if t == nil || o == nil {
		return t == o
	}
	port := func(p int) int {
		if p == 0 {
			return 22
		}
		return p
	}
	return strings.EqualFold(t.Host, o.Host) && port(t.Port) == port(o.Port) && t.User == o.User
}

// Device is one piece of memory that workers can run in.
type Device struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Backend string `json:"backend,omitempty"`
	// Unified says that the device has no memory of its own: it shares the machine's, which the
	// device with backend "cpu" reports. Hive.Memory counts such memory once.
	Unified     bool    `json:"unified,omitempty"`
	MemoryTotal int64   `json:"memory_total"`
	MemoryFree  int64   `json:"memory_free"`
	Utilization float64 `json:"utilization,omitempty"` // 0 to 1
	Temperature float64 `json:"temperature,omitempty"` // degrees Celsius
}

// Model is a model file (or set of files) on a hive's disk.
type Model struct {
	Ref           string  `json:"model_ref"`
	State         string  `json:"state,omitempty"`
	SizeBytes     int64   `json:"size_bytes,omitempty"`
	SHA256        string  `json:"sha256,omitempty"`
	Progress      float64 `json:"progress,omitempty"`
	ContextLength int     `json:"context_length,omitempty"`
	Parameters    int64   `json:"parameters,omitempty"`
	Memory        int64   `json:"memory_estimate,omitempty"`
	Message       string  `json:"message,omitempty"`
}

// Hive is the stored record of one machine. Name is its identity in the fleet.
//
// Mode, Address, SSH, Labels and Budget are configuration and come from Put; the rest is the
// hive's own word (Apply) or the queen's judgement (SetStatus).
type Hive struct {
	Name    string            `json:"node_name"`
	Mode    string            `json:"mode"`
	Address string            `json:"address,omitempty"`
	SSH     *SSHTarget        `json:"ssh,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Budget is the share of a device's memory that workers may use, 0 meaning DefaultBudget.
	Budget float64 `json:"budget,omitempty"`

	Devices   []Device  `json:"devices,omitempty"`
	Models    []Model   `json:"models,omitempty"`
	Status    Status    `json:"status"`
	Draining  bool      `json:"draining,omitempty"` // the operator's wish; outlives suspect and offline
	Message   string    `json:"message,omitempty"`
	Version   string    `json:"version,omitempty"`
	Epoch     uint64    `json:"epoch,omitempty"`
	Seq       uint64    `json:"seq,omitempty"`
	LastSeen  time.Time `json:"last_seen"`
	DiskTotal int64     `json:"disk_total,omitempty"`
	DiskFree  int64     `json:"disk_free,omitempty"`
}

// DefaultBudget is the share of a device that workers may use where a hive names none.
const DefaultBudget = 0.9

// Usable says how many bytes of d may still be given to workers: what is free, less the part of
// the total that the hive's budget keeps back.
func (h *Hive) Usable(d Device) int64 {
	budget := h.Budget
	if budget <= 0 || budget > 1 {
		budget = DefaultBudget
	}
	reserve := d.MemoryTotal - int64(float64(d.MemoryTotal)*budget)
	return max(0, d.MemoryFree-reserve)
}

// Memory sums the devices' total and free bytes. Memory that several devices share is counted once.
func (h *Hive) Memory() (total, free int64) {
	var shared Device
	for _, d := range h.Devices {
		if !d.Unified && !strings.EqualFold(d.Backend, "cpu") {
			total += d.MemoryTotal
			free += d.MemoryFree
			continue
		}
		if d.MemoryTotal > shared.MemoryTotal {
			shared.MemoryTotal = d.MemoryTotal
		}
		if shared.MemoryFree == 0 || d.MemoryFree < shared.MemoryFree {
			shared.MemoryFree = d.MemoryFree // the most cautious of the views of one memory
		}
	}
	return total + shared.MemoryTotal, free + shared.MemoryFree
}

// Clone returns a deep copy, for a caller that wants to change a record it got from a snapshot.
func (h *Hive) Clone() Hive {
	c := *h
	if h.SSH != nil {
		ssh := *h.SSH
		c.SSH = &ssh
	}
	if h.Labels != nil {
		c.Labels = make(map[string]string, len(h.Labels))
		for k, v := range h.Labels {
			c.Labels[k] = v
		}
	}
	c.Devices = slices.Clone(h.Devices)
	c.Models = slices.Clone(h.Models)
	return c
}

// Worker is one engine process that serves one model. Workers are kept in memory only.
type Worker struct {
	ID            string      `json:"worker_id"`
	Node          string      `json:"node"`
	Model         string      `json:"model"`
	ModelRef      string      `json:"model_ref"`
	Engine        string      `json:"engine"`
	Protocol      string      `json:"protocol"`
	Address       string      `json:"url"` // relative to its hive, unless External
	Device        string      `json:"device"`
	State         WorkerState `json:"state"`
	SlotsTotal    int         `json:"slots_total"`
	SlotsFree     int         `json:"slots_free"`
	MemoryBytes   int64       `json:"memory_bytes"`
	PendingTokens int64       `json:"pending_tokens"`
	PID           int         `json:"pid"`
	StartedAt     time.Time   `json:"started_at"`
	LastUsedAt    time.Time   `json:"last_used_at"`
	External      bool        `json:"external,omitempty"`
	Message       string      `json:"message,omitempty"`
	Capabilities  []string    `json:"capabilities,omitempty"`
}

// Report is a hive's word about itself: the whole of it (Full) or what changed since the last one.
type Report struct {
	Node       string
	Epoch, Seq uint64
	Full       bool
	Version    string
	Devices    []Device // nil in a report that is not Full: unchanged
	Workers    []Worker // Full: all there are; else those that changed
	Gone       []string // ids of workers that ended, for a report that is not Full
	Models     []Model  // nil in a report that is not Full: unchanged
	DiskTotal  int64    // 0: unchanged
	DiskFree   int64
}
