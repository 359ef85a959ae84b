package schedsim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// Comparison is yesterday's traffic under several policies.
type Comparison struct {
	Jobs     int       `json:"jobs"`
	Measured int       `json:"measured_speeds"` // workers' models whose speed the recording told
	Results  []*Result `json:"results"`
}

// Contender is a policy to replay against; a nil Policy is the native one.
type Contender struct {
	Name   string
	Policy scheduler.Policy
}

// Replay runs the jobs of a recording again under each policy, on the recorded fleet with the speeds and
// output lengths that were observed, and compares waiting, cache hits, loads and swaps. It is the
// simulator's model of the fleet, not the fleet: the figures compare policies, they don't predict.
func Replay(events []scheduler.Event, seed uint64, contenders ...Contender) (*Comparison, error) {
	t, err := readTape(events)
	if err != nil {
		return nil, err
	}
	out := &Comparison{Jobs: len(t.reqs), Measured: len(t.rates)}
	for _, c := range contenders {
		var jobs []*scheduler.Job
		for _, j := range t.jobs {
			cp := *j
			jobs = append(jobs, &cp)
		}
		r := drive(c.Name, slices.Clone(t.reqs), jobs, Config{Seed: seed}, t, t.base, func(o *scheduler.Options) { o.Policy = c.Policy })
		out.Results = append(out.Results, r)
	}
	return out, nil
}

// tape is a recording made ready: the fleet and what was learnt of it.
type tape struct {
	base  time.Time
	first *scheduler.Snapshot
	reqs  []Request
	jobs  []*scheduler.Job
	rates map[string]*rate // node, model
	made  int
}

type rate struct{ prompt, ttft, out, decode float64 }

func (r *rate) prefill() float64 {
	if r == nil || r.prompt <= 0 || r.ttft <= 0 {
		return 2000
	}
	return r.prompt / r.ttft
}

func (r *rate) token() float64 {
	if r == nil || r.out <= 0 || r.decode <= 0 {
		return 30
	}
	return r.out / r.decode
}

func readTape(events []scheduler.Event) (*tape, error) {
	t := &tape{rates: map[string]*rate{}}
	outs := map[string]int{}
	where := map[string]string{}
	for _, e := range events {
		if e.Snapshot != nil {
			if t.first == nil || len(t.first.Workers) == 0 && len(t.jobs) == 0 {
				t.first = e.Snapshot
			}
			for _, w := range e.Snapshot.Workers {
				where[w.ID] = w.Node + "\x00" + w.Model
			}
		}
		if o := e.Observation; o != nil && o.Job != nil {
			t.observe(o, where[o.Worker])
			outs[o.Job.ID] = o.Output
		}
	}
	known := map[string]bool{}
	for _, e := range events {
		if e.Job == nil || !e.Arrived || known[e.Job.ID] { // one that was placed again, after a failure, came once
			continue
		}
		known[e.Job.ID] = true
		if t.base.IsZero() {
			t.base = e.At
		}
		out, ok := outs[e.Job.ID]
		if !ok {
			out = max(e.Job.MaxTokens, 1)
		}
		req := Request{At: e.At.Sub(t.base), In: e.Job.PromptTokens, Out: out, Blocks: e.Job.Blocks, Model: e.Job.Model, perBlock: 1}
		if n := len(e.Job.Blocks); n > 0 {
			req.perBlock = max(e.Job.PromptTokens/n, 1)
		}
		t.reqs, t.jobs = append(t.reqs, req), append(t.jobs, e.Job)
	}
	if t.first == nil || len(t.jobs) == 0 {
		return nil, errors.New("schedsim: the recording needs a snapshot and at least one job")
	}
	return t, nil
}

func (t *tape) observe(o *scheduler.Observation, key string) {
	if key == "" || !o.OK || o.Cold {
		return
	}
	r := t.rates[key]
	if r == nil {
		r = &rate{}
		t.rates[key] = r
	}
	r.prompt += float64(o.Prompt - max(o.Cached, 0))
	r.ttft += o.TTFT.Seconds()
	r.out += float64(o.Output)
	r.decode += o.Decode.Seconds()
}

func (t *tape) start(d *driver) {
	for _, w := range t.first.Workers {
		if w.State == scheduler.WorkerReady {
			s := t.make(w.Model, w.Node, w.Device, w.Slots, w.Memory)
			s.id = w.ID
			d.add(s)
		}
	}
}

func (t *tape) make(model, node, device string, slots int, memory int64) *server {
	r := t.rates[node+"\x00"+model]
	return &server{model: model, node: node, place: device, slots: max(slots, 1), memory: memory, prefillRate: r.prefill(), decodeRate: r.token(), cache: newLRU(1 << 14)}
}

func (t *tape) worker(d *driver, model, node, device string) *server {
	n := t.first.Needs[model]
	t.made++
	s := t.make(model, node, device, n.Slots, n.Memory)
	s.id = fmt.Sprintf("replayed-%d", d.made+1)
	return s
}

func (t *tape) loadTime(model string) time.Duration {
	n := t.first.Needs[model]
	if n.LoadTime > 0 {
		return n.LoadTime
	}
	return time.Duration(float64(max(n.LoadBytes, n.Memory)))
}

func (t *tape) snapshot(d *driver) *scheduler.Snapshot {
	snap := &scheduler.Snapshot{Needs: t.first.Needs}
	used := map[string]int64{}
	for _, s := range d.servers {
		snap.Workers = append(snap.Workers, d.record(s))
		devices := strings.Split(s.place, ",")
		for _, dev := range devices {
			used[s.node+"/"+dev] += s.memory / int64(len(devices))
		}
	}
	before := map[string]int64{}
	for _, w := range t.first.Workers {
		before[w.Node+"/"+w.Device] += w.Memory
	}
	for _, h := range t.first.Hives {
		h.Devices = slices.Clone(h.Devices)
		for i := range h.Devices {
			key := h.Name + "/" + h.Devices[i].ID
			h.Devices[i].Free += before[key] - used[key]
		}
		snap.Hives = append(snap.Hives, h)
	}
	return snap
}
