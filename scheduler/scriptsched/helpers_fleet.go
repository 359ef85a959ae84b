package scriptsched

import (
	"cmp"
	"slices"

	"github.com/queen-rbee/queen-rbee/scheduler"
	"go.starlark.net/starlark"
)

// onHive makes a helper that reads one hive.
func onHive(name, doc string, read func(*scheduler.HiveView) starlark.Value) Helper {
	return Helper{name, "Device queries", name + "(hive)", doc, func(_ *call, a args) (starlark.Value, error) {
		h, err := arg[hiveValue](a, 0, "hive")
		if err != nil {
			return nil, err
		}
		return read(h.h), nil
	}}
}

func sum(h *scheduler.HiveView, f func(*scheduler.DeviceView) int64) starlark.Value {
	var n int64
	for i := range h.Views {
		n += f(&h.Views[i])
	}
	return integer(n)
}

func filterHives(name, usage, doc string, keep func(*call, args) (func(*scheduler.HiveView) bool, error)) Helper {
	return Helper{name, "Device queries", usage, doc, func(c *call, a args) (starlark.Value, error) {
		l, err := arg[hivesValue](a, 0, "hives")
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

func bestHive(name, doc string, score func(*call, *scheduler.HiveView) int64) Helper {
	return Helper{name, "Device queries", name + "(hives)", doc, func(c *call, a args) (starlark.Value, error) {
		l, err := arg[hivesValue](a, 0, "hives")
		if err != nil {
			return nil, err
		}
		var best *scheduler.HiveView
		for i := range l.Len() {
			if h := l.at(i); h.Kept && h.Fits != "" && (best == nil || score(c, h) < score(c, best)) {
				best = h
			}
		}
		if best == nil {
			return starlark.None, nil
		}
		return hiveValue{h: best}, nil
	}}
}

func available(h *scheduler.HiveView) (n int64) {
	for i := range h.Views {
		n = max(n, h.Views[i].Available)
	}
	return n
}

func deviceHelpers() []Helper {
	return []Helper{
		onHive("free_memory", "bytes that a new worker could take on its emptiest device", func(h *scheduler.HiveView) starlark.Value { return integer(available(h)) }),
		onHive("total_memory", "bytes of all its devices", func(h *scheduler.HiveView) starlark.Value {
			return sum(h, func(d *scheduler.DeviceView) int64 { return max(d.Total, d.Free) })
		}),
		onHive("evictable_memory", "bytes that idle, unpinned workers hold", func(h *scheduler.HiveView) starlark.Value {
			return sum(h, func(d *scheduler.DeviceView) int64 { return d.Evictable })
		}),
		onHive("device_count", "how many devices", func(h *scheduler.HiveView) starlark.Value { return integer(len(h.Views)) }),
		onHive("workers_on", "how many workers", func(h *scheduler.HiveView) starlark.Value {
			return sum(h, func(d *scheduler.DeviceView) int64 { return int64(d.Workers) })
		}),
		onHive("best_device", `the device where the job's model fits best without an eviction, or ""`, func(h *scheduler.HiveView) starlark.Value { return starlark.String(h.Fits) }),
		onHive("fits", "whether the job's model fits without an eviction", func(h *scheduler.HiveView) starlark.Value { return starlark.Bool(h.Fits != "") }),
		bestHive("most_free", "the hive with the most free memory where the model fits", func(_ *call, h *scheduler.HiveView) int64 { return -available(h) }),
		bestHive("best_fit", "the hive with the least free memory where the model fits", func(_ *call, h *scheduler.HiveView) int64 { return available(h) }),
		filterHives("online", "online(hives)", "those that may load the job's model", func(*call, args) (func(*scheduler.HiveView) bool, error) {
			return func(h *scheduler.HiveView) bool { return h.Kept }, nil
		}),
		filterHives("hives_with", "hives_with(hives, key, value)", "those that carry a label", func(_ *call, a args) (func(*scheduler.HiveView) bool, error) {
			k, err := a.str(1, "")
			if err != nil {
				return nil, err
			}
			v, err := a.str(2, "")
			return func(h *scheduler.HiveView) bool { return hasLabel(h, k) && h.Labels[k] == v }, err
		}),
		filterHives("on_disk", "on_disk(hives)", "those that have the job's model on disk", func(c *call, _ args) (func(*scheduler.HiveView) bool, error) {
			return func(h *scheduler.HiveView) bool { return slices.Contains(h.Models, c.job.Model) }, nil
		}),
		{"hive", "Device queries", "hive(name)", "a hive by its name, or None", func(c *call, a args) (starlark.Value, error) {
			name, err := a.str(0, "")
			hs := c.allHives()
			for i := range hs {
				if hs[i].Name == name {
					return hiveValue{h: &hs[i]}, nil
				}
			}
			return starlark.None, err
		}},
	}
}

func quotaHelpers() []Helper {
	return []Helper{
		{"running", "Quota checks", `running(tenant="", model="")`, "requests that run now, by tenant and model", func(c *call, a args) (starlark.Value, error) {
			t, err := a.str(0, "")
			if err != nil {
				return nil, err
			}
			m, err := a.str(1, "")
			if c.view == nil || err != nil {
				return integer(0), err
			}
			return integer(c.view.Running(t, m)), nil
		}},
		{"over_share", "Quota checks", "over_share(tenant, percent)", "whether a tenant runs more than its share of what runs now", func(c *call, a args) (starlark.Value, error) {
			t, err := a.str(0, "")
			if err != nil {
				return nil, err
			}
			p, err := a.num(1)
			if c.view == nil || err != nil {
				return starlark.False, err
			}
			return starlark.Bool(float64(100*c.view.Running(t, "")) > p*float64(c.view.Running("", ""))), nil
		}},
		{"waiting", "Quota checks", `waiting(model="")`, "jobs in the line, of a model or all", func(c *call, a args) (starlark.Value, error) {
			m, err := a.str(0, "")
			if c.view == nil || err != nil {
				return integer(0), err
			}
			return integer(c.view.Waiting(m)), nil
		}},
		{"is_batch", "Quota checks", "is_batch(job)", "whether the job has priority batch", func(c *call, _ args) (starlark.Value, error) {
			return starlark.Bool(c.job.Priority == scheduler.Batch), nil
		}},
		{"seconds_left", "Quota checks", "seconds_left(job)", "until the job's deadline; a very large number without one", func(c *call, _ args) (starlark.Value, error) {
			if c.job.Deadline.IsZero() {
				return starlark.Float(1e12), nil
			}
			return seconds(c.job.Deadline.Sub(c.now())), nil
		}},
	}
}

// ofModel makes a helper that reads a model's need; without an argument, the job's.
func ofModel(name, doc string, read func(c *call, model string, n scheduler.Need, known bool) starlark.Value) Helper {
	return Helper{name, "Model queries", name + `(model="")`, doc, func(c *call, a args) (starlark.Value, error) {
		m, err := a.str(0, "")
		if err != nil {
			return nil, err
		}
		if m == "" {
			m = c.job.Model
		}
		var n scheduler.Need
		known := false
		if c.view != nil {
			n, known = c.view.Need(m)
		}
		return read(c, m, n, known), nil
	}}
}

func modelHelpers() []Helper {
	return []Helper{
		ofModel("need_memory", "bytes that a worker takes", func(_ *call, _ string, n scheduler.Need, _ bool) starlark.Value { return integer(n.Memory) }),
		ofModel("load_seconds", "expected time to load it", func(_ *call, _ string, n scheduler.Need, _ bool) starlark.Value { return seconds(n.LoadTime) }),
		ofModel("slots_of", "slots of a worker of it", func(_ *call, _ string, n scheduler.Need, _ bool) starlark.Value { return integer(max(n.Slots, 1)) }),
		ofModel("devices_of", "devices that it is spread over", func(_ *call, _ string, n scheduler.Need, _ bool) starlark.Value { return integer(max(n.Devices, 1)) }),
		ofModel("ttl_seconds", "idle time after which its workers are stopped; 0 = never", func(_ *call, _ string, n scheduler.Need, _ bool) starlark.Value { return seconds(n.TTL) }),
		ofModel("is_pinned", "whether its workers are never evicted", func(_ *call, _ string, n scheduler.Need, _ bool) starlark.Value { return starlark.Bool(n.Pin) }),
		ofModel("is_known", "whether it may be loaded", func(_ *call, _ string, _ scheduler.Need, known bool) starlark.Value { return starlark.Bool(known) }),
		ofModel("loaded", "ready workers of it", func(c *call, m string, _ scheduler.Need, _ bool) starlark.Value {
			if c.view == nil {
				return integer(0)
			}
			return integer(c.view.Loaded(m))
		}),
	}
}

// order makes a helper that sorts eviction candidates.
func order(name, doc string, less func(a, b *scheduler.WorkerView) int) Helper {
	return Helper{name, "Eviction", name + "(candidates)", doc, func(c *call, a args) (starlark.Value, error) {
		l, err := arg[workersValue](a, 0, "candidates")
		if err != nil {
			return nil, err
		}
		out := workersValue{c: l.c}
		for i := range l.Len() {
			out.idx = append(out.idx, l.pos(i))
		}
		ws := l.c.allWorkers()
		slices.SortStableFunc(out.idx, func(x, y int32) int { return less(&ws[x], &ws[y]) })
		return out, nil
	}}
}

func evictionHelpers() []Helper {
	return []Helper{
		order("lru", "least recently used first", func(a, b *scheduler.WorkerView) int { return a.LastUsed.Compare(b.LastUsed) }),
		order("largest", "most memory first", func(a, b *scheduler.WorkerView) int { return cmp.Compare(b.Memory, a.Memory) }),
		order("smallest", "least memory first", func(a, b *scheduler.WorkerView) int { return cmp.Compare(a.Memory, b.Memory) }),
		order("oldest", "longest running first", func(a, b *scheduler.WorkerView) int { return a.Started.Compare(b.Started) }),
		{"enough", "Eviction", "enough(candidates, bytes)", "the first ones that free so much, or an empty list when all of them don't", func(_ *call, a args) (starlark.Value, error) {
			l, err := arg[workersValue](a, 0, "candidates")
			if err != nil {
				return nil, err
			}
			need, err := a.num(1)
			out := workersValue{c: l.c}
			for i := 0; i < l.Len() && need > 0; i++ {
				out.idx = append(out.idx, l.pos(i))
				need -= float64(l.at(i).Memory)
			}
			if need > 0 {
				out.idx = nil
			}
			return out, err
		}},
		{"idle_seconds", "Eviction", "idle_seconds(worker)", "since its last request", func(c *call, a args) (starlark.Value, error) {
			w, err := arg[workerValue](a, 0, "worker")
			if err != nil || w.w.LastUsed.IsZero() {
				return starlark.Float(0), err
			}
			return seconds(c.now().Sub(w.w.LastUsed)), nil
		}},
		{"age_seconds", "Eviction", "age_seconds(worker)", "since it was started", func(c *call, a args) (starlark.Value, error) {
			w, err := arg[workerValue](a, 0, "worker")
			if err != nil || w.w.Started.IsZero() {
				return starlark.Float(0), err
			}
			return seconds(c.now().Sub(w.w.Started)), nil
		}},
	}
}
