package hiveapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// The worker protocols.
const (
	ProtocolOpenAI  = "openai"
	ProtocolExecute = "execute"
)

// Capabilities say what an engine can do, so that nobody has to find out by failing.
type Capabilities struct {
	Chat        bool     `json:"chat"`
	Completions bool     `json:"completions"`
	Embeddings  bool     `json:"embeddings"`
	Paths       []string `json:"paths,omitempty"`        // further POST paths that it serves, e.g. /v1/rerank
	Prefill     bool     `json:"prefill,omitempty"`      // continues a last message of role assistant
	TokenIDs    bool     `json:"token_ids,omitempty"`    // return_tokens with verbose
	Metrics     string   `json:"metrics,omitempty"`      // path of Prometheus text, "" = none
	APIKey      string   `json:"api_key,omitempty"`      // environment variable that takes the key, "" = can't check one
	Tools       bool     `json:"tools,omitempty"`        // understands tools and tool_choice
	SharedSlots bool     `json:"shared_slots,omitempty"` // the context is divided by the slots
}

// Serves says whether the engine answers POST path.
func (c Capabilities) Serves(path string) bool {
	switch path {
	case "/v1/chat/completions":
		return c.Chat
	case "/v1/completions":
		return c.Completions
	case "/v1/embeddings":
		return c.Embeddings
	}
	for _, p := range c.Paths {
		if p == path || strings.HasSuffix(p, "/*") && strings.HasPrefix(path, p[:len(p)-1]) {
			return true
		}
	}
	return false
}

// Duration is a time.Duration that is written as text ("120s") and read from text or a number of seconds.
type Duration time.Duration

// MarshalJSON writes the duration as Go writes it.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads "2m" or a number of seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		if s == "" {
			*d = 0
			return nil
		}
		v, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("duration %.40q: write it like 90s or 2m", s)
		}
		*d = Duration(v)
		return nil
	}
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("duration: write it like \"90s\"")
	}
	if f < 0 || f > 1e9 {
		return fmt.Errorf("duration: %g seconds is out of range", f)
	}
	*d = Duration(f * float64(time.Second))
	return nil
}

// EngineSpec is how an engine is run: it travels with each spawn, and the hive remembers it by its hash. Command and
// Env values may hold the placeholders {host} {port} {model} {model_path} {slots} {context} {device} {data_dir}
// {worker_id}. An empty Command means that of the built-in adapter called Adapter (or Name).
type EngineSpec struct {
	Name         string            `json:"name"`
	Adapter      string            `json:"adapter,omitempty"` // built-in that fills what is left out; "" = Name if it is one, else "command"
	Version      string            `json:"version,omitempty"`
	Command      []string          `json:"command,omitempty"`
	Args         []string          `json:"args,omitempty"` // appended to the command, before the model's own
	Env          map[string]string `json:"env,omitempty"`
	Protocol     string            `json:"protocol,omitempty"`
	Health       string            `json:"health,omitempty"` // path that answers 200 when the engine serves
	Slots        int               `json:"slots,omitempty"`
	Context      int               `json:"context,omitempty"`
	ReadyTimeout Duration          `json:"ready_timeout,omitempty"`
	Stop         []string          `json:"stop,omitempty"`       // command that ends the engine, e.g. docker stop
	StopGrace    Duration          `json:"stop_grace,omitempty"` // from TERM to KILL
	ModelName    string            `json:"model_name,omitempty"` // what requests must name as their model; placeholders allowed
	Capabilities *Capabilities     `json:"capabilities,omitempty"`
	Restart      string            `json:"restart,omitempty"` // always (default) or never
}

// Hash names the spec: equal specs have equal hashes, whatever machine computed them.
func (s EngineSpec) Hash() string {
	b, err := json.Marshal(s)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// SpawnRequest asks a hive to run a worker. The same WorkerID twice is the same worker: the second call answers with
// the record of the first.
type SpawnRequest struct {
	WorkerID string     `json:"worker_id"`
	Model    string     `json:"model,omitempty"`
	ModelRef string     `json:"model_ref"`
	Engine   EngineSpec `json:"engine"`
	Slots    int        `json:"slots,omitempty"`   // 0 = the spec's
	Context  int        `json:"context,omitempty"` // 0 = the spec's, else the engine's own default
	// Devices are ids of State.Devices; none means the hive's choice (the CPU unless the engine wants more).
	Devices     []string          `json:"devices,omitempty"`
	ModelPath   string            `json:"model_path,omitempty"`   // "" = where the hive's own store has the model
	MemoryBytes int64             `json:"memory_bytes,omitempty"` // what the scheduler reserved for it
	GPULayers   *int              `json:"gpu_layers,omitempty"`
	APIKey      string            `json:"api_key,omitempty"` // "" = the hive makes one where the engine can check it
	Args        []string          `json:"args,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
}

// LogValue keeps keys and environments out of logs.
func (r SpawnRequest) LogValue() slog.Value {
	return slog.GroupValue(slog.String("worker_id", r.WorkerID), slog.String("model_ref", r.ModelRef), slog.String("engine", r.Engine.Name))
}
