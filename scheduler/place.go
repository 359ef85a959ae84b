package scheduler

import (
	"slices"
	"strings"
	"time"
)

// placement is one way to load a model.
type placement struct {
	h       *hive
	devs    []*device
	evict   []string
	penalty time.Duration
	load    time.Duration
	idle    int64 // when the evicted were last used
	left    int64 // smallest share left free on a device
	tight   bool  // leaves less than the headroom
}

func (s *Scheduler) need(job *Job) Need {
	n := job.Need
	if n.Memory == 0 && n.LoadTime == 0 && n.LoadBytes == 0 {
		n = s.snap.Needs[job.Model]
	}
	n.Devices, n.Slots = max(n.Devices, 1), max(n.Slots, 1)
	return n
}

// loadTime expects how long a load takes: what earlier ones took, what the need says, or size over bandwidth.
func (s *Scheduler) loadTime(m *model, n Need, h *hive) time.Duration {
	if h != nil {
		if p := s.speeds[speedKey{h.Name, "", m.name}]; p != nil && p.loadTime > 0 {
			return time.Duration(p.loadTime * 1e9)
		}
	}
	if n.LoadTime > 0 {
		return n.LoadTime
	}
	size, rate := n.LoadBytes, s.opts.LoadRate
	if size == 0 {
		size = n.Memory
	}
	if h != nil && h.Bandwidth > 0 {
		rate = h.Bandwidth
	}
	return time.Duration(float64(size) / rate * 1e9)
}

// hiveBarred says why a hive can't load the job's model; "" when it can.
func hiveBarred(h *hive, job *Job) string {
	switch {
	case job.Node != "" && h.Name != job.Node:
		return "not the node that the job names"
	case !hasLabels(h, job.Labels):
		return "lacks a label that the job wants"
	case h.State != HiveOnline:
		return h.State.String()
	}
	return ""
}

func fitsBackend(n Need, d *device) bool {
	return len(n.Backends) == 0 || slices.Contains(n.Backends, d.Backend)
}

// place finds the best placement: one that evicts nothing where there is one, on a device that it fills
// best without using up the headroom; else the cheapest eviction.
func (s *Scheduler) placing(job *Job, m *model, n Need, now int64, replica bool) (placement, bool) {
	var best placement
	found := false
	for _, h := range s.hiveList {
		if hiveBarred(h, job) != "" {
			continue
		}
		if p, ok := s.roomOn(h, m, n); ok && (!found || betterPlace(&p, &best)) {
			best, found = p, true
		}
	}
	if found || s.opts.Evictor == nil {
		return best, found
	}
	for _, h := range s.hiveList {
		if hiveBarred(h, job) != "" {
			continue
		}
		for _, d := range h.devs {
			if p, ok := s.evictOn(h, d, m, n, now, replica); ok && (!found || betterPlace(&p, &best)) {
				best, found = p, true
			}
		}
	}
	return best, found
}

func betterPlace(a, b *placement) bool {
	if a.tight != b.tight {
		return !a.tight
	}
	ca, cb := a.load+a.penalty, b.load+b.penalty
	if d := ca - cb; d > 250*time.Millisecond || d < -250*time.Millisecond {
		return d < 0
	}
	if len(a.evict) != len(b.evict) {
		return len(a.evict) < len(b.evict)
	}
	if a.idle != b.idle {
		return a.idle < b.idle
	}
	return a.left < b.left
}

// roomOn finds the devices of one hive that fit without an eviction, the fullest first.
func (s *Scheduler) roomOn(h *hive, m *model, n Need) (placement, bool) {
	share := n.Memory / int64(n.Devices)
	var fits []*device
	for _, d := range h.devs {
		if fitsBackend(n, d) && d.available() >= share {
			fits = append(fits, d)
		}
	}
	if len(fits) < n.Devices {
		return placement{}, false
	}
	tight := func(d *device) bool {
		return d.available()-share < int64(s.opts.Headroom*float64(max(d.Total, d.Free)))
	}
	slices.SortStableFunc(fits, func(a, b *device) int {
		if ta, tb := tight(a), tight(b); ta != tb {
			if tb {
				return -1
			}
			return 1
		}
		return cmp(a.available(), b.available())
	})
	fits = fits[:n.Devices]
	last := fits[len(fits)-1]
	return placement{h: h, devs: fits, load: s.loadTime(m, n, h), left: fits[0].available() - share, tight: tight(last)}, true
}

func cmp(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// evictOn asks the evictor what to stop on one device. Only idle, unpinned, owned workers that nobody
// waits for are offered: first those that their model can spare because it has another, then the rest.
func (s *Scheduler) evictOn(h *hive, d *device, m *model, n Need, now int64, replica bool) (placement, bool) {
	if !fitsBackend(n, d) || n.Devices > 1 || max(d.Total, d.Free) < n.Memory {
		return placement{}, false
	}
	lack := n.Memory - d.available()
	for _, all := range [...]bool{false, true} {
		candidates := s.victims[:0]
		for _, w := range d.workers {
			if s.evictable(w) == "" && w.model != m && s.spare(w, m, now, all, replica) {
				candidates = append(candidates, w.Worker)
				candidates[len(candidates)-1].LastUsed = s.at(max(w.lastUse, 0))
			}
		}
		s.victims = candidates
		ids, penalty, ok := s.opts.Evictor.Plan(h.Name, d.ID, lack, slices.Clone(candidates))
		if ok && s.sound(ids, candidates, lack) {
			if !all {
				penalty = 0 // its model stays loaded elsewhere
			}
			p := placement{h: h, devs: []*device{d}, evict: ids, penalty: penalty, load: s.loadTime(m, n, h)}
			for _, id := range ids {
				p.idle = max(p.idle, s.workers[id].lastUse)
			}
			return p, true
		}
	}
	return placement{}, false
}

// evictable says why a worker must not be stopped; "" when it may be.
func (s *Scheduler) evictable(w *worker) string {
	switch {
	case w.External:
		return "not ours"
	case w.Pinned || w.model.need.Pin:
		return "pinned"
	case w.inflight > 0:
		return "busy"
	case w.evicting > 0:
		return "about to be stopped already"
	case w.State == WorkerLoading:
		return "loading"
	}
	return ""
}

// spare says that a worker's model can do without it for now: hysteresis against thrash. A further worker
// of a loaded model (a replica) must not push out another model's last one that is in use now and then.
func (s *Scheduler) spare(w *worker, by *model, now int64, all, replica bool) bool {
	left := s.usable(w.model)
	if w.why != "" || w.drainFor == by.name {
		return true
	}
	if w.model.waiting > 0 || left <= w.model.need.Workers {
		return false
	}
	if left > 1 {
		return !replica || now-w.lastUse > s.turn(w)
	}
	if idle := now - w.lastUse; idle < s.linger(w) && !s.overdue(by) {
		return false
	}
	return all && (!replica || now-w.lastUse > 4*s.turn(w))
}

// linger is how long a worker that has just fallen idle is spared: its next request is often near, and the longer
// the line, the more a load costs. A caller that doesn't come back by itself can't be made to wait for it.
func (s *Scheduler) linger(w *worker) int64 {
	if s.pace.off || s.opts.Eager {
		return 0
	}
	pressure := min(max(float64(s.lineLen-3)/8, 0), 1) * min(max(float64(s.lineLen)/16, 1), 5)
	return int64(s.opts.Weights.Linger * pressure * float64(s.loadTime(w.model, w.model.need, w.hive)))
}

// overdue says that a model without a worker has waited longer than is usual before a load: then it waits for no
// idle worker's next request. So lingering saves loads where nobody minds, and the longest waits don't grow.
func (s *Scheduler) overdue(m *model) bool {
	return s.coldAge > 0 && float64(m.oldest) > overdueAge*s.coldAge
}

// overdueAge is how many times the usual wait for a load is too long.
const overdueAge = 1.1

// usable counts a model's ready workers.
func (s *Scheduler) usable(m *model) int {
	n := 0
	for _, w := range m.workers {
		if w.why == "" && w.evicting == 0 {
			n++
		}
	}
	return n
}

// sound checks an evictor's answer: known candidates only, and enough of them.
func (s *Scheduler) sound(ids []string, candidates []Worker, lack int64) bool {
	var freed int64
	for i, id := range ids {
		k := slices.IndexFunc(candidates, func(w Worker) bool { return w.ID == id })
		if k < 0 || slices.Contains(ids[:i], id) {
			return false
		}
		freed += candidates[k].Memory / int64(strings.Count(candidates[k].Device, ",")+1)
	}
	return freed >= lack
}

func (s *Scheduler) devicesOf(node, device string, dst []*device) []*device {
	for id := range strings.SplitSeq(device, ",") {
		if d := s.devices[node+"/"+id]; d != nil {
			dst = append(dst, d)
		}
	}
	return dst
}

func (s *Scheduler) provision(d Decision, p *placement) Decision {
	d.Action, d.Node, d.Evict = Provision, p.h.Name, p.evict
	names := make([]string, len(p.devs))
	for i, dev := range p.devs {
		names[i] = dev.ID
	}
	d.Device = strings.Join(names, ",")
	d.Estimate = p.load + p.penalty
	d.Reason = "loading is expected to be sooner than waiting"
	return d
}

// loading says that a worker of the model is on its way, and when it is expected.
func (m *model) loading(now int64) (bool, time.Duration) {
	n := m.loads
	for _, w := range m.workers {
		if w.State == WorkerLoading {
			n++
		}
	}
	return n > 0, time.Duration(max(m.loadUntil-now, int64(100*time.Millisecond)))
}

// grow decides for a job that no worker can take now: wait for one, or load another.
func (s *Scheduler) grow(d Decision, job *Job, m *model, wait *fit, now int64) Decision {
	n := s.need(job)
	loading, eta := m.loading(now)
	if wait.w != nil && wait.wait < never/2 {
		d.Reason, d.Wait = "every worker of the model is busy", time.Duration(wait.wait)
		if loading || !m.known && job.Need.Memory == 0 || !s.justified(m, n, wait.wait, now) {
			return d
		}
		if p, ok := s.placing(job, m, n, now, true); ok && s.pays(&p, wait.wait) {
			return s.provision(d, &p)
		}
		return d
	}
	if loading {
		d.Reason, d.Wait = "the model is loading", eta
		return d
	}
	if !m.known && job.Need.Memory == 0 {
		return s.unserved(d, job, m)
	}
	if !job.Deadline.IsZero() && now+int64(s.loadTime(m, n, nil)) > s.since(job.Deadline) {
		d.Action, d.Code = Reject, CodeDeadline
		d.Reason = "the model is not loaded and can't be before the job's deadline; send it again with a later one"
		return d
	}
	if p, ok := s.placing(job, m, n, now, false); ok {
		d = s.provision(d, &p)
		d.Reason = "no worker has the model"
		return d
	}
	return s.noRoom(d, job, n)
}

// justified says that a model's line is long enough for one more worker: waiting must cost clearly more
// than loading, and the last load must have had time to help.
func (s *Scheduler) justified(m *model, n Need, wait, now int64) bool {
	load := int64(s.loadTime(m, n, nil))
	return wait > 2*load && now-m.lastLoad > 2*load && s.roomForAll(m, n, now)
}

// roomForAll says that one more worker of m leaves room for the models that were asked for of late and
// have none; otherwise it would soon be swapped out again.
func (s *Scheduler) roomForAll(m *model, n Need, now int64) bool {
	var free, owed int64
	for _, d := range s.devices {
		free += d.available()
	}
	for _, o := range s.models {
		if o != m && o.known && o.lastArrival > 0 && now-o.lastArrival < int64(30*time.Minute) && s.usable(o) == 0 && o.loads == 0 {
			owed += o.need.Memory
		}
	}
	return owed == 0 || free >= owed+n.Memory
}

func (s *Scheduler) pays(p *placement, wait int64) bool {
	return int64(p.load+p.penalty) < wait*3/4
}

// unserved is for a model that has only workers that can't take the job, and can't be loaded.
func (s *Scheduler) unserved(d Decision, job *Job, m *model) Decision {
	for _, w := range m.workers {
		if !w.gone && w.State != WorkerFailed && !slices.Contains(job.Exclude, w.ID) &&
			(job.Node == "" || job.Node == w.Node) && (len(job.Labels) == 0 || hasLabels(w.hive, job.Labels)) {
			d.Reason, d.Wait = "the model's workers are out of service for now", time.Second
			return d
		}
	}
	d.Action, d.Code = Reject, CodeNoHive
	d.Reason = "no worker of this model may take the job (its node, labels, or earlier failures there) and none can be loaded; relax the job's constraints or start a worker"
	return d
}

// noRoom tells apart what time may mend (queue) from what it can't (reject).
func (s *Scheduler) noRoom(d Decision, job *Job, n Need) Decision {
	share := n.Memory / int64(n.Devices)
	var online, later, couldFit bool
	for _, h := range s.hiveList {
		why := hiveBarred(h, job)
		if why == "starting" || why == "suspect" {
			later = true
		}
		if why != "" {
			continue
		}
		online = true
		fits := 0
		for _, dev := range h.devs {
			if fitsBackend(n, dev) && s.reclaimable(dev) >= share {
				fits++
			}
		}
		couldFit = couldFit || fits >= n.Devices
	}
	switch {
	case couldFit:
		d.Reason, d.Wait = "waiting for memory that other models use", time.Second
	case later:
		d.Reason, d.Wait = "waiting for a hive to come online", time.Second
	case online:
		d.Action, d.Code = Reject, CodeInsufficientVRAM
		d.Reason = "no device can hold the model"
	default:
		d.Action, d.Code = Reject, CodeNoHive
		d.Reason = "no online hive may load this model; start one (rbee hive start), or relax the job's node and labels"
	}
	return d
}

// reclaimable is what a device could offer at best: what is free and what unpinned workers and loads hold.
func (s *Scheduler) reclaimable(d *device) int64 {
	best := d.available() + d.reserved
	for _, w := range d.workers {
		if s.opts.Evictor != nil && !w.External && !w.Pinned && !w.model.need.Pin && w.evicting == 0 {
			best += w.Memory / int64(len(w.devs))
		}
	}
	return best
}
