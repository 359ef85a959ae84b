// Package main measures the queue and its journal beside goqite, River and a plain prepared writer, all on SQLite
// with an fsync per commit, in one run on one disk. run.sh calls it; docs/benchmarks.md keeps a result.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// payload is what every job carries.
func payload() []byte { return []byte(strings.Repeat("x", 256)) }

// bench runs the parts.
type bench struct {
	out  io.Writer
	dir  string
	d    time.Duration
	n    int
	fail int
}

func main() {
	d := flag.Duration("d", 2*time.Second, "length of one measurement")
	rounds := flag.Int("rounds", 3, "measurements of each kind; the median counts")
	only := flag.String("only", "", "parts to run: enqueue,work,latency,claim,ready,journal (all when empty)")
	dir := flag.String("dir", "", "directory for the databases (a temporary one when empty)")
	flag.Parse()
	b := &bench{out: os.Stdout, d: *d, n: *rounds, dir: *dir}
	if err := b.run(context.Background(), *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if b.fail > 0 {
		fmt.Fprintf(b.out, "\n%d figure(s) missed\n", b.fail)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "rbee-bench-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.dir = dir
	}
	fmt.Fprintf(b.out, "| figure | ours | anchor | ratio | wanted | |\n|---|---|---|---|---|---|\n")
	for _, part := range []struct {
		name string
		fn   func(context.Context) error
	}{{"enqueue", b.enqueue}, {"work", b.work}, {"latency", b.latency}, {"claim", b.claim}, {"ready", b.ready}, {"journal", b.journal}} {
		if only == "" || strings.Contains(only, part.name) {
			if err := part.fn(ctx); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}

// row prints one figure.
func (b *bench) row(name, ours, anchor string, ratio float64, wanted string, ok bool) {
	verdict := "met"
	if !ok {
		verdict = "missed"
		b.fail++
	}
	fmt.Fprintf(b.out, "| %s | %s | %s | %.2f | %s | %s |\n", name, ours, anchor, ratio, wanted, verdict)
}

// path is a fresh database file.
func (b *bench) path(name string) (string, func(), error) {
	dir, err := os.MkdirTemp(b.dir, name+"-*")
	return filepath.Join(dir, "db"), func() { _ = os.RemoveAll(dir) }, err
}

// rate lets callers call fn in a loop for a while and returns calls per second.
func rate(callers int, d time.Duration, fn func(caller int) error) (float64, error) {
	var n atomic.Int64
	var mu sync.Mutex
	var first error
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(d)
	for c := range callers {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := fn(c); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(start).Seconds(), first
}

func median[T int | float64 | time.Duration](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func perSecond(v float64) string { return fmt.Sprintf("%.0f/s", v) }

// cpu is the time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
