package scheduler

import (
	"fmt"
	"time"
)

// rejection makes the error of a rejected job, with the facts behind it.
func (s *Scheduler) rejection(job *Job, d *Decision) *RejectError {
	e := &RejectError{Reason: d.Reason, code: d.Code, facts: map[string]any{"model": job.Model}}
	switch d.Code {
	case CodeInsufficientVRAM:
		s.vramFacts(job, e)
	case CodeNoHive:
		e.retry = 10 * time.Second
		if job.Node != "" {
			e.facts["node"] = job.Node
		}
	case CodeModelNotFound:
		e.Reason = fmt.Sprintf("model %q: %s", job.Model, d.Reason)
	}
	return e
}

// vramFacts names the need and the best offer.
func (s *Scheduler) vramFacts(job *Job, e *RejectError) {
	n := s.need(job)
	var best int64
	where := "no device"
	for _, h := range s.hiveList {
		if hiveBarred(h, job) != "" {
			continue
		}
		for _, dev := range h.devs {
			if v := s.reclaimable(dev); fitsBackend(n, dev) && (v > best || where == "no device") {
				best, where = v, h.Name+"/"+dev.ID
			}
		}
	}
	share := n.Memory / int64(n.Devices)
	e.facts["need_bytes"], e.facts["best_offer_bytes"], e.facts["best_offer"] = share, best, where
	if n.Devices > 1 {
		e.facts["devices"] = n.Devices
	}
	e.Reason = fmt.Sprintf("model %q needs %s on a device and the best offer is %s (%s); use a smaller quantization or context, unpin a model, or add a device",
		job.Model, size(share), size(best), where)
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d B", n)
}
