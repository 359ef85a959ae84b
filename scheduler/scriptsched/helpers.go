package scriptsched

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"go.starlark.net/starlark"
)

// Helper is one function that scripts may call.
type Helper struct {
	Name, Group, Usage, Doc string
	fn                      func(c *call, a args) (starlark.Value, error)
}

// args are the positional arguments of a helper, read with checks.
type args struct {
	name string
	list starlark.Tuple
}

func (a args) bad(i int, want string) error {
	if i >= len(a.list) {
		return fmt.Errorf("%s: argument %d (%s) is missing", a.name, i+1, want)
	}
	return fmt.Errorf("%s: argument %d is a %s, want %s", a.name, i+1, a.list[i].Type(), want)
}

func arg[T starlark.Value](a args, i int, want string) (T, error) {
	var zero T
	if i >= len(a.list) {
		return zero, a.bad(i, want)
	}
	v, ok := a.list[i].(T)
	if !ok {
		return zero, a.bad(i, want)
	}
	return v, nil
}

func (a args) str(i int, def string) (string, error) {
	if i >= len(a.list) {
		return def, nil
	}
	s, ok := starlark.AsString(a.list[i])
	if !ok {
		return "", a.bad(i, "string")
	}
	return s, nil
}

func (a args) num(i int) (float64, error) {
	if i >= len(a.list) {
		return 0, a.bad(i, "number")
	}
	f, ok := starlark.AsFloat(a.list[i])
	if !ok {
		return 0, a.bad(i, "number")
	}
	return f, nil
}

// Helpers lists every helper, in the order of the documentation.
func Helpers() []Helper {
	var all []Helper
	all = append(all, resultHelpers()...)
	all = append(all, workerHelpers()...)
	all = append(all, deviceHelpers()...)
	all = append(all, quotaHelpers()...)
	all = append(all, modelHelpers()...)
	all = append(all, evictionHelpers()...)
	return append(all, timeHelpers()...)
}

// predeclared are the helpers and the safe builtins, as a script sees them.
func predeclared() starlark.StringDict {
	d := safeUniverse()
	for _, h := range Helpers() {
		fn, name := h.fn, h.Name
		d[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, list starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			c := budgetOf(t).call
			if c == nil {
				return nil, fmt.Errorf("%s: only inside of schedule, select_worker or evict", name)
			}
			if len(kwargs) > 0 {
				return nil, fmt.Errorf("%s: takes no named arguments", name)
			}
			return fn(c, args{name, list})
		})
	}
	return d
}

func choice(c scheduler.Choice) starlark.Value { return choiceValue{c: c} }

func resultHelpers() []Helper {
	return []Helper{
		{"route", "Results", "route(worker)", "send the job to a worker (the value, or its id)", func(_ *call, a args) (starlark.Value, error) {
			if w, err := arg[workerValue](a, 0, "worker"); err == nil {
				return choice(scheduler.Choice{Action: scheduler.Route, Worker: w.w.ID}), nil
			}
			if len(a.list) > 0 && a.list[0] == starlark.None {
				return starlark.None, nil
			}
			id, err := arg[starlark.String](a, 0, "worker")
			return choice(scheduler.Choice{Action: scheduler.Route, Worker: string(id)}), err
		}},
		{"provision", "Results", `provision(hive, device="", evict=[])`, "load the job's model on a hive after stopping the workers of evict", provision},
		{"queue", "Results", `queue(reason="")`, "keep the job waiting", func(_ *call, a args) (starlark.Value, error) {
			why, err := a.str(0, "")
			return choice(scheduler.Choice{Action: scheduler.Queue, Reason: why}), err
		}},
		{"reject", "Results", `reject(reason, code="NO_HIVE_AVAILABLE")`, "refuse the job", func(_ *call, a args) (starlark.Value, error) {
			why, err := a.str(0, "refused by the policy")
			if err != nil {
				return nil, err
			}
			code, err := a.str(1, scheduler.CodeNoHive)
			return choice(scheduler.Choice{Action: scheduler.Reject, Reason: why, Code: code}), err
		}},
		{"native", "Results", "native()", "leave this job to the native policy (as returning None does)", func(*call, args) (starlark.Value, error) {
			return choice(scheduler.Choice{Native: true}), nil
		}},
	}
}

func provision(_ *call, a args) (starlark.Value, error) {
	c := scheduler.Choice{Action: scheduler.Provision}
	if h, err := arg[hiveValue](a, 0, "hive"); err == nil {
		c.Node = h.h.Name
	} else if s, err := arg[starlark.String](a, 0, "hive"); err == nil {
		c.Node = string(s)
	} else {
		return nil, err
	}
	var err error
	if c.Device, err = a.str(1, ""); err != nil || len(a.list) < 3 {
		return choice(c), err
	}
	it, ok := a.list[2].(starlark.Sequence)
	if !ok {
		return nil, a.bad(2, "list of workers")
	}
	iter := it.Iterate()
	defer iter.Done()
	var v starlark.Value
	for iter.Next(&v) {
		if w, ok := v.(workerValue); ok {
			c.Evict = append(c.Evict, w.w.ID)
		} else if s, ok := starlark.AsString(v); ok {
			c.Evict = append(c.Evict, s)
		} else {
			return nil, a.bad(2, "list of workers")
		}
	}
	return choice(c), nil
}

// picker makes a helper that takes workers and answers the best of those that may take the job.
func picker(name, doc string, score func(*call, *scheduler.WorkerView) float64) Helper {
	return Helper{name, "Worker selection", name + "(workers)", doc, func(c *call, a args) (starlark.Value, error) {
		l, err := arg[workersValue](a, 0, "workers")
		if err != nil {
			return nil, err
		}
		return l.best(func(w *scheduler.WorkerView) float64 { return score(c, w) }), nil
	}}
}

// filter makes a helper that keeps some of the workers.
func filter(name, usage, doc string, keep func(*call, args) (func(*scheduler.WorkerView) bool, error)) Helper {
	return Helper{name, "Worker selection", usage, doc, func(c *call, a args) (starlark.Value, error) {
		l, err := arg[workersValue](a, 0, "workers")
		if err != nil {
			return nil, err
		}
		k, err := keep(c, a)
		if err != nil {
			return nil, err
		}
		return l.where(k), nil
	}}
}

func workerHelpers() []Helper {
	return []Helper{
		picker("cheapest", "what the native policy would minimise", func(_ *call, w *scheduler.WorkerView) float64 { return float64(w.Cost) }),
		picker("soonest", "the shortest expected time to the first token", func(_ *call, w *scheduler.WorkerView) float64 { return float64(w.TTFT) }),
		picker("least_loaded", "the fewest requests", func(_ *call, w *scheduler.WorkerView) float64 { return float64(w.InFlight) }),
		picker("least_pending", "the fewest prompt tokens to compute", func(_ *call, w *scheduler.WorkerView) float64 { return float64(w.PendingTokens) }),
		picker("most_cached", "the most of the job's prompt in its cache", func(_ *call, w *scheduler.WorkerView) float64 { return -float64(w.Cached) }),
		picker("most_free_slots", "the most free slots", func(_ *call, w *scheduler.WorkerView) float64 { return -float64(w.FreeSlots) }),
		picker("fastest", "the highest prefill rate", func(_ *call, w *scheduler.WorkerView) float64 { return -w.Prefill }),
		picker("fastest_decode", "the most output tokens per second", func(_ *call, w *scheduler.WorkerView) float64 { return -w.Decode }),
		picker("random_worker", "one at random, the same for the same job", func(c *call, w *scheduler.WorkerView) float64 { return rendezvous(c.job.ID, w.ID) }),
		{"sticky", "Worker selection", "sticky(workers, key)", "always the same worker for a key, while it is there", func(_ *call, a args) (starlark.Value, error) {
			l, err := arg[workersValue](a, 0, "workers")
			if err != nil {
				return nil, err
			}
			key, err := a.str(1, "")
			return l.best(func(w *scheduler.WorkerView) float64 { return rendezvous(key, w.ID) }), err
		}},
		filter("kept", "kept(workers)", "those that may take the job now", func(*call, args) (func(*scheduler.WorkerView) bool, error) {
			return func(w *scheduler.WorkerView) bool { return w.Kept }, nil
		}),
		filter("idle", "idle(workers)", "those that run nothing and may take the job", func(*call, args) (func(*scheduler.WorkerView) bool, error) {
			return func(w *scheduler.WorkerView) bool { return w.Kept && w.InFlight == 0 }, nil
		}),
		filter("by_node", "by_node(workers, node)", "those on a hive", func(_ *call, a args) (func(*scheduler.WorkerView) bool, error) {
			node, err := a.str(1, "")
			return func(w *scheduler.WorkerView) bool { return w.Node == node }, err
		}),
		filter("by_label", "by_label(workers, key, value)", "those whose hive carries a label", byLabel),
		filter("with_cached", "with_cached(workers, tokens)", "those that hold at least so many tokens of the prompt", func(_ *call, a args) (func(*scheduler.WorkerView) bool, error) {
			n, err := a.num(1)
			return func(w *scheduler.WorkerView) bool { return float64(w.Cached) >= n }, err
		}),
		filter("owned", "owned(workers)", "those that are ours, not externals", func(*call, args) (func(*scheduler.WorkerView) bool, error) {
			return func(w *scheduler.WorkerView) bool { return !w.External }, nil
		}),
		filter("external", "external(workers)", "externals only", func(*call, args) (func(*scheduler.WorkerView) bool, error) {
			return func(w *scheduler.WorkerView) bool { return w.External }, nil
		}),
		{"worker", "Worker selection", "worker(id)", "a worker of the job's model by its id, or None", func(c *call, a args) (starlark.Value, error) {
			id, err := a.str(0, "")
			ws := c.allWorkers()
			for i := range ws {
				if ws[i].ID == id {
					return workerValue{c: c, w: &ws[i]}, nil
				}
			}
			return starlark.None, err
		}},
	}
}

func byLabel(c *call, a args) (func(*scheduler.WorkerView) bool, error) {
	k, err := a.str(1, "")
	if err != nil {
		return nil, err
	}
	v, err := a.str(2, "")
	nodes := map[string]bool{}
	hs := c.allHives()
	for i := range hs {
		nodes[hs[i].Name] = hs[i].Labels[k] == v && hasLabel(&hs[i], k)
	}
	return func(w *scheduler.WorkerView) bool { return nodes[w.Node] }, err
}

func hasLabel(h *scheduler.HiveView, k string) bool { _, ok := h.Labels[k]; return ok }

// rendezvous gives a pair a fixed place on a line.
func rendezvous(a, b string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(a))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(b))
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x)
}

func timeHelpers() []Helper {
	clock := func(name, doc string, f func(time.Time) int) Helper {
		return Helper{name, "Time", name + "()", doc, func(c *call, _ args) (starlark.Value, error) { return integer(f(c.now())), nil }}
	}
	return []Helper{
		clock("hour", "0 to 23, local time of the queen", func(t time.Time) int { return t.Hour() }),
		clock("minute", "0 to 59", func(t time.Time) int { return t.Minute() }),
		clock("weekday", "0 = Sunday", func(t time.Time) int { return int(t.Weekday()) }),
		{"between", "Time", "between(from_hour, to_hour)", "whether it is that time of day; between(22, 6) spans midnight", func(c *call, a args) (starlark.Value, error) {
			from, err := a.num(0)
			if err != nil {
				return nil, err
			}
			to, err := a.num(1)
			h := float64(c.now().Hour())
			if from <= to {
				return starlark.Bool(h >= from && h < to), err
			}
			return starlark.Bool(h >= from || h < to), err
		}},
	}
}
