package queue_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/queuetest"
)

// mutant is a store with one deliberate fault.
type mutant struct {
	queue.Store
	kind string
	n    int
}

// mutants lists the faults; README.md repeats the list.
func mutants() map[string]string {
	return map[string]string{
		"dropped-write":   "every 9th update is acknowledged and not stored",
		"ignored-fence":   "an update is done whatever the row's fence is",
		"no-idempotency":  "idempotency keys are not kept",
		"kept-payload":    "the payload of a finished job stays",
		"cursor-overlaps": "a page begins with the last row of the one before",
		"lost-running":    "running jobs are not loaded after a restart",
		"early-purge":     "finished jobs are deleted an hour early",
	}
}

func (m *mutant) Apply(ctx context.Context, ops []*queue.Op) error {
	for _, op := range ops {
		c := *op
		switch m.kind {
		case "dropped-write":
			if op.Kind == queue.OpUpdate {
				if m.n++; m.n%9 == 0 {
					continue
				}
			}
		case "ignored-fence":
			if rec, err := m.Get(ctx, c.Record.Key); err == nil && c.Kind == queue.OpUpdate {
				c.IfFence = rec.Lease.Fence
			}
		case "no-idempotency":
			c.Record.IdempotencyKey = ""
		case "kept-payload":
			c.Scrub = false
		}
		one := []*queue.Op{&c}
		if err := m.Store.Apply(ctx, one); err != nil {
			return err
		}
		op.Err = c.Err
	}
	return nil
}

func (m *mutant) List(ctx context.Context, f queue.Filter, before int64) ([]queue.Record, error) {
	if m.kind == "cursor-overlaps" && before > 0 {
		before++
	}
	return m.Store.List(ctx, f, before)
}

func (m *mutant) Load(ctx context.Context, fn func(queue.Record) error) (queue.Snapshot, error) {
	return m.Store.Load(ctx, func(r queue.Record) error {
		if m.kind == "lost-running" && r.State == queue.Running {
			return nil
		}
		return fn(r)
	})
}

func (m *mutant) Purge(ctx context.Context, before time.Time, limit int) ([]queue.Tally, error) {
	if m.kind == "early-purge" {
		before = before.Add(time.Hour)
	}
	return m.Store.Purge(ctx, before, limit)
}

// TestMutants runs the conformance suite in a process of its own against each faulty store: it must fail there,
// and pass on the wrapper without a fault.
func TestMutants(t *testing.T) {
	const env = "RBEE_QUEUE_MUTANT"
	if kind := os.Getenv(env); kind != "" {
		queuetest.Run(t, func(t testing.TB) func() (queue.Store, error) {
			m := &mutant{Store: reopened{queue.NewMemory()}, kind: kind}
			return func() (queue.Store, error) { return m, nil }
		})
		return
	}
	run := func(kind string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMutants$")
		cmd.Env = append(os.Environ(), env+"="+kind, "RBEE_LONG=")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("none"); err != nil {
		t.Fatalf("the suite fails without a fault:\n%s", out)
	}
	for kind, what := range mutants() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			out, err := run(kind)
			if err == nil {
				t.Fatalf("the suite does not notice that %s", what)
			}
			if !strings.Contains(out, "--- FAIL: TestMutants/") {
				t.Fatalf("the suite did not fail, it broke:\n%s", out)
			}
			for _, line := range strings.Split(out, "\n") {
				if strings.Contains(line, "--- FAIL: TestMutants/") {
					t.Log(strings.TrimSpace(line))
				}
			}
		})
	}
}
