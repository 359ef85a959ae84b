package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

const gib = int64(1) << 30

// eight is a model like an 8B one in Q4: 32 layers, 4.95 GiB, 128 KiB for a token of context.
func eight() hiveapi.Model {
	return hiveapi.Model{SizeBytes: 33 * 150 << 20, ContextLength: 32768, Layers: 32, Memory: hiveapi.Memory{Weights: 33 * 150 << 20, Fixed: 300 << 20, PerToken: 128 << 10}}
}

func card(id string, total, free int64) Device {
	backend, _, _ := strings.Cut(id, ":")
	return Device{ID: id, Backend: backend, MemoryTotal: total, MemoryFree: free, Unified: backend == "cpu" || backend == "metal"}
}

// shown is what a request says after it was fitted.
func shown(r SpawnRequest) string {
	layers := "-"
	if r.GPULayers != nil {
		layers = fmt.Sprint(*r.GPULayers)
	}
	return strings.TrimSpace(fmt.Sprintf("ngl %s c %d mem %.2f %s", layers, r.Context, float64(r.MemoryBytes)/float64(gib), strings.Join(r.Args, " ")))
}

// TestFit holds what is chosen. The model with all its layers and c tokens takes 5.13 GiB + c * 128 KiB.
func TestFit(t *testing.T) {
	twelve := 12
	full := []Device{card("cpu", 32*gib, 20*gib), card("cuda:0", 24*gib, 24*gib), card("cuda:1", 8*gib, 8*gib), card("metal:0", 24*gib, 16*gib), card("rocm:0", 8*gib, 5*gib), {ID: "gpu0", Backend: "sim", MemoryTotal: gib, MemoryFree: gib}}
	for _, tc := range []struct {
		name    string
		req     SpawnRequest
		model   func(*hiveapi.Model)
		devices []Device
		want    string
	}{
		{name: "room for everything, nothing reserved", req: SpawnRequest{Devices: []string{"cuda:0"}}, want: "ngl 33 c 65536 mem 13.13"},
		{name: "what was reserved bounds the context", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: 8 * gib}, want: "ngl 33 c 23296 mem 7.97"},
		{name: "a reservation that was a guess does not", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: gib}, want: "ngl 33 c 8192 mem 6.13"},
		{name: "slots share the context", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: gib, Slots: 4}, want: "ngl 33 c 16384 mem 7.13"},
		{name: "context given", req: SpawnRequest{Devices: []string{"cuda:0"}, Context: 1000}, want: "ngl 33 c 1000 mem 5.25"},
		{name: "tight: less context before fewer layers", req: SpawnRequest{Devices: []string{"cuda:1"}, Slots: 8}, want: "ngl 33 c 19200 mem 7.47"},
		{name: "tighter: fewer layers", req: SpawnRequest{Devices: []string{"rocm:0"}}, want: "ngl 25 c 4096 mem 4.35"},
		{name: "a context that is too large for all layers", req: SpawnRequest{Devices: []string{"cuda:1"}, Context: 32768}, want: "ngl 26 c 32768 mem 7.35"},
		{name: "two cards", req: SpawnRequest{Devices: []string{"cuda:1", "rocm:0"}, Context: 40000}, want: "ngl 33 c 40000 mem 10.01"},
		{name: "layers given", req: SpawnRequest{Devices: []string{"cuda:0"}, GPULayers: &twelve, MemoryBytes: 2 * gib}, want: "ngl 12 c 8192 mem 2.43"},
		{name: "shared memory counts once", req: SpawnRequest{Devices: []string{"metal:0"}}, want: "ngl 33 c 65536 mem 13.13"},
		{name: "the CPU", req: SpawnRequest{Devices: []string{"cpu"}, MemoryBytes: 6 * gib}, want: "ngl - c 8192 mem 6.13"},
		{name: "the only device", req: SpawnRequest{MemoryBytes: gib}, devices: full[:1], want: "ngl - c 8192 mem 6.13"},
		{name: "a CPU without room", req: SpawnRequest{Devices: []string{"cpu"}}, devices: []Device{card("cpu", 6*gib, 3*gib)}, want: "ngl - c 4096 mem 5.63"},
		{name: "a model with a small context", req: SpawnRequest{Devices: []string{"cpu"}}, model: func(m *hiveapi.Model) { m.ContextLength = 300 }, want: "ngl - c 600 mem 5.20"},

		{name: "no device named, several there", req: SpawnRequest{}, want: "ngl - c 0 mem 0.00"},
		{name: "no such device", req: SpawnRequest{Devices: []string{"cuda:7"}}, want: "ngl - c 0 mem 0.00"},
		{name: "a pretended device", req: SpawnRequest{Devices: []string{"gpu0"}}, want: "ngl - c 0 mem 0.00"},
		{name: "no metadata", req: SpawnRequest{Devices: []string{"cuda:0"}}, model: func(m *hiveapi.Model) { m.Memory = hiveapi.Memory{} }, want: "ngl - c 0 mem 0.00"},
		{name: "layers unknown", req: SpawnRequest{Devices: []string{"cuda:0"}}, model: func(m *hiveapi.Model) { m.Layers = 0 }, want: "ngl - c 0 mem 0.00"},
		{name: "free memory unknown", req: SpawnRequest{Devices: []string{"cuda:0"}}, devices: []Device{card("cuda:0", 8*gib, 0)}, want: "ngl - c 0 mem 0.00"},
		{name: "an argument of the model", req: SpawnRequest{Devices: []string{"cuda:0"}, Args: []string{"-ngl", "5"}}, want: "ngl - c 0 mem 0.00 -ngl 5"},
		{name: "an argument with =", req: SpawnRequest{Devices: []string{"cuda:0"}, Args: []string{"--ctx-size=5"}}, want: "ngl - c 0 mem 0.00 --ctx-size=5"},
		{name: "an argument of the engine", req: SpawnRequest{Devices: []string{"cuda:0"}, Engine: Spec{Args: []string{"--fit", "off"}}}, want: "ngl - c 0 mem 0.00"},
		{name: "a variable", req: SpawnRequest{Devices: []string{"cuda:0"}, Env: map[string]string{"LLAMA_ARG_N_GPU_LAYERS": "3"}}, want: "ngl - c 0 mem 0.00"},
		{name: "a command of its own", req: SpawnRequest{Devices: []string{"cuda:0"}, Engine: Spec{Command: []string{"/x"}}}, want: "ngl - c 0 mem 0.00"},
		{name: "another engine", req: SpawnRequest{Devices: []string{"cuda:0"}, Engine: Spec{Name: Ollama}}, want: "ngl - c 0 mem 0.00"},

		{name: "vllm: the reservation's share", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: 12 * gib, Engine: Spec{Name: VLLM}}, want: "ngl - c 0 mem 12.00 --gpu-memory-utilization 0.50"},
		{name: "vllm: never less than it needs", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: gib, Engine: Spec{Name: VLLM}}, want: "ngl - c 0 mem 7.92 --gpu-memory-utilization 0.33"},
		{name: "vllm: two cards, the smaller one's", req: SpawnRequest{Devices: []string{"cuda:0", "cuda:1"}, MemoryBytes: 12 * gib, Engine: Spec{Name: VLLM}}, want: "ngl - c 0 mem 12.00 --gpu-memory-utilization 0.75"},
		{name: "vllm: more than there is", req: SpawnRequest{Devices: []string{"cuda:1"}, MemoryBytes: 12 * gib, Engine: Spec{Name: VLLM}}, want: "ngl - c 0 mem 7.60 --gpu-memory-utilization 0.95"},
		{name: "vllm: its own word", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: gib, Args: []string{"--gpu-memory-utilization=0.9"}, Engine: Spec{Name: VLLM}}, want: "ngl - c 0 mem 1.00 --gpu-memory-utilization=0.9"},
		{name: "vllm: a size that nobody knows", req: SpawnRequest{Devices: []string{"cuda:0"}, MemoryBytes: gib, Engine: Spec{Name: VLLM}}, model: func(m *hiveapi.Model) { m.SizeBytes = 0 }, want: "ngl - c 0 mem 1.00"},
		{name: "vllm on the CPU", req: SpawnRequest{Devices: []string{"cpu"}, MemoryBytes: gib, Engine: Spec{Name: VLLM}}, want: "ngl - c 0 mem 1.00"},
	} {
		m, devices := eight(), full
		if tc.model != nil {
			tc.model(&m)
		}
		if tc.devices != nil {
			devices = tc.devices
		}
		if tc.req.Engine.Name == "" {
			tc.req.Engine.Name = LlamaCpp
		}
		if got := shown(Fit(tc.req, m, devices)); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// TestFitKeepsWithinRoom tries many machines: what is chosen fits, and fitting again with what came out changes nothing.
func TestFitKeepsWithinRoom(t *testing.T) {
	for total := gib / 2; total < 40*gib; total += gib / 3 {
		for _, reserved := range []int64{0, gib, total / 2, 2 * total} {
			for slots := 1; slots < 40; slots += 13 {
				d := card("cuda:0", total, total-total/10)
				r := Fit(SpawnRequest{Engine: Spec{Name: LlamaCpp}, Devices: []string{"cuda:0"}, Slots: slots, MemoryBytes: reserved}, eight(), []Device{d})
				if r.GPULayers == nil || r.Context < usualContext || int64(r.Context) > eight().ContextLength*int64(slots) {
					t.Fatalf("%d of %d: %s", reserved, total, shown(r))
				}
				if *r.GPULayers > 0 && r.MemoryBytes > room([]Device{d}) {
					t.Fatalf("%d of %d: %s is more than there is", reserved, total, shown(r))
				}
				again := Fit(SpawnRequest{Engine: Spec{Name: LlamaCpp}, Devices: []string{"cuda:0"}, Slots: slots, MemoryBytes: r.MemoryBytes}, eight(), []Device{d})
				if shown(again) != shown(r) {
					t.Fatalf("%d of %d: %s, then %s", reserved, total, shown(r), shown(again))
				}
			}
		}
	}
}

func TestFitLeavesTheRequestAlone(t *testing.T) {
	args := make([]string, 1, 8)
	args[0] = "-x"
	r := SpawnRequest{Engine: Spec{Name: VLLM}, Devices: []string{"cuda:0"}, MemoryBytes: gib, Args: args}
	Fit(r, eight(), []Device{card("cuda:0", 24*gib, gib)})
	if !slices.Equal(args[:2], []string{"-x", ""}) {
		t.Error(args[:2])
	}
}
