package hiveapi

// EventKind names what an Event carries.
type EventKind string

// The kinds of event on the watch stream.
const (
	EventState   EventKind = "state"       // the whole State: first on every stream
	EventWorker  EventKind = "worker"      // one worker that is new or has changed
	EventGone    EventKind = "worker_gone" // a worker that is no more
	EventModel   EventKind = "model"       // one model that is new or has changed
	EventNoModel EventKind = "model_gone"  // a model that is no longer on the hive
	EventDevices EventKind = "devices"     // all devices and the disk
	EventBeat    EventKind = "beat"        // nothing has changed; the hive is well
	EventSpan    EventKind = "span"        // work that was done for a traced request
)

// Event is one message of the watch stream. State is set for EventState, Worker for EventWorker and EventGone, Model
// for EventModel and EventNoModel, Devices and Disk for EventDevices and EventBeat, Span for EventSpan.
type Event struct {
	Kind    EventKind `json:"kind"`
	Node    string    `json:"node"`
	ID      string    `json:"id"`
	Epoch   uint64    `json:"epoch"`
	Seq     uint64    `json:"seq"`
	State   *State    `json:"state,omitempty"`
	Worker  *Worker   `json:"worker,omitempty"`
	Model   *Model    `json:"model,omitempty"`
	Devices []Device  `json:"devices,omitempty"`
	Disk    *Disk     `json:"disk,omitempty"`
	Span    *Span     `json:"span,omitempty"`
}

// Apply brings a copy of the hive's state up to date with ev. It returns false when ev is older than s and changed
// nothing.
func (s *State) Apply(ev Event) bool {
	if ev.Epoch < s.Epoch || ev.Epoch == s.Epoch && ev.Seq < s.Seq {
		return false
	}
	switch ev.Kind {
	case EventState:
		if ev.State == nil {
			return false
		}
		*s = *ev.State
		return true
	case EventWorker, EventGone:
		if ev.Worker == nil {
			return false
		}
		s.Workers = put(s.Workers, *ev.Worker, ev.Kind == EventGone, func(w Worker) string { return w.WorkerID })
	case EventModel, EventNoModel:
		if ev.Model == nil {
			return false
		}
		s.Models = put(s.Models, *ev.Model, ev.Kind == EventNoModel, func(m Model) string { return m.ModelRef })
	}
	if ev.Devices != nil {
		s.Devices = ev.Devices
	}
	if ev.Disk != nil {
		s.Disk = *ev.Disk
	}
	s.Epoch, s.Seq = ev.Epoch, ev.Seq
	return true
}

// put returns a new slice, so that copies of the old state that somebody still holds do not change.
func put[T any](list []T, v T, remove bool, key func(T) string) []T {
	out := make([]T, 0, len(list)+1)
	found := false
	for _, old := range list {
		if key(old) != key(v) {
			out = append(out, old)
			continue
		}
		found = true
		if !remove {
			out = append(out, v)
		}
	}
	if !found && !remove {
		out = append(out, v)
	}
	return out
}
