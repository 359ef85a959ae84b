package engine

import (
	"slices"
	"strconv"
	"strings"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

const (
	usualContext = 4096    // tokens that each slot gets where there is room
	contextStep  = 256     // llama.cpp rounds to it
	vllmMargin   = 2 << 30 // what vLLM takes beside weights and cache, on each device
)

// Fit chooses what a request leaves open from what the model needs and what its devices have free: for llama.cpp GPU
// layers and context, for vLLM the share of the device's memory. Where the model's metadata or the devices' memory is
// not known, or the request decides any of it by its own arguments, command or environment, it comes back as it was, and
// the engine's own choice holds (llama-server: --fit).
func Fit(r SpawnRequest, m hiveapi.Model, devices []Device) SpawnRequest {
	spec, err := Resolve(r.Engine)
	if err != nil || len(spec.Command) > 0 {
		return r
	}
	use := pickDevices(r.Devices, devices)
	if len(use) == 0 {
		return r
	}
	switch spec.Adapter {
	case LlamaCpp:
		return fitLlama(r, spec, m, use)
	case VLLM:
		return fitVLLM(r, spec, m, use)
	}
	return r
}

// pickDevices are those that were named; on a machine that has the CPU only, that.
func pickDevices(ids []string, have []Device) (out []Device) {
	if len(ids) == 0 && len(have) == 1 && have[0].Backend == "cpu" {
		return have
	}
	for _, id := range ids {
		i := slices.IndexFunc(have, func(d Device) bool { return d.ID == id })
		if i < 0 {
			return nil
		}
		out = append(out, have[i])
	}
	return out
}

// decided says that arguments or environment settle what would be chosen.
func decided(r SpawnRequest, spec Spec, env string, flags ...string) bool {
	for _, arg := range slices.Concat(spec.Args, r.Args) {
		name, _, _ := strings.Cut(arg, "=")
		if slices.Contains(flags, name) {
			return true
		}
	}
	for _, vars := range []map[string]string{spec.Env, r.Env} {
		for k := range vars {
			if env != "" && strings.HasPrefix(k, env) {
				return true
			}
		}
	}
	return false
}

// room is how much of some devices' memory a worker may take: what is free less a margin for what nobody counts (a
// sixteenth of the device, at most 1 GiB). Devices that share the machine's memory count once. 0 when one is unknown.
func room(devices []Device) (free int64) {
	var shared int64
	for _, d := range devices {
		if d.MemoryFree <= 0 || d.MemoryTotal <= 0 {
			return 0
		}
		left := max(0, d.MemoryFree-min(1<<30, d.MemoryTotal/16))
		if d.Unified {
			shared = max(shared, left)
		} else {
			free += left
		}
	}
	return free + shared
}

// shape is a model as the arithmetic needs it.
type shape struct {
	hiveapi.Memory
	layers, slots int64
}

// at is the memory that n layers (the output layer is one more) and c tokens of context take.
func (s shape) at(n, c int64) int64 {
	kv := s.PerToken * c
	if s.layers > 0 && n < s.layers {
		kv = kv / s.layers * n
	}
	weights := s.Weights
	if n <= s.layers {
		weights = s.Weights / (s.layers + 1) * n
	}
	return weights + s.Fixed + s.PerSlot*s.slots + kv
}

// context is the largest with which n layers take no more than so many bytes.
func (s shape) context(n, bytes int64) int64 {
	left, each := bytes-s.at(n, 0), s.PerToken
	if n < s.layers {
		each = s.PerToken / s.layers * n
	}
	if left <= 0 || each <= 0 {
		return 0
	}
	return left / each / contextStep * contextStep
}

func fitLlama(r SpawnRequest, spec Spec, m hiveapi.Model, use []Device) SpawnRequest {
	s := shape{Memory: m.Memory, layers: int64(m.Layers), slots: int64(first(r.Slots, spec.Slots))}
	onCPU := len(use) == 1 && use[0].Backend == "cpu"
	free := room(use)
	switch {
	case s.Weights <= 0 || s.PerToken <= 0 || free <= 0:
		return r
	case !onCPU && (s.layers <= 0 || slices.ContainsFunc(use, func(d Device) bool { return !slices.Contains([]string{"cuda", "rocm", "metal", "vulkan"}, d.Backend) })):
		return r
	case decided(r, spec, "LLAMA_ARG_", "-ngl", "--gpu-layers", "--n-gpu-layers", "-c", "--ctx-size", "-fit", "--fit", "-ot", "--override-tensor", "-cmoe", "--cpu-moe",
		"-ncmoe", "--n-cpu-moe", "-sm", "--split-mode", "-ts", "--tensor-split", "-dev", "--device", "-ctk", "--cache-type-k", "-ctv", "--cache-type-v"):
		return r
	}
	n := s.layers + 1
	if r.GPULayers != nil && !onCPU {
		n = min(max(0, int64(*r.GPULayers)), n)
	}
	given := int64(first(r.Context, spec.Context))
	c, fits := s.chooseContext(n, given, free, r.MemoryBytes, m.ContextLength)
	if onCPU {
		r.Context, r.MemoryBytes = int(c), s.at(n, c)
		return r
	}
	if r.GPULayers == nil {
		for ; n > 0 && !fits; n-- {
			fits = s.at(n-1, c) <= free
		}
		layers := int(n)
		r.GPULayers = &layers
	} else if !fits {
		return r
	}
	r.Context, r.MemoryBytes = int(c), s.at(n, c)
	return r
}

// chooseContext is the given one, or a usual one for each slot, more where the reservation (without one: the free
// memory) has room for it, at most what the model was trained for. fits says that all of it has room beside n layers.
func (s shape) chooseContext(n, given, free, reserved, trained int64) (c int64, fits bool) {
	if given > 0 {
		return given, s.at(n, given) <= free
	}
	each := int64(usualContext)
	if trained > 0 {
		each = min(each, trained)
	}
	c = each * s.slots
	if s.at(n, c) > free { // slots get less than usual before layers leave the device, all together not
		c = max(s.context(n, free), min(c, usualContext))
		return c, s.at(n, c) <= free
	}
	most := s.context(n, free)
	if reserved > 0 {
		most = min(most, s.context(n, reserved))
	}
	return max(c, min(most, trained*s.slots)), true
}

func fitVLLM(r SpawnRequest, spec Spec, m hiveapi.Model, use []Device) SpawnRequest {
	total := int64(0)
	for _, d := range use {
		if d.Backend == "cpu" || d.MemoryTotal <= 0 {
			return r
		}
		if total == 0 || d.MemoryTotal < total {
			total = d.MemoryTotal
		}
	}
	if m.SizeBytes <= 0 || r.MemoryBytes <= 0 || decided(r, spec, "", "--gpu-memory-utilization", "--kv-cache-memory-bytes", "--cpu-offload-gb") {
		return r
	}
	n := int64(len(use))
	want := max(r.MemoryBytes, m.SizeBytes+m.SizeBytes/5+vllmMargin*n)
	percent := min(95, (want*100+n*total-1)/(n*total))
	r.Args = append(slices.Clone(r.Args), "--gpu-memory-utilization", strconv.FormatFloat(float64(percent)/100, 'f', 2, 64))
	r.MemoryBytes = total / 100 * percent * n
	return r
}
