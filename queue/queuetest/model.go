package queuetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// mortal is a store that dies: afterwards every call fails, and what was not committed by then never is.
type mortal struct {
	queue.Store
	mu   sync.Mutex
	dead bool
}

var errDead = errors.New("the process is dead")

// Apply implements queue.Store.
func (m *mortal) Apply(ctx context.Context, ops []*queue.Op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errDead
	}
	return m.Store.Apply(ctx, ops)
}

func (m *mortal) die() {
	m.mu.Lock()
	m.dead = true
	m.mu.Unlock()
}

// Model runs random histories of operations, with a clock of its own and with crashes, on a queue over the store,
// and compares every answer with a plain reference model.
func Model(t *testing.T, h Harness, seeds int) {
	t.Helper()
	lost, survived := 0, 0
	for seed := range seeds {
		c := &checker{t: t, rnd: rand.New(rand.NewPCG(uint64(seed), 7)), open: h(t), now: start(), jobs: map[string]*mjob{},
			keys: map[[2]string]string{}, pauses: map[queue.Pause]bool{}}
		c.start(false)
		for step := 0; step < 120 && !t.Failed(); step++ {
			c.step()
		}
		c.verify()
		c.q.Close()
		_ = c.store.Close()
		if t.Failed() {
			lost++
			t.Errorf("seed %d; history:\n%s", seed, c.tail())
			break
		}
		survived++
	}
	t.Logf("row model: rounds %d, survived %d, lost %d", seeds, survived, lost)
}

// mjob is a job as the reference model has it.
type mjob struct {
	queue.Job
	leases []queue.Lease // every lease it ever had; only the last may hold
	held   bool
	// maybe: the job's last change was under way at a crash: it may be there or not
	maybe bool
	acked bool // the commit of its submission was seen
}

type checker struct {
	t      *testing.T
	rnd    *rand.Rand
	open   func() (queue.Store, error)
	store  *mortal
	q      *queue.Queue
	mu     sync.Mutex // guards now: the queue's writer reads the clock too
	now    time.Time
	jobs   map[string]*mjob
	keys   map[[2]string]string
	pauses map[queue.Pause]bool
	log    []string
	lazies []*mjob // finished lazily since everything was last known to be stored
	deaths int
}

func (c *checker) clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *checker) logf(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
}

func (c *checker) tail() string {
	s := ""
	for _, l := range c.log[max(0, len(c.log)-40):] {
		s += l + "\n"
	}
	return s
}

func (c *checker) check(ok bool, format string, args ...any) {
	c.t.Helper()
	if !ok {
		c.t.Errorf(format, args...)
	}
}

const (
	modelLease     = time.Minute
	modelRetention = 168 * time.Hour
	modelWindow    = 24 * time.Hour
)

// start opens the store and a queue on it; after a crash the model's running jobs go back to the line, or come
// through Recover with new leases.
func (c *checker) start(crashed bool) {
	s, err := c.open()
	if err != nil {
		c.t.Fatalf("open: %v", err)
	}
	c.store = &mortal{Store: s}
	c.q = queue.New(c.store, queue.Options{Clock: c.clock, Lease: modelLease, Pace: -1, Retention: modelRetention})
	if !crashed {
		return
	}
	ctx := context.Background()
	if c.rnd.IntN(2) == 0 {
		c.recover(ctx)
		return
	}
	c.logf("reopen")
	_, err = c.q.Counts(ctx) // loads
	c.check(err == nil, "load: %v", err)
	for _, j := range c.jobs {
		c.resolve(j)
		if j.State == queue.Running {
			c.back(j, j.Attempt, time.Time{}, "its holder died")
		}
	}
	c.q.Sweep()
	c.sweep()
	if _, err := c.q.List(ctx, queue.Filter{Limit: 1}); err != nil { // the rescue is stored after it
		c.check(false, "list: %v", err)
	}
}

// recover reopens with Recover and adopts the leases that it gives.
func (c *checker) recover(ctx context.Context) {
	c.logf("recover")
	got, err := c.q.Recover(ctx)
	c.check(err == nil, "recover: %v", err)
	byID := map[string]queue.Job{}
	for _, j := range got {
		byID[j.ID] = j
	}
	for _, j := range c.jobs {
		if c.resolve(j); c.jobs[j.ID] == nil {
			continue
		}
		g, found := byID[j.ID]
		switch {
		case j.State == queue.Running:
			c.check(found && g.State == queue.Running && string(g.Payload) == string(j.Payload), "a running job was not recovered: %s", j.ID)
			j.leases, j.held, j.Lease = append(j.leases, g.Lease), true, g.Lease
		case c.waits(j):
			c.check(found, "a waiting job was not recovered: %s", j.ID)
		default:
			c.check(!found, "recovered what was over or held back: %s %s", j.ID, j.State)
		}
	}
	c.q.Sweep()
	c.sweep()
}

// resolve looks how a change ended that a crash interrupted.
func (c *checker) resolve(j *mjob) {
	if !j.maybe {
		return
	}
	j.maybe = false
	got, err := c.q.Get(context.Background(), j.ID)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		c.check(!j.acked, "an acknowledged job is gone: %s", j.ID)
		delete(c.jobs, j.ID)
		if k := [2]string{j.Tenant, j.IdempotencyKey}; c.keys[k] == j.ID {
			delete(c.keys, k)
		}
	case err != nil:
		c.check(false, "get: %v", err)
	case got.State.Terminal():
		c.check(len(j.leases) > 0, "a job that nobody ran is over: %s", j.ID)
		payload := j.Payload
		j.Job = got
		j.Payload = payload
		j.held = false
	case j.State.Terminal(): // its lazy finish was not stored
		j.State, j.ErrorCode, j.Completed = queue.Running, "", time.Time{}
	}
}

func (c *checker) back(j *mjob, attempt int, notBefore time.Time, reason string) {
	j.State, j.Attempt, j.NotBefore, j.Worker, j.ErrorMessage, j.held = queue.Queued, attempt, notBefore, "", reason, false
}

func (c *checker) end(j *mjob, s queue.State, code string) {
	j.State, j.ErrorCode, j.Completed, j.held = s, code, c.now, false
}

// waits says whether a job is in the line.
func (c *checker) waits(j *mjob) bool {
	if j.State != queue.Queued || j.NotBefore.After(c.now) {
		return false
	}
	for p := range c.pauses {
		if (p.Model == "" || p.Model == j.Model) && (p.Tenant == "" || p.Tenant == j.Tenant) {
			return false
		}
	}
	return true
}

// sweep does to the model what time does.
func (c *checker) sweep() {
	for _, j := range c.jobs {
		if j.State == queue.Running && j.held && !j.Lease.Until.IsZero() && !j.Lease.Until.After(c.now) {
			c.back(j, j.Attempt, time.Time{}, "its lease expired")
		}
		if j.State == queue.Queued && !j.Deadline.IsZero() && !j.Deadline.After(c.now) {
			c.end(j, queue.Failed, "DEADLINE_EXCEEDED")
		}
	}
}

// some returns a random job in one of the states, or nil.
func (c *checker) some(states ...queue.State) *mjob {
	var ids []string
	for id, j := range c.jobs {
		if slices.Contains(states, j.State) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	return c.jobs[ids[c.rnd.IntN(len(ids))]]
}

// verify compares everything.
func (c *checker) verify() {
	ctx := context.Background()
	counts := map[queue.Tally]int64{}
	for _, id := range slices.Sorted(maps.Keys(c.jobs)) {
		j := c.jobs[id]
		got, err := c.q.Get(ctx, id)
		if err != nil {
			c.check(false, "get %s: %v", id, err)
			continue
		}
		c.check(got.State == j.State && got.Attempt == j.Attempt && got.Worker == j.Worker && got.ErrorCode == j.ErrorCode &&
			got.NotBefore.Equal(j.NotBefore) && got.TokensOut == j.TokensOut && got.Completed.Equal(j.Completed),
			"get %s\n got %+v\nwant %+v", id, got, j.Job)
		want := string(j.Payload)
		if j.State.Terminal() {
			want = ""
		}
		c.check(string(got.Payload) == want, "payload of %s (%s): %q, want %q", id, j.State, got.Payload, want)
		counts[queue.Tally{State: j.State, Model: j.Model, Tenant: j.Tenant, Priority: j.Priority}]++
	}
	got, err := c.q.Counts(ctx)
	c.check(err == nil && len(got) == len(counts), "counts: %+v, want %+v (%v)", got, counts, err)
	for _, g := range got {
		n := g.N
		g.N = 0
		c.check(counts[g] == n, "count %+v: %d, want %d", g, n, counts[g])
	}
	c.verifyList(ctx)
	c.lazies = nil
	c.verifyLine(ctx)
}

func (c *checker) verifyList(ctx context.Context) {
	var f queue.Filter
	if c.rnd.IntN(2) == 0 {
		f.State = []queue.State{queue.Queued, queue.Running, queue.Complete, queue.Failed, queue.Cancelled}[c.rnd.IntN(5)]
	}
	f.Limit = 1 + c.rnd.IntN(20)
	seen := map[string]bool{}
	last := "~"
	for {
		page, err := c.q.List(ctx, f)
		if err != nil {
			c.check(false, "list: %v", err)
			return
		}
		for _, j := range page.Jobs {
			c.check(j.ID < last && !seen[j.ID], "list is out of order or repeats: %s after %s", j.ID, last)
			seen[j.ID], last = true, j.ID
			m := c.jobs[j.ID]
			c.check(m != nil && m.State == j.State, "list has %s as %s", j.ID, j.State)
		}
		if f.Cursor = page.Next; f.Cursor == "" {
			break
		}
	}
	for id, j := range c.jobs {
		c.check(seen[id] == (f.State == "" || f.State == j.State), "list %q and job %s (%s): listed %v", f.State, id, j.State, seen[id])
	}
}

// verifyLine checks who is in the line, that each tenant's jobs keep their order in a class, and that batch jobs
// get their share.
func (c *checker) verifyLine(ctx context.Context) {
	line, err := c.q.Line(ctx, 1<<20)
	c.check(err == nil, "line: %v", err)
	seen := map[string]bool{}
	last := map[[2]string]string{}
	batch, streak := 0, 0
	for _, j := range c.jobs {
		if c.waits(j) && j.Priority == queue.Batch {
			batch++
		}
	}
	for _, j := range line {
		m := c.jobs[j.ID]
		c.check(m != nil && c.waits(m) && !seen[j.ID], "%s should not be in the line (again)", j.ID)
		if m != nil {
			c.check(string(j.Payload) == string(m.Payload), "payload in line %q", j.Payload)
		}
		k := [2]string{j.Tenant, j.Priority}
		c.check(last[k] < j.ID, "a tenant's order is broken: %s after %s", j.ID, last[k])
		last[k] = j.ID
		seen[j.ID] = true
		if streak++; j.Priority == queue.Batch {
			batch, streak = batch-1, 0
		}
		c.check(batch == 0 || streak < 8, "batch jobs starve: %d interactive ones first", streak)
	}
	for id, j := range c.jobs {
		c.check(seen[id] == c.waits(j), "line and job %s (%s): %v", id, j.State, seen[id])
	}
}
