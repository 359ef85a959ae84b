package scriptsched

import (
	"fmt"
	"slices"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"go.starlark.net/starlark"
)

// call is one run's view of the world. What it hands to the script reads the scheduler's own records.
type call struct {
	view    *scheduler.View
	job     *scheduler.Job
	workers []scheduler.WorkerView
	hives   []scheduler.HiveView
	at      time.Time // without a view
}

func (c *call) allWorkers() []scheduler.WorkerView {
	if c.workers == nil && c.view != nil {
		c.workers = c.view.Workers()
	}
	return c.workers
}

func (c *call) allHives() []scheduler.HiveView {
	if c.hives == nil && c.view != nil {
		c.hives = c.view.Hives()
	}
	return c.hives
}

func (c *call) now() time.Time {
	if c.view == nil {
		return c.at
	}
	return c.view.Now()
}

// frozen is the part of starlark.Value that all views share: they are immutable and not hashable.
type frozen struct{}

func (frozen) Freeze()               {}
func (frozen) Truth() starlark.Bool  { return true }
func (frozen) Hash() (uint32, error) { return 0, fmt.Errorf("unhashable") }

func seconds(d time.Duration) starlark.Value { return starlark.Float(d.Seconds()) }
func integer[T int | int64](n T) starlark.Value {
	return starlark.MakeInt64(int64(n))
}

func labelsDict(m map[string]string) starlark.Value {
	d := starlark.NewDict(len(m))
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := d.SetKey(starlark.String(k), starlark.String(m[k])); err != nil {
			return starlark.None
		}
	}
	d.Freeze()
	return d
}

// jobValue is the script's job.
type jobValue struct {
	frozen
	c *call
}

func (j jobValue) String() string { return "job(" + j.c.job.ID + ")" }

// Type names it in errors.
func (j jobValue) Type() string { return "job" }

// Attr reads a field.
func (j jobValue) Attr(name string) (starlark.Value, error) {
	job := j.c.job
	switch name {
	case "id":
		return starlark.String(job.ID), nil
	case "tenant":
		return starlark.String(job.Tenant), nil
	case "model":
		return starlark.String(job.Model), nil
	case "priority":
		return starlark.String(job.Priority), nil
	case "session":
		return starlark.String(job.Session), nil
	case "node":
		return starlark.String(job.Node), nil
	case "labels":
		return labelsDict(job.Labels), nil
	case "prompt_tokens":
		return integer(job.PromptTokens), nil
	case "max_tokens":
		return integer(job.MaxTokens), nil
	case "waited":
		if job.Submitted.IsZero() {
			return starlark.Float(0), nil
		}
		return seconds(j.c.now().Sub(job.Submitted)), nil
	}
	return nil, nil
}

// AttrNames lists the fields.
func (j jobValue) AttrNames() []string {
	return []string{"id", "labels", "max_tokens", "model", "node", "priority", "prompt_tokens", "session", "tenant", "waited"}
}

// workerValue is one worker.
type workerValue struct {
	frozen
	c *call
	w *scheduler.WorkerView
}

func (w workerValue) String() string { return "worker(" + w.w.ID + ")" }

// Type names it in errors.
func (w workerValue) Type() string { return "worker" }

// Attr reads a field.
func (w workerValue) Attr(name string) (starlark.Value, error) {
	v := w.w
	switch name {
	case "id":
		return starlark.String(v.ID), nil
	case "node":
		return starlark.String(v.Node), nil
	case "model":
		return starlark.String(v.Model), nil
	case "device":
		return starlark.String(v.Device), nil
	case "state":
		return starlark.String(v.State.String()), nil
	case "slots":
		return integer(v.Slots), nil
	case "free":
		return integer(v.FreeSlots), nil
	case "active":
		return integer(v.InFlight), nil
	case "pending":
		return integer(v.PendingTokens), nil
	case "cached":
		return integer(v.Cached), nil
	case "busy":
		return seconds(v.Busy), nil
	case "ttft":
		return seconds(v.TTFT), nil
	case "cost":
		return seconds(v.Cost), nil
	case "kept":
		return starlark.Bool(v.Kept), nil
	case "why":
		return starlark.String(v.Why), nil
	case "prefill_rate":
		return starlark.Float(v.Prefill), nil
	case "decode_rate":
		return starlark.Float(v.Decode), nil
	case "memory":
		return integer(v.Memory), nil
	case "pinned":
		return starlark.Bool(v.Pinned), nil
	case "external":
		return starlark.Bool(v.External), nil
	}
	return nil, nil
}

// AttrNames lists the fields.
func (w workerValue) AttrNames() []string {
	return []string{"active", "busy", "cached", "cost", "decode_rate", "device", "external", "free", "id", "kept", "memory", "model", "node",
		"pending", "pinned", "prefill_rate", "slots", "state", "ttft", "why"}
}

// workersValue is a list of workers: all of the job's model, or those of idx. Nothing is copied.
type workersValue struct {
	frozen
	c   *call
	all bool
	idx []int32
}

func (l workersValue) String() string { return fmt.Sprintf("workers(%d)", l.Len()) }

// Type names it in errors.
func (l workersValue) Type() string { return "workers" }

// Truth is whether there are any.
func (l workersValue) Truth() starlark.Bool { return l.Len() > 0 }

// Len counts them.
func (l workersValue) Len() int {
	if l.all {
		return len(l.c.allWorkers())
	}
	return len(l.idx)
}

func (l workersValue) at(i int) *scheduler.WorkerView {
	if !l.all {
		i = int(l.idx[i])
	}
	return &l.c.allWorkers()[i]
}

func (l workersValue) pos(i int) int32 {
	if l.all {
		return int32(i)
	}
	return l.idx[i]
}

// Index is one of them.
func (l workersValue) Index(i int) starlark.Value { return workerValue{c: l.c, w: l.at(i)} }

// Iterate walks them.
func (l workersValue) Iterate() starlark.Iterator { return &iterator{l: l} }

func (l workersValue) where(keep func(*scheduler.WorkerView) bool) workersValue {
	out := workersValue{c: l.c}
	for i := range l.Len() {
		if keep(l.at(i)) {
			out.idx = append(out.idx, l.pos(i))
		}
	}
	return out
}

// best is the worker with the lowest score among those that may take the job now; None when there is none.
func (l workersValue) best(score func(*scheduler.WorkerView) float64) starlark.Value {
	var best *scheduler.WorkerView
	low := 0.0
	for i := range l.Len() {
		w := l.at(i)
		if !w.Kept {
			continue
		}
		if v := score(w); best == nil || v < low {
			best, low = w, v
		}
	}
	if best == nil {
		return starlark.None
	}
	return workerValue{c: l.c, w: best}
}

// indexed is what the iterator walks.
type indexed interface {
	Len() int
	Index(int) starlark.Value
}

type iterator struct {
	l indexed
	i int
}

// Next gives the next element.
func (it *iterator) Next(p *starlark.Value) bool {
	if it.i >= it.l.Len() {
		return false
	}
	*p = it.l.Index(it.i)
	it.i++
	return true
}

// Done ends the walk.
func (it *iterator) Done() {}

// hiveValue is one hive.
type hiveValue struct {
	frozen
	h *scheduler.HiveView
}

func (h hiveValue) String() string { return "hive(" + h.h.Name + ")" }

// Type names it in errors.
func (h hiveValue) Type() string { return "hive" }

// Attr reads a field.
func (h hiveValue) Attr(name string) (starlark.Value, error) {
	switch name {
	case "name":
		return starlark.String(h.h.Name), nil
	case "state":
		return starlark.String(h.h.State.String()), nil
	case "labels":
		return labelsDict(h.h.Labels), nil
	case "kept":
		return starlark.Bool(h.h.Kept), nil
	case "why":
		return starlark.String(h.h.Why), nil
	case "fits":
		return starlark.String(h.h.Fits), nil
	case "devices":
		return integer(len(h.h.Views)), nil
	}
	return nil, nil
}

// AttrNames lists the fields.
func (h hiveValue) AttrNames() []string {
	return []string{"devices", "fits", "kept", "labels", "name", "state", "why"}
}

// hivesValue is a list of hives.
type hivesValue struct {
	frozen
	c   *call
	all bool
	idx []int32
}

func (l hivesValue) String() string { return fmt.Sprintf("hives(%d)", l.Len()) }

// Type names it in errors.
func (l hivesValue) Type() string { return "hives" }

// Truth is whether there are any.
func (l hivesValue) Truth() starlark.Bool { return l.Len() > 0 }

// Len counts them.
func (l hivesValue) Len() int {
	if l.all {
		return len(l.c.allHives())
	}
	return len(l.idx)
}

func (l hivesValue) at(i int) *scheduler.HiveView {
	if !l.all {
		i = int(l.idx[i])
	}
	return &l.c.allHives()[i]
}

// Index is one of them.
func (l hivesValue) Index(i int) starlark.Value { return hiveValue{h: l.at(i)} }

// Iterate walks them.
func (l hivesValue) Iterate() starlark.Iterator { return &iterator{l: l} }

func (l hivesValue) where(keep func(*scheduler.HiveView) bool) hivesValue {
	out := hivesValue{c: l.c}
	for i := range l.Len() {
		if keep(l.at(i)) {
			n := int32(i)
			if !l.all {
				n = l.idx[i]
			}
			out.idx = append(out.idx, n)
		}
	}
	return out
}

// choiceValue is what schedule returns.
type choiceValue struct {
	frozen
	c scheduler.Choice
}

func (v choiceValue) String() string { return "choice(" + v.c.Action.String() + ")" }

// Type names it in errors.
func (v choiceValue) Type() string { return "choice" }
