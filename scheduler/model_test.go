package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// house is a fleet in simulated time that checks every decision against its own books.
type house struct {
	t       *testing.T
	now     time.Time
	snap    *Snapshot
	s       *Scheduler
	rng     *rand.Rand
	running map[string]string // job -> worker
	rel     map[string]Release
	loads   []load
	line    []*Job
	log     []string
	made    int
	oldest  map[string]time.Time
	dropped int
}

type load struct {
	model, node, device string
	memory              int64
	rel                 Release
	due                 time.Time
}

const gib = int64(1 << 30)

func newHouse(t *testing.T, seed uint64) *house {
	h := &house{t: t, now: time.Unix(0, 0), rng: rand.New(rand.NewPCG(seed, 1)), running: map[string]string{}, rel: map[string]Release{}, oldest: map[string]time.Time{}}
	h.snap = &Snapshot{Version: 1, Needs: map[string]Need{}}
	for m := range 5 {
		h.snap.Needs[fmt.Sprint("m", m)] = Need{Memory: int64(4+m%3) * gib, LoadTime: 3 * time.Second, Slots: 1 + m%3, Pin: m == 4}
	}
	for i := range 3 {
		h.snap.Hives = append(h.snap.Hives, Hive{Name: fmt.Sprint("h", i), Devices: []Device{{ID: "0", Total: 11 * gib, Free: 11 * gib}, {ID: "1", Total: 6 * gib, Free: 6 * gib}}})
	}
	h.s = New(SourceFunc(func() *Snapshot { return h.snap }), Options{Now: func() time.Time { return h.now }, Seed: seed, Evictor: lruEvictor{}})
	return h
}

type lruEvictor struct{}

func (lruEvictor) Plan(_, _ string, need int64, c []Worker) (ids []string, penalty time.Duration, ok bool) {
	slices.SortStableFunc(c, func(a, b Worker) int { return a.LastUsed.Compare(b.LastUsed) })
	for _, w := range c {
		if need <= 0 {
			break
		}
		ids, need, penalty = append(ids, w.ID), need-w.Memory, penalty+time.Second
	}
	return ids, penalty, need <= 0
}

// publish makes the next snapshot of these workers.
func (h *house) publish(workers []Worker) {
	next := &Snapshot{Version: h.snap.Version + 1, Workers: workers, Needs: h.snap.Needs}
	for _, hv := range h.snap.Hives {
		hv.Devices = slices.Clone(hv.Devices)
		for i := range hv.Devices {
			d := &hv.Devices[i]
			d.Free = d.Total
			for _, w := range workers {
				if w.Node == hv.Name && w.Device == d.ID {
					d.Free -= w.Memory
				}
			}
		}
		next.Hives = append(next.Hives, hv)
	}
	h.snap = next
}

// carry checks a decision and carries it out; true takes the job out of the line.
func (h *house) carry(j *Job, d Decision, rel Release) bool {
	h.log = append(h.log, fmt.Sprint(j.ID, d.Action, d.Worker, d.Node, d.Device, d.Evict))
	switch d.Action {
	case Route:
		k := slices.IndexFunc(h.snap.Workers, func(w Worker) bool { return w.ID == d.Worker })
		if k < 0 {
			h.t.Fatalf("routed to %s, which is not there", d.Worker)
		}
		w := h.snap.Workers[k]
		n := 0
		for _, id := range h.running {
			if id == w.ID {
				n++
			}
		}
		if n >= w.Slots || w.Model != j.Model || w.State != WorkerReady || w.Ejected {
			h.t.Fatalf("routed %s to %+v, which runs %d", j.Model, w, n)
		}
		h.running[j.ID], h.rel[j.ID] = w.ID, rel
		return true
	case Provision:
		workers := slices.Clone(h.snap.Workers)
		for _, id := range d.Evict {
			k := slices.IndexFunc(workers, func(w Worker) bool { return w.ID == id })
			if k < 0 || h.snap.Needs[workers[k].Model].Pin || workers[k].Pinned {
				h.t.Fatalf("victim %s is pinned or unknown", id)
			}
			for job, on := range h.running {
				if on == id {
					h.t.Fatalf("victim %s is busy with %s", id, job)
				}
			}
			workers = slices.Delete(workers, k, k+1)
		}
		if len(d.Evict) > 0 {
			h.publish(workers)
		}
		l := load{j.Model, d.Node, d.Device, h.snap.Needs[j.Model].Memory, rel, h.now.Add(3 * time.Second)}
		h.loads = append(h.loads, l)
		h.memory(l)
	}
	return false
}

// memory checks the device of a load against everything on it and on its way to it.
func (h *house) memory(l load) {
	var used, total int64
	for _, hv := range h.snap.Hives {
		for _, d := range hv.Devices {
			if hv.Name == l.node && d.ID == l.device {
				total = d.Total
			}
		}
	}
	for _, w := range h.snap.Workers {
		if w.Node == l.node && w.Device == l.device {
			used += w.Memory
		}
	}
	for _, o := range h.loads {
		if o.node == l.node && o.device == l.device {
			used += o.memory
		}
	}
	if used > total {
		h.t.Fatalf("%s/%s holds %d of %d", l.node, l.device, used/gib, total/gib)
	}
}

func (h *house) step(i int) {
	h.now = h.now.Add(time.Duration(h.rng.IntN(400)) * time.Millisecond)
	switch r := h.rng.IntN(10); {
	case r < 4:
		h.submit(i)
	case r < 8 && len(h.running) > 0:
		h.finish()
	case r == 8:
		h.shake()
	}
	h.land()
	h.pick()
}

func (h *house) submit(i int) {
	j := &Job{ID: fmt.Sprint("j", i), Model: fmt.Sprint("m", h.rng.IntN(5)), PromptTokens: 100 + h.rng.IntN(5000), MaxTokens: 50, Submitted: h.now}
	for b := range h.rng.IntN(8) {
		j.Blocks = append(j.Blocks, uint64(h.rng.IntN(3)*100+b+1))
	}
	d, rel, err := h.s.Place(context.Background(), j)
	if err != nil {
		h.dropped++
		return
	}
	if !h.carry(j, d, rel) {
		h.line = append(h.line, j)
	}
}

func (h *house) finish() {
	ids := make([]string, 0, len(h.running))
	for id := range h.running {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	id := ids[h.rng.IntN(len(ids))]
	if h.rng.IntN(2) == 0 {
		h.s.FirstToken(id)
	}
	h.rel[id].Done()
	h.rel[id].Done() // twice is once
	h.s.Observe(Observation{Job: &Job{ID: id, Model: "m0"}, Worker: h.running[id], Prompt: 1000, Cached: h.rng.IntN(1000), Output: 20, TTFT: time.Second, Decode: time.Second, OK: h.rng.IntN(5) > 0})
	delete(h.running, id)
	delete(h.rel, id)
}

// shake changes a worker's state, or lets a load fail.
func (h *house) shake() {
	workers := slices.Clone(h.snap.Workers)
	if len(workers) > 0 {
		w := &workers[h.rng.IntN(len(workers))]
		w.State = []WorkerState{WorkerReady, WorkerReady, WorkerReady, WorkerSuspect, WorkerDraining}[h.rng.IntN(5)]
		w.Ejected = h.rng.IntN(6) == 0
		h.publish(workers)
	}
	if len(h.loads) > 0 && h.rng.IntN(3) == 0 {
		h.loads[0].rel.Done()
		h.loads = h.loads[1:]
	}
}

func (h *house) land() {
	for len(h.loads) > 0 && !h.loads[0].due.After(h.now) {
		l := h.loads[0]
		h.loads = h.loads[1:]
		h.made++
		h.publish(append(slices.Clone(h.snap.Workers), Worker{ID: fmt.Sprint("w", h.made), Node: l.node, Device: l.device, Model: l.model, Slots: h.snap.Needs[l.model].Slots, Memory: l.memory}))
		l.rel.Done()
	}
}

func (h *house) pick() {
	for {
		i, d, rel, err := h.s.Pick(context.Background(), h.line)
		if err != nil {
			h.t.Fatalf("pick: %v", err)
		}
		if i < 0 {
			return
		}
		if h.carry(h.line[i], d, rel) {
			h.line = slices.Delete(h.line, i, i+1)
		}
	}
}

// settle ends everything that runs and heals the fleet until the line is empty.
func (h *house) settle() {
	for round := 0; len(h.line) > 0; round++ {
		if round > 5000 {
			h.t.Fatalf("%d jobs wait for ever, the first for %s", len(h.line), h.line[0].Model)
		}
		h.now = h.now.Add(200 * time.Millisecond)
		workers := slices.Clone(h.snap.Workers)
		for i := range workers {
			workers[i].State, workers[i].Ejected = WorkerReady, false
		}
		h.publish(workers)
		if len(h.running) > 0 {
			h.finish()
		}
		h.land()
		h.pick()
	}
}

// Never over a worker's slots, never over a device's memory, never a pinned or busy victim, and no job
// waits for ever: whatever happens.
func TestModelInvariants(t *testing.T) {
	for seed := range uint64(20) {
		h := newHouse(t, seed)
		for i := range 600 {
			h.step(i)
		}
		h.settle()
	}
}

// Equal seeds give equal decisions.
func TestDeterministic(t *testing.T) {
	run := func() []string {
		h := newHouse(t, 7)
		for i := range 600 {
			h.step(i)
		}
		return h.log
	}
	a, b := run(), run()
	if !reflect.DeepEqual(a, b) {
		t.Fatal("two equal runs decided differently")
	}
}

// A stream of short jobs must not starve a long one, nor interactive ones a batch job.
func TestNobodyStarves(t *testing.T) {
	t.Run("submitted", func(t *testing.T) { nobodyStarves(t, func(now time.Time) time.Time { return now }) })
	t.Run("not said when", func(t *testing.T) { nobodyStarves(t, func(time.Time) time.Time { return time.Time{} }) })
}

func nobodyStarves(t *testing.T, submitted func(time.Time) time.Time) {
	now := time.Unix(0, 0)
	snap := &Snapshot{Version: 1, Workers: []Worker{{ID: "w", Model: "m", Slots: 1, PrefillRate: 1000, DecodeRate: 100}}}
	s := New(SourceFunc(func() *Snapshot { return snap }), Options{Now: func() time.Time { return now }})
	long := &Job{ID: "long", Model: "m", PromptTokens: 60000, Submitted: submitted(now)}
	batch := &Job{ID: "batch", Model: "m", Priority: Batch, PromptTokens: 10, Submitted: submitted(now)}
	line := []*Job{long, batch}
	seen := map[string]int{}
	for i := range 4000 {
		line = append(line, &Job{ID: fmt.Sprint(i), Model: "m", PromptTokens: 100, MaxTokens: 10, Submitted: submitted(now)})
		k, d, rel, err := s.Pick(context.Background(), line)
		if err != nil || k < 0 || d.Action != Route {
			t.Fatalf("round %d: %d %+v %v", i, k, d, err)
		}
		seen[line[k].ID] = i + 1
		line = slices.Delete(line, k, k+1)
		now = now.Add(200 * time.Millisecond)
		rel.Done()
	}
	if seen["long"] == 0 || seen["batch"] == 0 {
		t.Fatalf("starved: long %d, batch %d", seen["long"], seen["batch"])
	}
}

// A line of hundreds for a model that can't be loaded yet doesn't keep idle workers from the jobs behind, and
// once these are done it gets its turn.
func TestLongLineHidesNobody(t *testing.T) {
	t.Run("native", func(t *testing.T) { longLine(t, nil) })
	t.Run("basic", func(t *testing.T) { longLine(t, Basic{}) })
	t.Run("a policy that keeps them waiting", func(t *testing.T) { longLine(t, later{}) })
}

// later keeps the jobs of a waiting while others do.
type later struct{ Basic }

func (later) Choose(_ context.Context, v *View, job *Job) (Choice, error) {
	if job.Model == "a" && v.Waiting("b") > 0 {
		return Choice{}, nil
	}
	return Choice{Native: true}, nil
}

func longLine(t *testing.T, p Policy) {
	now := time.Unix(0, 0)
	snap := &Snapshot{Version: 1, Needs: map[string]Need{"a": {Memory: 8, LoadTime: time.Second}, "b": {Memory: 8, LoadTime: time.Second}},
		Workers: []Worker{{ID: "w", Node: "h", Device: "0", Model: "b", Memory: 8}}, Hives: []Hive{{Name: "h", Devices: []Device{{ID: "0", Total: 8}}}}}
	s := New(SourceFunc(func() *Snapshot { return snap }), Options{Now: func() time.Time { return now }, Evictor: takeAll{}, Policy: p})
	var line []*Job
	for i := range 400 {
		line = append(line, &Job{ID: fmt.Sprint("a", i), Model: "a", PromptTokens: 10, Submitted: now})
	}
	for i := range 5 {
		line = append(line, &Job{ID: fmt.Sprint("b", i), Model: "b", PromptTokens: 10, Submitted: now})
	}
	for i := range 5 {
		k, d, rel, err := s.Pick(context.Background(), line)
		if err != nil || d.Action != Route || d.Worker != "w" {
			t.Fatalf("%d: %d %+v %v", i, k, d, err)
		}
		line = slices.Delete(line, k, k+1)
		now = now.Add(time.Second)
		rel.Done()
	}
	now = now.Add(time.Minute)
	if k, d, _, err := s.Pick(context.Background(), line); err != nil || d.Action != Provision || line[k].Model != "a" || len(d.Evict) != 1 {
		t.Fatalf("%d %+v %v", k, d, err)
	}
}

// A worker that was to make way works again when nobody wants its place any more.
func TestDrainEnds(t *testing.T) {
	now := time.Unix(0, 0)
	snap := &Snapshot{Version: 1, Needs: map[string]Need{"a": {Memory: 8, LoadTime: time.Second}, "b": {Memory: 8, LoadTime: time.Second}},
		Workers: []Worker{{ID: "w", Node: "h", Device: "0", Model: "b", Memory: 8}}, Hives: []Hive{{Name: "h", Devices: []Device{{ID: "0", Total: 8}}}}}
	s := New(SourceFunc(func() *Snapshot { return snap }), Options{Now: func() time.Time { return now }, Evictor: takeAll{}})
	_, rel, err := s.Place(context.Background(), &Job{ID: "1", Model: "b", PromptTokens: 10})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour) // long past its turn
	waits := []*Job{{ID: "2", Model: "a", PromptTokens: 10, Submitted: now}}
	if k, d, _, _ := s.Pick(context.Background(), waits); k >= 0 {
		t.Fatalf("%+v", d)
	}
	if d := s.Decide(&Job{Model: "b", PromptTokens: 10}); d.Action == Route {
		t.Fatalf("it makes way and gets work still: %+v", d)
	}
	rel.Done()
	next := []*Job{{ID: "3", Model: "b", PromptTokens: 10, Submitted: now}} // the job of a was cancelled
	if k, d, _, err := s.Pick(context.Background(), next); k != 0 || d.Worker != "w" {
		t.Fatalf("%d %+v %v", k, d, err)
	}
}

// takeAll gives up every candidate.
type takeAll struct{}

func (takeAll) Plan(_, _ string, need int64, idle []Worker) (ids []string, _ time.Duration, ok bool) {
	for _, w := range idle {
		ids, need = append(ids, w.ID), need-w.Memory
	}
	return ids, 0, need <= 0
}

func TestRejections(t *testing.T) {
	now := time.Unix(100, 0)
	snap := &Snapshot{Version: 1, Needs: map[string]Need{"big": {Memory: 64 * gib, LoadTime: time.Minute}, "ok": {Memory: gib, LoadTime: time.Minute}},
		Hives: []Hive{{Name: "h", Devices: []Device{{ID: "0", Total: 24 * gib, Free: 20 * gib}}}}}
	s := New(SourceFunc(func() *Snapshot { return snap }), Options{Now: func() time.Time { return now }})
	for _, c := range []struct {
		job  Job
		code string
	}{
		{Job{Model: "nope"}, CodeModelNotFound},
		{Job{Model: "big"}, CodeInsufficientVRAM},
		{Job{Model: "ok", Node: "elsewhere"}, CodeNoHive},
		{Job{Model: "ok", Labels: map[string]string{"room": "attic"}}, CodeNoHive},
		{Job{Model: "ok", Deadline: now.Add(-time.Second)}, CodeDeadline},
		{Job{Model: "ok", Deadline: now.Add(time.Second)}, CodeDeadline},
	} {
		d, _, err := s.Place(context.Background(), &c.job)
		var r *RejectError
		if !errors.As(err, &r) || r.Code() != c.code || d.Action != Reject || d.Code != c.code {
			t.Errorf("%+v: got %v (%+v), want %s", c.job, err, d, c.code)
		}
	}
	_, _, err := s.Place(context.Background(), &Job{Model: "big"})
	want := `model "big" needs 64.0 GiB on a device and the best offer is 20.0 GiB (h/0); use a smaller quantization or context, unpin a model, or add a device`
	if err.Error() != want {
		t.Errorf("got %s", err)
	}
}
