package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// scripted asks the policy and checks its choice; false means that the native policy must decide.
func (s *Scheduler) scripted(ctx context.Context, job *Job, now int64) (Decision, bool) {
	v := View{s: s, job: job, now: now}
	info := s.policy.Info()
	c, err := s.policy.Choose(ctx, &v, job)
	if err == nil && c.Native {
		return Decision{}, false
	}
	var d Decision
	if err == nil {
		d, err = s.checked(job, c, now)
	}
	if err != nil {
		s.fails.Add(1)
		if s.opts.Hooks.PolicyFailed != nil {
			s.opts.Hooks.PolicyFailed(info.Name, &PolicyError{Policy: info.Name, Err: err})
		}
		return Decision{}, false
	}
	d.Policy, d.PolicyHash = info.Name, info.Hash
	return d, true
}

// pickScripted asks the policy about the first jobs of the window in the line's order, and about a few of each
// model that is not among them.
func (s *Scheduler) pickScripted(ctx context.Context, items []item, now int64) (int, Decision, bool) {
	for k := range items {
		if m := items[k].m; m != nil && (k < scriptedWindow || m.asked < perModel) {
			m.asked++
		} else if k >= scriptedWindow {
			continue
		}
		d, ok := s.scripted(ctx, items[k].job, now)
		if !ok {
			return 0, Decision{}, false
		}
		if d.Action != Queue {
			return items[k].i, d, true
		}
	}
	return -1, Decision{Snapshot: s.snapVersion(), Reason: "the policy queues"}, true
}

const scriptedWindow = 32

// checked turns a policy's choice into a decision, or says why it can't be.
func (s *Scheduler) checked(job *Job, c Choice, now int64) (Decision, error) {
	d := s.blank(job)
	d.Action, d.Reason = c.Action, c.Reason
	if d.Reason == "" {
		d.Reason = "the policy's choice"
	}
	switch c.Action {
	case Queue:
		return d, nil
	case Reject:
		d.Code = c.Code
		if d.Code == "" {
			d.Code = CodeNoHive
		}
		return d, nil
	case Route:
		w := s.workers[c.Worker]
		if w == nil || w.Model != job.Model {
			return d, fmt.Errorf("it chose worker %q, which does not serve the job's model", c.Worker)
		}
		if why := s.barred(w, job); why != "" {
			return d, fmt.Errorf("it chose worker %q: %s", c.Worker, why)
		}
		if w.freeSlots() <= 0 || w.drainFor != "" {
			return d, fmt.Errorf("it chose worker %q, which has no free slot", c.Worker)
		}
		f := s.fitOf(job, w, now, false)
		reason := d.Reason
		d = s.route(d, &f)
		d.Reason = reason
		return d, nil
	}
	return s.checkedLoad(d, job, c, now)
}

func (s *Scheduler) checkedLoad(d Decision, job *Job, c Choice, now int64) (Decision, error) {
	m := s.models[job.Model]
	h := s.hives[c.Node]
	if m == nil || !m.known && job.Need.Memory == 0 {
		return d, errors.New("it wants to load a model that has no entry")
	}
	if h == nil {
		return d, fmt.Errorf("it chose hive %q, which does not exist", c.Node)
	}
	if why := hiveBarred(h, job); why != "" {
		return d, fmt.Errorf("it chose hive %q: %s", c.Node, why)
	}
	if loading, _ := m.loading(now); loading {
		d.Action, d.Reason = Queue, "the model is loading"
		return d, nil
	}
	n := s.need(job)
	p := placement{h: h, load: s.loadTime(m, n, h), evict: c.Evict}
	if c.Device == "" && len(c.Evict) == 0 {
		var ok bool
		if p, ok = s.roomOn(h, m, n); !ok {
			return d, fmt.Errorf("it chose hive %q, where the model does not fit", c.Node)
		}
	} else if p.devs = s.devicesOf(c.Node, c.Device, nil); len(p.devs) == 0 && len(h.devs) > 0 {
		p.devs = h.devs[:1]
	}
	var freed int64
	for i, id := range c.Evict {
		v := s.workers[id]
		if v == nil || slices.Contains(c.Evict[:i], id) || len(v.devs) == 0 || !slices.Contains(p.devs, v.devs[0]) {
			return d, fmt.Errorf("it wants to evict %q, which is not on that device", id)
		}
		if why := s.evictable(v); why != "" {
			return d, fmt.Errorf("it wants to evict %q, which is %s", id, why)
		}
		freed += v.Memory / int64(len(v.devs))
	}
	for _, dev := range p.devs {
		if dev.available()+freed < n.Memory/int64(len(p.devs)) {
			return d, fmt.Errorf("it chose device %q, where the model does not fit", dev.ID)
		}
	}
	reason := d.Reason
	d = s.provision(d, &p)
	d.Reason = reason
	return d, nil
}
