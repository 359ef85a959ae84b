package registry

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Begin says that the next report of a hive starts a new count: its epoch and sequence number are
// taken as they come. The queen calls it when she opened an authenticated connection to the hive
// herself, so that a hive whose clock or counter went back is not refused for ever.
func (r *Registry) Begin(name string) error {
	return r.edit(name, func(h *Hive) bool {
		same := h.Epoch == 0 && h.Seq == 0
		h.Epoch, h.Seq = 0, 0
		return !same
	})
}

// Apply takes a hive's word about itself. A report of an older epoch, or of the same epoch and an
// older number, is ErrStale and changes nothing; one that was applied already is accepted and changes
// nothing. Status is not touched: whether a hive is well is for a monitor to say (SetStatus).
func (r *Registry) Apply(rep Report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.hiveLocked(rep.Node)
	if !ok {
		return unknownHive(rep.Node)
	}
	switch {
	case rep.Epoch < old.Epoch, rep.Epoch == old.Epoch && rep.Seq < old.Seq:
		return &Error{Kind: ErrStale, Subject: rep.Node, Message: fmt.Sprintf(
			"epoch %d number %d is older than epoch %d number %d; send a full report of the present epoch", rep.Epoch, rep.Seq, old.Epoch, old.Seq)}
	case rep.Epoch == old.Epoch && rep.Seq == old.Seq && rep.Seq != 0:
		return nil
	case rep.Epoch > old.Epoch && !rep.Full && old.Epoch != 0:
		return &Error{Kind: ErrStale, Subject: rep.Node, Message: fmt.Sprintf("epoch %d is new: its first report must be full", rep.Epoch)}
	}
	r.applyHiveLocked(old, rep)
	return r.applyWorkersLocked(rep)
}

func (r *Registry) applyHiveLocked(old *Hive, rep Report) {
	next := *old
	now := r.now()
	durable := rep.Epoch != old.Epoch || now.Sub(old.LastSeen) > time.Minute
	next.Epoch, next.Seq, next.LastSeen = rep.Epoch, rep.Seq, now
	if rep.Version != "" && rep.Version != old.Version {
		next.Version, durable = rep.Version, true
	}
	if (rep.Full || rep.Devices != nil) && !slices.Equal(rep.Devices, old.Devices) {
		durable = durable || len(rep.Devices) != len(old.Devices)
		next.Devices = slices.Clone(rep.Devices)
	}
	if (rep.Full || rep.Models != nil) && !slices.Equal(rep.Models, old.Models) {
		next.Models, durable = slices.Clone(rep.Models), true
	}
	if rep.DiskTotal != 0 {
		next.DiskTotal, next.DiskFree = rep.DiskTotal, rep.DiskFree
	}
	r.setHiveLocked(&next, durable)
}

func (r *Registry) applyWorkersLocked(rep Report) error {
	var faults []error
	seen := make(map[string]bool, len(rep.Workers))
	for _, w := range rep.Workers {
		w.Node, w.External = rep.Node, false
		seen[w.ID] = true
		if err := checkWorker(&w); err != nil {
			faults = append(faults, err)
			continue
		}
		if err := r.mergeWorkerLocked(w); err != nil {
			faults = append(faults, err)
		}
	}
	switch {
	case rep.Full:
		r.dropWorkersLocked(rep.Node, func(w *Worker) bool { return !w.External && !seen[w.ID] })
	case len(rep.Gone) > 0:
		r.dropWorkersLocked(rep.Node, func(w *Worker) bool { return !w.External && slices.Contains(rep.Gone, w.ID) })
	}
	return errors.Join(faults...)
}

// mergeWorkerLocked takes a hive's record of a worker and keeps what only the queen knows.
func (r *Registry) mergeWorkerLocked(w Worker) error {
	if i, ok := findWorker(r.workers, w.ID); ok {
		old := r.workers[i]
		if old.Node != w.Node || old.External != w.External {
			return &Error{Kind: ErrConflict, Subject: w.ID, Message: fmt.Sprintf("this worker id belongs to hive %s; %s must use another", old.Node, w.Node)}
		}
		if old.LastUsedAt.After(w.LastUsedAt) {
			w.LastUsedAt = old.LastUsedAt
		}
		if w.PendingTokens == 0 {
			w.PendingTokens = old.PendingTokens
		}
		if w.Message == "" && w.State == old.State {
			w.Message = old.Message
		}
		if equalWorker(old, &w) {
			return nil
		}
	}
	w.Capabilities = slices.Clone(w.Capabilities)
	r.setWorkerLocked(&w)
	return nil
}

// PutWorker adds or replaces a worker that no hive reports: an external server, or one registered by hand.
func (r *Registry) PutWorker(w Worker) error {
	if err := checkWorker(&w); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !w.External {
		if _, ok := r.hiveLocked(w.Node); !ok {
			return unknownHive(w.Node)
		}
	}
	return r.mergeWorkerLocked(w)
}

// SetWorkerState changes a worker's state, for what the queen sees before the hive says so.
func (r *Registry) SetWorkerState(id string, state WorkerState, message string) error {
	if !state.valid() {
		return invalid(id, fmt.Sprintf("%q is no state of a worker", state))
	}
	return r.editWorker(id, func(w *Worker) { w.State, w.Message = state, message })
}

// RemoveWorker forgets a worker.
func (r *Registry) RemoveWorker(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := findWorker(r.workers, id)
	if !ok {
		return unknownWorker(id)
	}
	r.dropWorkersLocked(r.workers[i].Node, func(w *Worker) bool { return w.ID == id })
	return nil
}

// Touch records use of a worker: when, and how many tokens wait in it. An unknown worker is ignored,
// for it may have ended since. Time never goes back.
func (r *Registry) Touch(workerID string, lastUsed time.Time, pendingTokens int64) {
	_ = r.editWorker(workerID, func(w *Worker) {
		if lastUsed.After(w.LastUsedAt) {
			w.LastUsedAt = lastUsed
		}
		w.PendingTokens = max(0, pendingTokens)
	})
}

func (r *Registry) editWorker(id string, change func(*Worker)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, ok := findWorker(r.workers, id)
	if !ok {
		return unknownWorker(id)
	}
	next := *r.workers[i]
	change(&next)
	if !equalWorker(r.workers[i], &next) {
		r.setWorkerLocked(&next)
	}
	return nil
}

func equalWorker(a, b *Worker) bool {
	return a.ID == b.ID && a.Node == b.Node && a.Model == b.Model && a.ModelRef == b.ModelRef &&
		a.Engine == b.Engine && a.Protocol == b.Protocol && a.Address == b.Address && a.Device == b.Device &&
		a.State == b.State && a.SlotsTotal == b.SlotsTotal && a.SlotsFree == b.SlotsFree &&
		a.MemoryBytes == b.MemoryBytes && a.PendingTokens == b.PendingTokens && a.PID == b.PID &&
		a.StartedAt.Equal(b.StartedAt) && a.LastUsedAt.Equal(b.LastUsedAt) && a.External == b.External &&
		a.Message == b.Message && slices.Equal(a.Capabilities, b.Capabilities)
}

func checkWorker(w *Worker) error {
	if err := checkName(w.ID); err != nil {
		return err
	}
	if w.State == "" {
		w.State = WorkerLoading
	}
	if !w.State.valid() {
		return invalid(w.ID, fmt.Sprintf("%q is no state of a worker", w.State))
	}
	if w.SlotsTotal < 0 || w.SlotsFree < 0 || w.SlotsFree > w.SlotsTotal {
		return invalid(w.ID, fmt.Sprintf("%d free of %d slots makes no sense", w.SlotsFree, w.SlotsTotal))
	}
	return nil
}

// Counts says how many workers are in each state, for gauges.
func (s *Snapshot) Counts() map[WorkerState]int {
	n := map[WorkerState]int{}
	for _, w := range s.Workers {
		n[w.State]++
	}
	return n
}
