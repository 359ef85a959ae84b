package scheduler

import (
	"slices"
	"strings"
)

// worker is the scheduler's own record of a worker: the snapshot's view and what the ledger adds.
type worker struct {
	Worker
	ord      int // creation order, for stable ties
	model    *model
	devs     []*device
	hive     *hive
	why      string // "" = usable
	gone     bool
	evicting int    // reservations that are about to stop it
	drainFor string // model that waits for its memory: nothing new is sent here
	spare    bool   // stood free while the whole line preferred to wait for others: recomputing here delays nobody

	inflight  int
	busyUntil int64 // when its prefill is expected to be free
	pending   int64 // prompt tokens not yet prefilled
	res       []int32
	lastUse   int64
	since     int64          // first seen ready
	jobs      int            // dispatched so far
	known     int            // the last dispatch whose first token is known
	past      [128]prefilled // the last dispatches, by number
	cache     cache
	speed     *speed

	tree          *tree
	leaf          int32
	class         int
	indexed       bool
	onAdd, onDrop func(uint64)

	vbusy  int64 // scratch of Pick: prefill and slots with the line laid out virtually
	vcount int
	vgen   uint64
}

// model groups the workers of one model.
type model struct {
	name      string
	workers   []*worker
	need      Need
	known     bool // a need entry exists
	loads     int  // provisions under way, not yet seen in a snapshot
	loadUntil int64
	out       outputs

	waiting     int // of the last line
	taken       int // of them, in the window
	asked       int // of them, shown to the policy
	waitWork    int64
	lastLoad    int64
	lastArrival int64
	perBlock    float64 // tokens that a block stands for, learnt
	meanOwn     float64 // mean prefill, ns
	meanHold    float64 // mean time in a slot after it, ns
	reuse       reuse
	gap         float64 // mean time between arrivals, ns
	vloads      int
	trees       []*tree
	reclass     bool
	vwake       uint64
	vseen       uint64
	vspare      uint64
	vuneven     uint64
	unevenness  float64 // see uneven
	ages        int64   // what the jobs of the window have waited, in sum
	oldest      int64   // and the longest of them
}

// hive and device mirror the snapshot with what is reserved on them.
type hive struct {
	Hive
	devs []*device
}

type device struct {
	Device
	hive     *hive
	workers  []*worker
	used     int64 // by workers in the snapshot
	reserved int64 // by loads under way
	freeing  int64 // held by workers that are about to be stopped
	loads    int
}

// available is what a new worker may take.
func (d *device) available() int64 {
	free := d.Free
	if d.Total > 0 {
		free = min(free, d.Total-d.used)
	}
	return max(free+d.freeing-d.reserved, 0)
}

// sync takes the source's snapshot in when it has changed. Reservations and what was learnt stay.
func (s *Scheduler) sync() {
	snap := s.source.Snapshot()
	if snap == nil || snap == s.snap && snap.Version == s.version {
		return
	}
	s.snap, s.version, s.viewSnap = snap, snap.Version, nil
	s.recordSnapshot()
	s.syncHives(snap)
	for _, m := range s.models {
		m.workers, m.known, m.need = m.workers[:0], false, Need{}
	}
	for name, n := range snap.Needs {
		m := s.model(name)
		m.need, m.known = n, true
	}
	seen := s.seen
	clear(seen)
	for i := range snap.Workers {
		w := &snap.Workers[i]
		if !seen[w.ID] {
			seen[w.ID] = true
			s.syncWorker(w)
		}
	}
	for id, w := range s.workers {
		if !seen[id] {
			w.gone, w.why = true, "gone from the fleet"
			s.index.drop(w)
			delete(s.workers, id)
		}
	}
	s.landed()
	for _, d := range s.devices {
		d.used, d.freeing, d.workers = 0, 0, d.workers[:0]
	}
	for i := range snap.Workers { // in the snapshot's order: decisions must not depend on a map's
		w := s.workers[snap.Workers[i].ID]
		if w.ord != i {
			w.ord = i
		}
		if !slices.Contains(w.model.workers, w) || len(w.model.workers) > 64 {
			w.model.workers = appendOnce(w.model.workers, w)
		}
		s.settle(w)
	}
	for name, m := range s.models {
		clear(m.workers[len(m.workers):cap(m.workers)])
		if !m.known && len(m.workers) == 0 && m.loads == 0 && m.waiting == 0 {
			delete(s.models, name)
		} else {
			s.index.rebuild(m)
		}
	}
	for id := range s.devices {
		if d := s.devices[id]; d.hive == nil && d.reserved == 0 {
			delete(s.devices, id)
		}
	}
}

// appendOnce adds w behind a list that is built in order, so a duplicate can only be its last entry.
func appendOnce(list []*worker, w *worker) []*worker {
	if n := len(list); n > 0 && list[n-1] == w {
		return list
	}
	return append(list, w)
}

func (s *Scheduler) syncHives(snap *Snapshot) {
	for _, d := range s.devices {
		d.hive = nil
	}
	clear(s.hives)
	s.hiveList = s.hiveList[:0]
	for i := range snap.Hives {
		h := &hive{Hive: snap.Hives[i]}
		for _, dev := range h.Devices {
			key := h.Name + "/" + dev.ID
			d := s.devices[key]
			if d == nil {
				d = &device{}
				s.devices[key] = d
			}
			d.Device, d.hive = dev, h
			h.devs = append(h.devs, d)
		}
		s.hives[h.Name] = h
		s.hiveList = append(s.hiveList, h)
	}
}

func (s *Scheduler) syncWorker(in *Worker) {
	w := s.workers[in.ID]
	if w == nil || w.Model != in.Model || w.Node != in.Node {
		if w != nil {
			w.gone = true
			s.index.drop(w)
		}
		w = &worker{since: -1}
		s.workers[in.ID] = w
		s.fresh = append(s.fresh, w)
	}
	restarted := !w.Started.IsZero() && !in.Started.Equal(w.Started)
	w.Worker = *in
	w.Slots = max(in.Slots, 1)
	w.model = s.model(in.Model)
	w.hive = s.hives[in.Node]
	w.speed = s.speedOf(w)
	if restarted {
		s.index.drop(w)
	}
	w.tree = nil
	w.cache.configure(in, s.opts.IndexBlocks/max(len(s.snap.Workers), 1))
	w.why = unusable(w)
	if w.why == "" && w.since < 0 {
		w.since = s.now()
		w.lastUse = w.since
	}
}

// unusable says why a worker gets no jobs at all; "" when it may.
func unusable(w *worker) string {
	switch {
	case w.gone:
		return "gone from the fleet"
	case w.State != WorkerReady:
		return w.State.String()
	case w.Ejected:
		return "ejected after failures"
	case w.hive != nil && w.hive.State != HiveOnline:
		return hiveWhy[min(int(w.hive.State), 4)]
	}
	return ""
}

var hiveWhy = [...]string{"", "its hive is starting", "its hive is suspect", "its hive is offline", "its hive is draining"}

// settle adds a worker to its devices.
func (s *Scheduler) settle(w *worker) {
	w.devs = w.devs[:0]
	if w.External || w.Device == "" && w.Memory == 0 {
		return
	}
	for id := range strings.SplitSeq(w.Device, ",") {
		d := s.devices[w.Node+"/"+id]
		if d == nil && id == "" && w.hive != nil && len(w.hive.devs) > 0 {
			d = w.hive.devs[0]
		}
		if d != nil {
			w.devs = append(w.devs, d)
		}
	}
	for _, d := range w.devs {
		share := w.Memory / int64(len(w.devs))
		d.used += share
		if w.evicting > 0 {
			d.freeing += share
		}
		d.workers = append(d.workers, w)
	}
}

// landed matches loads under way with the workers that have just appeared: from then on the worker's
// own memory counts, no longer the reservation's.
func (s *Scheduler) landed() {
	for _, w := range s.fresh {
		for i := range s.res {
			r := &s.res[i]
			if r.live && r.action == Provision && !r.landed && r.node == w.Node && r.model == w.model &&
				(w.Device == "" || r.device == "" || w.Device == r.device) {
				s.unload(r)
				r.landed = true
				break
			}
		}
	}
	s.fresh = s.fresh[:0]
}

func (s *Scheduler) model(name string) *model {
	m := s.models[name]
	if m == nil {
		m = &model{name: name}
		s.models[name] = m
	}
	return m
}
