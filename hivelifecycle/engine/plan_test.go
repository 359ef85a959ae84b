package engine

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func gpus() []Device {
	return []Device{{ID: "cpu", Backend: "cpu"}, {ID: "cuda:0", Backend: "cuda"}, {ID: "cuda:1", Backend: "cuda", Index: 1}, {ID: "rocm:0", Backend: "rocm"}}
}

func pick(ids ...string) (out []Device) {
	for _, id := range ids {
		for _, d := range gpus() {
			if d.ID == id {
				out = append(out, d)
			}
		}
	}
	return out
}

func planFor(t *testing.T, r SpawnRequest, devices []Device) (Plan, error) {
	t.Helper()
	spec, err := Resolve(r.Engine)
	if err != nil {
		return Plan{}, err
	}
	return plan(planInput{req: r, spec: spec, host: "127.0.0.1", port: 4242, model: cmpString(r.Model, r.ModelRef), modelPath: r.ModelPath, devices: devices, dir: "/data",
		apiKey: "KEY", simCommand: []string{"/bin/hive", "sim-worker"}, lookup: func(p string) (string, error) { return "/found/" + strings.TrimPrefix(p, "/bin/"), nil }})
}

// TestPlans holds the exact arguments and environment of each kind of child.
func TestPlans(t *testing.T) {
	layers := 20
	for _, tc := range []struct {
		name    string
		req     SpawnRequest
		devices []Device
		path    string
		args    string
		env     []string
	}{
		{name: "llama.cpp, nothing chosen", req: SpawnRequest{Model: "m", ModelPath: "/m.gguf", Engine: Spec{Name: LlamaCpp}}, path: "/found/llama-server",
			args: "-m /m.gguf --host 127.0.0.1 --port 4242 -a m --metrics -np 2", env: []string{"LLAMA_API_KEY=KEY"}},
		{name: "llama.cpp on the CPU", req: SpawnRequest{Model: "m", ModelPath: "/m.gguf", Engine: Spec{Name: LlamaCpp}, Slots: 4, Context: 1024, Args: []string{"-t", "1"}}, devices: pick("cpu"),
			path: "/found/llama-server", args: "-m /m.gguf --host 127.0.0.1 --port 4242 -a m --metrics -np 4 -c 1024 -ngl 0 -t 1",
			env: []string{"CUDA_VISIBLE_DEVICES=", "LLAMA_API_KEY=KEY", "ROCR_VISIBLE_DEVICES="}},
		{name: "llama.cpp on two NVIDIA cards", req: SpawnRequest{Model: "m", ModelPath: "/m.gguf", Engine: Spec{Name: LlamaCpp}, GPULayers: &layers}, devices: pick("cuda:0", "cuda:1"),
			path: "/found/llama-server", args: "-m /m.gguf --host 127.0.0.1 --port 4242 -a m --metrics -np 2 -ngl 20",
			env: []string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=0,1", "LLAMA_API_KEY=KEY", "ROCR_VISIBLE_DEVICES="}},
		{name: "vllm on AMD", req: SpawnRequest{Model: "m", ModelPath: "org/model", Engine: Spec{Name: VLLM}, Context: 8192}, devices: pick("rocm:0"),
			path: "/found/vllm", args: "serve org/model --host 127.0.0.1 --port 4242 --served-model-name m --max-num-seqs 16 --max-model-len 8192",
			env: []string{"CUDA_VISIBLE_DEVICES=", "ROCR_VISIBLE_DEVICES=0", "VLLM_API_KEY=KEY"}},
		{name: "vllm on two cards", req: SpawnRequest{Model: "m", ModelPath: "org/model", Engine: Spec{Name: VLLM}}, devices: pick("cuda:0", "cuda:1"),
			path: "/found/vllm", args: "serve org/model --host 127.0.0.1 --port 4242 --served-model-name m --max-num-seqs 16 --tensor-parallel-size 2",
			env: []string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=0,1", "ROCR_VISIBLE_DEVICES=", "VLLM_API_KEY=KEY"}},
		{name: "ollama", req: SpawnRequest{Model: "m", ModelPath: "llama3:8b", Engine: Spec{Name: Ollama}, Context: 4096}, path: "/found/ollama", args: "serve",
			env: []string{"OLLAMA_CONTEXT_LENGTH=4096", "OLLAMA_HOST=127.0.0.1:4242", "OLLAMA_KEEP_ALIVE=-1", "OLLAMA_MAX_LOADED_MODELS=1", "OLLAMA_NUM_PARALLEL=4"}},
		{name: "sim", req: SpawnRequest{Model: "m", ModelPath: "sim:m?slots=7", Engine: Spec{Name: Sim}}, path: "/found/hive",
			args: "sim-worker --host 127.0.0.1 --port 4242 --model sim:m?slots=7 --alias m --slots 7", env: []string{"RBEE_SIM_API_KEY=KEY"}},
		{name: "container", req: SpawnRequest{WorkerID: "w1", Model: "m", ModelPath: "/m", Engine: Spec{Name: "boxed", Slots: 3,
			Command: []string{"docker", "run", "--rm", "--name", "{worker_id}", "-p", "{port}:8080", "image", "--json", `{"a":1}`, "--ctx={context}", "--par", "{slots}", "{unknown}"}, Args: []string{"{device}"}, Env: map[string]string{"M": "{model_path}"}, Context: 5},
			Env: map[string]string{"X": "{data_dir}"}}, devices: pick("cuda:1"), path: "/found/docker",
			args: `run --rm --name w1 -p 4242:8080 image --json {"a":1} --ctx=5 --par 3 {unknown} cuda:1`,
			env:  []string{"CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=1", "M=/m", "ROCR_VISIBLE_DEVICES=", "X=/data"}},
		{name: "llama.cpp with a command of its own", req: SpawnRequest{Model: "m", ModelPath: "/m", Engine: Spec{Name: LlamaCpp, Command: []string{"/bin/mine", "--p", "${PORT}"}}}, path: "/found/mine",
			args: "--p 4242", env: []string{"LLAMA_API_KEY=KEY"}},
	} {
		p, err := planFor(t, tc.req, tc.devices)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if p.Path != tc.path || strings.Join(p.Args, " ") != tc.args {
			t.Errorf("%s: %s %s", tc.name, p.Path, strings.Join(p.Args, " "))
		}
		env := slices.DeleteFunc(slices.Clone(p.Env), func(s string) bool { return strings.HasPrefix(s, "RBEE_WORKER_ID=") })
		if diff := cmp.Diff(tc.env, env); diff != "" {
			t.Errorf("%s: environment %s", tc.name, diff)
		}
		if strings.Contains(strings.Join(p.Args, " "), "KEY") {
			t.Errorf("%s: the key is among the arguments", tc.name)
		}
	}
}

func TestRefusedSpecs(t *testing.T) {
	for name, r := range map[string]SpawnRequest{
		"no name":      {},
		"no command":   {Engine: Spec{Name: "mine"}},
		"no adapter":   {Engine: Spec{Name: "mine", Adapter: "what"}},
		"protocol":     {Engine: Spec{Name: Sim, Protocol: "smtp"}},
		"health":       {Engine: Spec{Name: Sim, Health: "health"}},
		"NUL":          {Engine: Spec{Name: "mine", Command: []string{"a", "\x00"}}},
		"environment":  {Engine: Spec{Name: "mine", Command: []string{"a"}, Env: map[string]string{"A=B": "x"}}},
		"restart":      {Engine: Spec{Name: Sim, Restart: "maybe"}},
		"slots":        {Engine: Spec{Name: Sim, Slots: -1}},
		"dash model":   {Model: "-x", Engine: Spec{Name: LlamaCpp}},
		"dash path":    {ModelPath: "--rm", Engine: Spec{Name: LlamaCpp}},
		"sim ref":      {ModelPath: "sim:a?b", Engine: Spec{Name: Sim}},
		"time":         {Engine: Spec{Name: Sim, ReadyTimeout: -1}},
		"empty first":  {Engine: Spec{Name: "mine", Command: []string{""}}},
		"wrong model?": {ModelPath: "file:/x", Engine: Spec{Name: Sim}},
	} {
		_, err := planFor(t, r, nil)
		var coded interface{ Code() string }
		if !errors.As(err, &coded) || !strings.HasPrefix(coded.Code(), "INVALID_") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLookPath(t *testing.T) {
	t.Setenv("PATH", "")
	_, err := lookPath("no-such-engine", "")
	if !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "rbee engine install") {
		t.Error(err)
	}
	if _, err := lookPath("/etc/passwd", ""); !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "chmod") {
		t.Error(err)
	}
	if _, err := lookPath("/", ""); !errors.Is(err, ErrNoBinary) {
		t.Error(err)
	}
	if p, err := lookPath("/bin/sh", ""); p != "/bin/sh" || err != nil {
		t.Error(p, err)
	}
}

func TestBaseEnvKeepsOurSecrets(t *testing.T) {
	if got := baseEnv([]string{"PATH=/bin", "RBEE_KEY=secret", "HOME=/"}); !slices.Equal(got, []string{"PATH=/bin", "HOME=/"}) {
		t.Error(got)
	}
	if len(visible(nil)) != 0 || !maps.Equal(visible(pick("cpu")), map[string]string{"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}) {
		t.Error("visible devices")
	}
}
