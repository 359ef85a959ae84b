package engine

import (
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
)

// Plan is the exact process that a request leads to. The argument list holds no secret; the environment may.
type Plan struct {
	Path, Address, Health, Protocol, ModelName string
	Args, Env                                  []string // Env is what is added to the Supervisor's own
	Slots, Context                             int
	MemoryBytes                                int64
	APIKey                                     string
	Stop                                       []string
	ReadyTimeout, StopGrace                    time.Duration
	Capabilities                               Capabilities
}

// planInput is what the arguments are made of.
type planInput struct {
	req        SpawnRequest
	spec       Spec
	host       string
	port       int
	model      string
	modelPath  string
	devices    []Device
	dir        string
	apiKey     string
	simCommand []string
	lookup     func(program string) (string, error)
}

// plan turns a request into a process.
func plan(in planInput) (Plan, error) {
	caps := Capabilities{}
	if in.spec.Capabilities != nil {
		caps = *in.spec.Capabilities
	}
	p := Plan{Address: net.JoinHostPort(in.host, strconv.Itoa(in.port)), Health: in.spec.Health, Protocol: in.spec.Protocol, Capabilities: caps,
		Slots: first(in.req.Slots, in.spec.Slots), Context: first(in.req.Context, in.spec.Context), MemoryBytes: in.req.MemoryBytes,
		ReadyTimeout: time.Duration(in.spec.ReadyTimeout), StopGrace: time.Duration(in.spec.StopGrace)}
	if strings.HasPrefix(in.modelPath, "-") || strings.HasPrefix(in.model, "-") {
		return p, invalid("a model's name or path can't begin with a dash")
	}
	a := adapterOf(in.spec.Adapter)
	if in.spec.Adapter == Sim {
		c, err := sim.ParseRef(in.modelPath)
		if err != nil {
			return p, &Error{Name: "INVALID_MODEL_REF", Message: err.Error(), Err: err}
		}
		p.Slots, p.Protocol = first(p.Slots, c.Slots), cmpString(p.Protocol, c.Protocol)
		if p.MemoryBytes == 0 {
			p.MemoryBytes = c.Memory
		}
		p.Context = first(p.Context, c.Context)
	}
	rep := in.replacer(p)
	if err := p.command(in, a, rep); err != nil {
		return p, err
	}
	for _, arg := range slices.Concat(in.spec.Args, in.req.Args) {
		p.Args = append(p.Args, rep.Replace(arg))
	}
	for _, arg := range in.spec.Stop {
		p.Stop = append(p.Stop, rep.Replace(arg))
	}
	p.ModelName = rep.Replace(in.spec.ModelName)
	if caps.APIKey != "" {
		p.APIKey = in.apiKey
	}
	p.Env = in.environment(p, rep)
	return p, nil
}

// command sets the program and its own arguments.
func (p *Plan) command(in planInput, a adapter, rep *strings.Replacer) error {
	var argv []string
	switch {
	case len(in.spec.Command) > 0:
		for _, arg := range in.spec.Command {
			argv = append(argv, rep.Replace(arg))
		}
	case in.spec.Adapter == Sim:
		if len(in.simCommand) == 0 {
			return &Error{Message: "the simulator needs Options.SimCommand: a program that calls sim.Main"}
		}
		argv = append(slices.Clone(in.simCommand), a.args(in, p)...)
	default:
		argv = append([]string{a.program}, a.args(in, p)...)
	}
	path, err := in.lookup(argv[0])
	if err != nil {
		return err
	}
	p.Path, p.Args = path, argv[1:]
	return nil
}

func (in planInput) replacer(p Plan) *strings.Replacer {
	ids := make([]string, len(in.devices))
	for i, d := range in.devices {
		ids[i] = d.ID
	}
	return strings.NewReplacer("{host}", in.host, "{port}", strconv.Itoa(in.port), "${PORT}", strconv.Itoa(in.port), "{model}", in.model,
		"{model_path}", in.modelPath, "{slots}", strconv.Itoa(p.Slots), "{context}", strconv.Itoa(p.Context),
		"{device}", strings.Join(ids, ","), "{data_dir}", in.dir, "{worker_id}", in.req.WorkerID)
}

// environment is what the worker's environment has beyond the Supervisor's: devices, key, the spec's and the model's.
func (in planInput) environment(p Plan, rep *strings.Replacer) []string {
	env := visible(in.devices)
	for k, v := range in.spec.Env {
		env[k] = rep.Replace(v)
	}
	for k, v := range in.req.Env {
		env[k] = rep.Replace(v)
	}
	if p.APIKey != "" {
		env[p.Capabilities.APIKey] = p.APIKey
	}
	if in.spec.Adapter == Ollama && p.Context > 0 {
		env["OLLAMA_CONTEXT_LENGTH"] = strconv.Itoa(p.Context)
	}
	env["RBEE_WORKER_ID"] = in.req.WorkerID
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// visible limits an engine to its devices. With none named it sees them all; on the CPU it sees no GPU.
func visible(devices []Device) map[string]string {
	env := map[string]string{}
	if len(devices) == 0 {
		return env
	}
	lists := map[string][]string{}
	for _, d := range devices {
		lists[d.Backend] = append(lists[d.Backend], strconv.Itoa(d.Index))
	}
	env["CUDA_VISIBLE_DEVICES"] = strings.Join(lists["cuda"], ",")
	env["ROCR_VISIBLE_DEVICES"] = strings.Join(lists["rocm"], ",")
	if len(lists["cuda"]) > 0 {
		env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID" // the order in which nvidia-smi counts
	}
	if len(lists["vulkan"]) > 0 {
		env["GGML_VK_VISIBLE_DEVICES"] = strings.Join(lists["vulkan"], ",")
	}
	return env
}

// lookPath finds a program: as a path, in the environment variable that names it, among the installed engines, on
// PATH, in the places where it is often put.
func lookPath(program string, engineDir string) (string, error) {
	if strings.ContainsRune(program, filepath.Separator) {
		if err := executable(program); err != nil {
			return "", &Error{Message: fmt.Sprintf("the engine's program can't be used: %v", err), Err: ErrNoBinary}
		}
		return program, nil
	}
	var tried []string
	try := func(p string) bool {
		tried = append(tried, p)
		return executable(p) == nil
	}
	variable := strings.ToUpper(strings.ReplaceAll(program, "-", "_"))
	if p := os.Getenv(variable); p != "" && strings.ContainsRune(p, filepath.Separator) && try(p) {
		return p, nil
	}
	if engineDir != "" {
		if p := filepath.Join(engineDir, "bin", program); try(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath(program); err == nil {
		return filepath.Abs(p)
	}
	tried = append(tried, "PATH")
	for _, p := range []string{filepath.Join("/opt", program, program), filepath.Join("/usr/local/bin", program)} {
		if try(p) {
			return p, nil
		}
	}
	return "", &Error{Err: ErrNoBinary, Message: fmt.Sprintf("%s is not on this machine (looked at %s); install it with `rbee engine install`, put it on PATH or set %s",
		program, strings.Join(tried, ", "), variable)}
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not executable; run chmod +x on it", path)
	}
	return nil
}

func first(values ...int) int {
	for _, v := range values {
		if v != 0 {
			return v
		}
	}
	return 0
}

func cmpString(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
