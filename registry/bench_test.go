package registry_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/registry"
)

// fleet makes a registry with n workers, eight to a hive, and one report per hive.
func fleet(b *testing.B, n int) (*registry.Registry, []registry.Report) {
	b.Helper()
	ctx := context.Background()
	r, err := registry.New(ctx, registry.NewMemoryStore(), registry.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	reports := make([]registry.Report, n/8)
	for h := range reports {
		name := fmt.Sprintf("hive-%04d", h)
		if err := r.Put(ctx, registry.Hive{Name: name, Mode: registry.ModeLocal}); err != nil {
			b.Fatal(err)
		}
		reports[h] = registry.Report{Node: name, Epoch: 1, Full: true, Devices: []registry.Device{{ID: "gpu0", Backend: "cuda", MemoryTotal: 24 << 30, MemoryFree: 20 << 30}}}
		for w := range 8 {
			reports[h].Workers = append(reports[h].Workers, registry.Worker{ID: fmt.Sprintf("w-%04d-%d", h, w), Model: "llama3", ModelRef: "hf:o/r", Engine: "llama.cpp",
				Protocol: "openai", Address: "127.0.0.1:4000", State: registry.WorkerIdle, SlotsTotal: 4, SlotsFree: 4, Capabilities: []string{"chat"}})
		}
	}
	apply(b, r, reports, 1)
	return r, reports
}

// apply is one second of a fleet in which every worker changes: one report a hive.
func apply(b *testing.B, r *registry.Registry, reports []registry.Report, seq uint64) {
	for i := range reports {
		reports[i].Seq = seq
		for w := range reports[i].Workers {
			reports[i].Workers[w].SlotsFree = int(seq) % 4
		}
		if err := r.Apply(reports[i]); err != nil {
			b.Fatal(err)
		}
		r.Snapshot() // a scheduler that looks after every report
	}
}

// cpu is the processor time of this process, the garbage collector's included: a busy machine doesn't change it.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSecond is the work of one second: %core is what it costs of a core.
func BenchmarkSecond(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, reports := fleet(b, n)
			b.ReportAllocs()
			b.ResetTimer()
			spent := cpu()
			for i := range b.N {
				apply(b, r, reports, uint64(i+2))
			}
			b.ReportMetric(float64(cpu()-spent)/float64(b.N)/1e7, "%core")
		})
	}
}

// BenchmarkSingles is the same second with each worker's change in a report of its own, and a snapshot after each.
func BenchmarkSingles(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, reports := fleet(b, n)
			seq := uint64(1)
			b.ReportAllocs()
			b.ResetTimer()
			spent := cpu()
			for i := range b.N {
				seq++
				for _, full := range reports {
					for w := range full.Workers {
						one := registry.Report{Node: full.Node, Epoch: 1, Seq: seq*8 + uint64(w), Workers: full.Workers[w : w+1]}
						one.Workers[0].SlotsFree = i % 4
						if err := r.Apply(one); err != nil {
							b.Fatal(err)
						}
						r.Snapshot()
					}
				}
			}
			b.ReportMetric(float64(cpu()-spent)/float64(b.N)/1e7, "%core")
		})
	}
}

// BenchmarkSnapshot builds a snapshot after a change of a worker and of a hive.
func BenchmarkSnapshot(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, _ := fleet(b, n)
			b.ReportAllocs()
			b.ResetTimer()
			spent := cpu()
			for i := range b.N {
				if err := r.SetWorkerState("w-0001-1", []registry.WorkerState{registry.WorkerIdle, registry.WorkerBusy}[i%2], ""); err != nil {
					b.Fatal(err)
				}
				if err := r.SetStatus("hive-0001", []registry.Status{registry.StatusOnline, registry.StatusSuspect}[i%2], ""); err != nil {
					b.Fatal(err)
				}
				r.Snapshot()
			}
			b.ReportMetric(float64(cpu()-spent)/float64(b.N)/1e3, "cpu-us/op")
		})
	}
}

// BenchmarkSnapshotUnchanged is what each request pays while nothing changes.
func BenchmarkSnapshotUnchanged(b *testing.B) {
	r, _ := fleet(b, 1000)
	r.Snapshot()
	b.ResetTimer()
	for range b.N {
		r.Snapshot()
	}
}
