package scheduler

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// benchFleet is a scheduler over n workers of one model, warmed with conversations.
func benchFleet(n int) (*Scheduler, []*Job) {
	snap := &Snapshot{Version: 1}
	for i := range n {
		snap.Workers = append(snap.Workers, Worker{ID: fmt.Sprintf("w%d", i), Node: fmt.Sprintf("n%d", i/8), Model: "m", Slots: 8, PrefillRate: 8000, DecodeRate: 50})
	}
	for i := range (n + 7) / 8 {
		snap.Hives = append(snap.Hives, Hive{Name: fmt.Sprintf("n%d", i)})
	}
	s := New(SourceFunc(func() *Snapshot { return snap }), Options{})
	jobs := make([]*Job, 256)
	for i := range jobs {
		j := &Job{ID: fmt.Sprintf("j%d", i), Model: "m", PromptTokens: 4096, MaxTokens: 100, Submitted: time.Now()}
		for b := range 8 {
			j.Blocks = append(j.Blocks, uint64(i/4*1000+b+1)*0x9e3779b97f4a7c15)
		}
		j.Blocks[7] += uint64(i)
		jobs[i] = j
	}
	ctx := context.Background()
	for _, j := range jobs {
		_, rel, _ := s.Place(ctx, j)
		rel.Done()
	}
	return s, jobs
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("workers=%d", n), func(b *testing.B) {
			s, jobs := benchFleet(n)
			b.ReportAllocs()
			begin := cpu(b)
			defer func() { reportCPU(b, begin) }()
			for i := 0; b.Loop(); i++ {
				if d := s.Decide(jobs[i&255]); d.Action == Reject {
					b.Fatal(d.Reason)
				}
			}
		})
	}
}

// cpu is the processor time that this process has used: on a shared machine, what a decision costs.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportCPU(b *testing.B, begin time.Duration) {
	b.ReportMetric(float64(cpu(b)-begin)/float64(b.N), "cpu-ns/op")
}

// BenchmarkFlat is the same decision with every worker looked at.
func BenchmarkFlat(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("workers=%d", n), func(b *testing.B) {
			s, jobs := benchFleet(n)
			s.pick.laid = flatLimit + 1
			b.ReportAllocs()
			begin := cpu(b)
			defer func() { reportCPU(b, begin) }()
			for i := 0; b.Loop(); i++ {
				if d := s.Decide(jobs[i&255]); d.Action == Reject {
					b.Fatal(d.Reason)
				}
			}
		})
	}
}

func BenchmarkPlaceRelease(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("workers=%d", n), func(b *testing.B) {
			s, jobs := benchFleet(n)
			ctx := context.Background()
			b.ReportAllocs()
			begin := cpu(b)
			defer func() { reportCPU(b, begin) }()
			for i := 0; b.Loop(); i++ {
				_, rel, err := s.Place(ctx, jobs[i&255])
				if err != nil {
					b.Fatal(err)
				}
				rel.Done()
			}
		})
	}
}
