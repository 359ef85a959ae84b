package engine

import (
	"strconv"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// adapter is what an engine needs beyond its spec.
type adapter struct {
	// args builds the arguments when the spec has no command of its own.
	args func(in planInput, p *Plan) []string
	// program is the name of the executable.
	program string
	// running and waiting are the engine's metrics for requests.
	running, waiting string
}

func adapterOf(name string) adapter {
	switch name {
	case LlamaCpp:
		return adapter{args: llamaArgs, program: "llama-server", running: "llamacpp:requests_processing", waiting: "llamacpp:requests_deferred"}
	case VLLM:
		return adapter{args: vllmArgs, program: "vllm", running: "vllm:num_requests_running", waiting: "vllm:num_requests_waiting"}
	case Ollama:
		return adapter{args: func(planInput, *Plan) []string { return []string{"serve"} }, program: "ollama"}
	case Sim:
		return adapter{args: simArgs, running: "sim:requests_processing", waiting: "sim:requests_deferred"}
	}
	return adapter{}
}

func llamaSpec() Spec {
	return Spec{Name: LlamaCpp, Adapter: LlamaCpp, Protocol: hiveapi.ProtocolOpenAI, Health: "/health", Slots: 2,
		ReadyTimeout: seconds(600), StopGrace: seconds(5), ModelName: "{model}",
		Capabilities: &Capabilities{Chat: true, Completions: true, Embeddings: true, Prefill: true, TokenIDs: true, Tools: true, SharedSlots: true,
			Paths: []string{"/v1/responses", "/v1/messages", "/v1/rerank", "/v1/audio/transcriptions"}, Metrics: "/metrics", APIKey: "LLAMA_API_KEY"}}
}

func llamaArgs(in planInput, p *Plan) []string {
	args := []string{"-m", in.modelPath, "--host", in.host, "--port", strconv.Itoa(in.port), "-a", in.model, "--metrics", "-np", strconv.Itoa(p.Slots)}
	if p.Context > 0 {
		args = append(args, "-c", strconv.Itoa(p.Context))
	}
	// Left out, -ngl and -c are fitted to the devices' free memory by llama-server itself (--fit, on by default).
	switch {
	case in.req.GPULayers != nil:
		args = append(args, "-ngl", strconv.Itoa(*in.req.GPULayers))
	case len(in.devices) == 1 && in.devices[0].Backend == "cpu":
		args = append(args, "-ngl", "0")
	}
	return args
}

func vllmSpec() Spec {
	return Spec{Name: VLLM, Adapter: VLLM, Protocol: hiveapi.ProtocolOpenAI, Health: "/health", Slots: 16,
		ReadyTimeout: seconds(1800), StopGrace: seconds(15), ModelName: "{model}",
		Capabilities: &Capabilities{Chat: true, Completions: true, Embeddings: true, Tools: true,
			Paths: []string{"/v1/responses", "/v1/rerank", "/v1/score", "/v1/audio/*"}, Metrics: "/metrics", APIKey: "VLLM_API_KEY"}}
}

func vllmArgs(in planInput, p *Plan) []string {
	args := []string{"serve", in.modelPath, "--host", in.host, "--port", strconv.Itoa(in.port), "--served-model-name", in.model,
		"--max-num-seqs", strconv.Itoa(p.Slots)}
	if p.Context > 0 {
		args = append(args, "--max-model-len", strconv.Itoa(p.Context))
	}
	if n := len(in.devices); n > 1 {
		args = append(args, "--tensor-parallel-size", strconv.Itoa(n))
	}
	return args
}

func ollamaSpec() Spec {
	return Spec{Name: Ollama, Adapter: Ollama, Protocol: hiveapi.ProtocolOpenAI, Health: "/", Slots: 4,
		ReadyTimeout: seconds(1800), StopGrace: seconds(10), ModelName: "{model_path}",
		Env:          map[string]string{"OLLAMA_HOST": "{host}:{port}", "OLLAMA_NUM_PARALLEL": "{slots}", "OLLAMA_KEEP_ALIVE": "-1", "OLLAMA_MAX_LOADED_MODELS": "1"},
		Capabilities: &Capabilities{Chat: true, Completions: true, Embeddings: true, Tools: true, Prefill: true, Paths: []string{"/v1/responses", "/v1/messages"}}}
}

func simSpec() Spec {
	return Spec{Name: Sim, Adapter: Sim, Health: "/health", ReadyTimeout: seconds(600), StopGrace: seconds(2), ModelName: "{model}",
		Capabilities: &Capabilities{Chat: true, Completions: true, Embeddings: true, Prefill: true, Metrics: "/metrics", APIKey: sim.EnvAPIKey}}
}

func simArgs(in planInput, p *Plan) []string {
	return []string{"--host", in.host, "--port", strconv.Itoa(in.port), "--model", in.modelPath, "--alias", in.model, "--slots", strconv.Itoa(p.Slots)}
}

func commandSpec() Spec {
	return Spec{Protocol: hiveapi.ProtocolOpenAI, Health: "/health", Slots: 1, ReadyTimeout: seconds(120), StopGrace: seconds(10), ModelName: "{model}",
		Capabilities: &Capabilities{Chat: true, Completions: true}}
}
