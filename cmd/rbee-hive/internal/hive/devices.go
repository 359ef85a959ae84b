package hive

import (
	"context"
	"os/exec"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// deviceWatch reads the devices. Tools that are not on this machine are looked for again once a minute only.
type deviceWatch struct {
	sims    []simDevice
	workers func() []hiveapi.Worker

	mu      sync.Mutex
	missing map[string]time.Time
}

func newDeviceWatch(sims []simDevice, workers func() []hiveapi.Worker) *deviceWatch {
	return &deviceWatch{sims: sims, workers: workers, missing: map[string]time.Time{}}
}

// list is what is there now: the real devices, then the pretended ones with what the workers on them leave free.
func (d *deviceWatch) list(ctx context.Context) []hiveapi.Device {
	out := engine.Devices(ctx, engine.DeviceOptions{Run: d.run})
	if len(d.sims) == 0 {
		return out
	}
	workers := d.workers()
	for i, s := range d.sims {
		dev := hiveapi.Device{ID: s.name, Name: "pretended device (simulator)", Backend: "sim", Index: i, MemoryTotal: s.bytes, MemoryFree: s.bytes, Utilization: -1}
		for _, w := range workers {
			for _, id := range w.Devices {
				if id == s.name && w.State != hiveapi.WorkerFailed {
					dev.MemoryFree -= w.MemoryBytes / int64(len(w.Devices))
				}
			}
		}
		dev.MemoryFree = max(dev.MemoryFree, 0)
		out = append(out, dev)
	}
	return out
}

func (d *deviceWatch) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	d.mu.Lock()
	since, gone := d.missing[name]
	d.mu.Unlock()
	if gone && time.Since(since) < time.Minute {
		return nil, exec.ErrNotFound
	}
	path, err := exec.LookPath(name)
	if err != nil {
		d.mu.Lock()
		d.missing[name] = time.Now()
		d.mu.Unlock()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, path, args...).Output()
}
