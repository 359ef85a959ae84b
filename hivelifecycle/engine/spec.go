package engine

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// The wire types are the library's own ones: what a queen sends is what a Supervisor takes.
type (
	// Spec is how an engine is run.
	Spec = hiveapi.EngineSpec
	// SpawnRequest asks for a worker.
	SpawnRequest = hiveapi.SpawnRequest
	// Worker is the record of a worker.
	Worker = hiveapi.Worker
	// Device is something that can run a model.
	Device = hiveapi.Device
	// Capabilities say what an engine can do.
	Capabilities = hiveapi.Capabilities
)

// The names of the built-in adapters.
const (
	LlamaCpp = "llama.cpp"
	VLLM     = "vllm"
	Ollama   = "ollama"
	Sim      = "sim"
	Command  = "command" // any command line; what a spec with an unknown name is
)

// Builtin lists the specs of the built-in engines, with everything filled in.
func Builtin() []Spec {
	return []Spec{llamaSpec(), vllmSpec(), ollamaSpec(), simSpec()}
}

// Resolve fills what a spec leaves out from the built-in adapter that it is about, and checks it. A spec whose Command
// is its own keeps it exactly: nothing is appended but its Args and the model's.
func Resolve(s Spec) (Spec, error) {
	if s.Name == "" {
		s.Name = s.Adapter
	}
	if s.Name == "" {
		return s, invalid("the engine has no name")
	}
	if s.Adapter == "" {
		s.Adapter = Command
		if _, ok := builtin(s.Name); ok {
			s.Adapter = s.Name
		}
	}
	base, ok := builtin(s.Adapter)
	if !ok && s.Adapter != Command {
		return s, invalid("engine %q: there is no adapter %q; there are llama.cpp, vllm, ollama, sim and command", s.Name, s.Adapter)
	}
	if !ok {
		base = commandSpec()
	}
	fill(&s, base)
	return s, check(s)
}

func builtin(name string) (Spec, bool) {
	for _, b := range Builtin() {
		if b.Name == name {
			return b, true
		}
	}
	return Spec{}, false
}

func fill(s *Spec, base Spec) {
	if s.Protocol == "" {
		s.Protocol = base.Protocol
	}
	if s.Health == "" {
		s.Health = base.Health
	}
	if s.Slots == 0 {
		s.Slots = base.Slots
	}
	if s.ReadyTimeout == 0 {
		s.ReadyTimeout = base.ReadyTimeout
	}
	if s.StopGrace == 0 {
		s.StopGrace = base.StopGrace
	}
	if s.ModelName == "" {
		s.ModelName = base.ModelName
	}
	if s.Capabilities == nil {
		s.Capabilities = base.Capabilities
	}
	if len(base.Env) > 0 {
		env := maps.Clone(base.Env)
		maps.Copy(env, s.Env)
		s.Env = env
	}
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func check(s Spec) error {
	switch {
	case s.Adapter == Command && len(s.Command) == 0:
		return invalid("engine %q has no command", s.Name)
	case len(s.Command) > 0 && s.Command[0] == "":
		return invalid("engine %q: the command's first word is empty", s.Name)
	case s.Protocol != "" && s.Protocol != hiveapi.ProtocolOpenAI && s.Protocol != hiveapi.ProtocolExecute:
		return invalid("engine %q: protocol %q; it is openai or execute", s.Name, s.Protocol)
	case !strings.HasPrefix(s.Health, "/"):
		return invalid("engine %q: health %q is not a path like /health", s.Name, s.Health)
	case s.Slots < 0 || s.Slots > 4096 || s.Context < 0:
		return invalid("engine %q: slots or context out of range", s.Name)
	case s.ReadyTimeout < 0 || s.StopGrace < 0:
		return invalid("engine %q: a negative time", s.Name)
	case s.Restart != "" && s.Restart != "always" && s.Restart != "never":
		return invalid("engine %q: restart %q; it is always or never", s.Name, s.Restart)
	}
	for _, arg := range slices.Concat(s.Command, s.Args, s.Stop) {
		if strings.ContainsRune(arg, 0) {
			return invalid("engine %q: an argument holds a NUL", s.Name)
		}
	}
	return checkEnv(s.Env)
}

func checkEnv(env map[string]string) error {
	for k, v := range env {
		if !envName.MatchString(k) || strings.ContainsRune(v, 0) {
			return invalid("%.40q can't be an environment variable", k)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &Error{Name: "INVALID_REQUEST", Message: fmt.Sprintf(format, args...)}
}

func seconds(n int) hiveapi.Duration { return hiveapi.Duration(time.Duration(n) * time.Second) }
