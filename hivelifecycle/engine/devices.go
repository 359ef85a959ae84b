package engine

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DeviceOptions say how devices are found; all may be left out.
type DeviceOptions struct {
	// Run executes a tool and returns its standard output; nil = os/exec with a bound of 5 s.
	Run func(ctx context.Context, name string, args ...string) ([]byte, error)
}

func (o DeviceOptions) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if o.Run != nil {
		return o.Run(ctx, name, args...)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, name, args...).Output()
}

// Devices lists what can run a model on this machine: the CPU with the machine's memory always, then the GPUs that
// nvidia-smi, rocm-smi and system_profiler know of. Tools that are missing are passed over.
func Devices(ctx context.Context, o DeviceOptions) []Device {
	out := []Device{cpuDevice(ctx, o)}
	if b, err := o.run(ctx, "nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free,utilization.gpu,temperature.gpu", "--format=csv,noheader,nounits"); err == nil {
		if gpus, err := ParseNvidiaSMI(b); err == nil {
			out = append(out, gpus...)
		}
	}
	if b, err := o.run(ctx, "rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showuse", "--showtemp", "--showuniqueid", "--json"); err == nil {
		if gpus, err := ParseRocmSMI(b); err == nil {
			out = append(out, gpus...)
		}
	}
	if runtime.GOOS == "darwin" {
		if b, err := o.run(ctx, "system_profiler", "SPDisplaysDataType", "-json"); err == nil {
			if gpus, err := ParseSystemProfiler(b, out[0]); err == nil {
				out = append(out, gpus...)
			}
		}
	}
	return out
}

func cpuDevice(ctx context.Context, o DeviceOptions) Device {
	total, free := memory(ctx, o)
	return Device{ID: "cpu", Name: cpuName(ctx, o), Backend: "cpu", MemoryTotal: total, MemoryFree: free, Unified: true, Cores: runtime.NumCPU(), Utilization: -1}
}

// ParseNvidiaSMI reads the output of nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.free,utilization.gpu,temperature.gpu
// --format=csv,noheader,nounits. Values that a card does not have ([N/A]) are unknown; a card without its own memory
// shares the machine's.
func ParseNvidiaSMI(b []byte) ([]Device, error) {
	r := csv.NewReader(bytes.NewReader(b))
	r.FieldsPerRecord, r.TrimLeadingSpace, r.LazyQuotes = 7, true, true
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("engine: nvidia-smi: %w", err)
	}
	var out []Device
	for _, f := range rows {
		index, err := strconv.Atoi(strings.TrimSpace(f[0]))
		if err != nil || index < 0 {
			return nil, fmt.Errorf("engine: nvidia-smi: %.40q is not an index", f[0])
		}
		d := Device{ID: "cuda:" + strconv.Itoa(index), Index: index, UUID: strings.TrimSpace(f[1]), Name: strings.TrimSpace(f[2]), Backend: "cuda", Utilization: -1}
		if mib, ok := number(f[3]); ok {
			d.MemoryTotal = int64(mib) << 20
		} else {
			d.Unified = true
		}
		if mib, ok := number(f[4]); ok {
			d.MemoryFree = int64(mib) << 20
		}
		if pct, ok := number(f[5]); ok {
			d.Utilization = pct / 100
		}
		d.Temperature, _ = number(f[6])
		out = append(out, d)
	}
	return out, nil
}

// ParseRocmSMI reads the output of rocm-smi --showproductname --showmeminfo vram --showuse --showtemp --showuniqueid --json.
func ParseRocmSMI(b []byte) ([]Device, error) {
	// Warnings may stand before the JSON.
	if i := bytes.IndexByte(b, '{'); i > 0 {
		b = b[i:]
	}
	var cards map[string]map[string]any
	if err := json.Unmarshal(b, &cards); err != nil {
		return nil, fmt.Errorf("engine: rocm-smi: %w", err)
	}
	var out []Device
	for name, card := range cards {
		index, err := strconv.Atoi(strings.TrimPrefix(name, "card"))
		if err != nil {
			continue // "system"
		}
		get := func(keys ...string) string {
			for _, k := range keys {
				if v, ok := card[k].(string); ok && v != "" && v != "N/A" {
					return v
				}
			}
			return ""
		}
		d := Device{ID: "rocm:" + strconv.Itoa(index), Index: index, Backend: "rocm", Utilization: -1, UUID: get("Unique ID"),
			Name: get("Card Series", "Card series", "Card model", "Card Model", "Device Name")}
		total, _ := number(get("VRAM Total Memory (B)"))
		used, _ := number(get("VRAM Total Used Memory (B)"))
		d.MemoryTotal, d.MemoryFree = int64(total), int64(max(total-used, 0))
		if pct, ok := number(get("GPU use (%)")); ok {
			d.Utilization = pct / 100
		}
		d.Temperature, _ = number(get("Temperature (Sensor edge) (C)", "Temperature (Sensor junction) (C)"))
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Device) int { return a.Index - b.Index })
	return out, nil
}

// ParseSystemProfiler reads the output of system_profiler SPDisplaysDataType -json. An Apple GPU uses the machine's
// memory, of which the system lets it have three quarters.
func ParseSystemProfiler(b []byte, cpu Device) ([]Device, error) {
	var in struct {
		Displays []struct {
			Model  string `json:"sppci_model"`
			Vendor string `json:"spdisplays_vendor"`
			Metal  string `json:"spdisplays_mtlgpufamilysupport"`
		} `json:"SPDisplaysDataType"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("engine: system_profiler: %w", err)
	}
	var out []Device
	for _, g := range in.Displays {
		if g.Metal == "" || !strings.Contains(strings.ToLower(g.Vendor+g.Model), "apple") {
			continue
		}
		i := len(out)
		out = append(out, Device{ID: "metal:" + strconv.Itoa(i), Index: i, Name: g.Model, Backend: "metal", Unified: true, Utilization: -1,
			MemoryTotal: cpu.MemoryTotal / 4 * 3, MemoryFree: min(cpu.MemoryFree, cpu.MemoryTotal/4*3)})
	}
	return out, nil
}

func number(s string) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return f, err == nil && f >= 0 && f < 1<<60
}
