package compose

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// operationOf is the name of a surface in metrics, by the semantic conventions where they have one.
func operationOf(s router.Surface) string {
	switch s {
	case router.Chat, router.OllamaChat:
		return "chat"
	case router.Completion, router.OllamaGenerate:
		return "text_completion"
	case router.Embeddings:
		return "embeddings"
	case router.Raw:
		return "raw"
	}
	return "task"
}

// trace begins a job's trace; what the worker gets as its parent is the job's span.
func (s *submitter) trace(j *router.Job, at time.Time) *metrics.Trace {
	t := s.met.StartTrace(j.Traceparent, metrics.SpanRequest, at, "rbee.job.id", j.ID, "gen_ai.request.model", j.Model,
		"gen_ai.operation.name", operationOf(j.Surface))
	if t != nil {
		j.Traceparent = t.Traceparent()
	}
	return t
}

// placed tells a job's trace of a decision, and remembers whom a load is for.
func (d *schedDoor) placed(j *router.Job, dec scheduler.Decision, begin time.Time, err error) {
	e := entryOf(j)
	if e == nil {
		return
	}
	if e.trace != nil {
		now := time.Now()
		e.trace.Child(metrics.SpanSchedule, begin, now, err, "action", dec.Action.String(), "worker", dec.Worker, "hive", dec.Node)
		e.mu.Lock()
		if dec.Action != scheduler.Route && e.waits.IsZero() {
			e.waits = now
		}
		e.mu.Unlock()
	}
	if dec.Action == scheduler.Provision {
		d.causes.put(j.Model, dec.Node, cause{e.trace, j.CorrelationID})
	}
}

// ended closes a job's trace.
func (e *entry) ended(j *router.Job, r router.Result) {
	if e == nil || e.trace == nil {
		return
	}
	e.mu.Lock()
	waits := e.waits
	e.mu.Unlock()
	started := r.Started
	if started.IsZero() {
		started = r.Completed
	}
	if !waits.IsZero() {
		e.trace.Child(metrics.SpanQueue, waits, started, nil, "priority", j.Priority)
	}
	var err error
	if r.Code != "" {
		err = &codedError{code: r.Code}
	}
	if !r.Started.IsZero() {
		e.trace.Child(metrics.SpanRelay, r.Started, r.Completed, err, "worker", r.Worker, "hive", r.Node)
	}
	e.trace.End(r.Code, r.Completed)
}

// cause is the request that something on a hive is done for.
type cause struct {
	trace       *metrics.Trace
	correlation string
}

// causes remembers the last request that wanted a model on a hive.
type causes struct {
	mu sync.Mutex
	m  map[[2]string]cause
}

func (c *causes) put(model, node string, of cause) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) > 1000 {
		c.m = map[[2]string]cause{}
	}
	c.m[[2]string{model, node}] = of
}

func (c *causes) get(model, node string) cause {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[[2]string{model, node}]
}

func (c *causes) drop(model, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, [2]string{model, node})
}

// stage begins a span of a load; the hive is told of it with each call.
func (f *fleet) stage(ctx context.Context, name, correlation string, attrs ...string) (context.Context, func(error)) {
	ctx, end := f.met.Span(ctx, name, attrs...)
	return hiveapi.WithRequest(ctx, hiveapi.Request{CorrelationID: correlation, Traceparent: f.met.Traceparent(ctx)}), end
}

// remote records a span that a hive told of.
func (q *Queen) remote(node string, s *hiveapi.Span) {
	now := time.Now()
	r := metrics.Remote{Traceparent: s.Traceparent, Name: s.Name, Start: now.Add(-s.StartAgo), End: now.Add(-s.EndAgo), Code: s.Code,
		Attrs: []string{"hive", node}}
	for _, k := range []string{"worker", "model", "model_ref", "engine"} {
		r.Attrs = append(r.Attrs, k, s.Attrs[k])
	}
	q.met.RecordRemote(r)
}

// correlation is the lookup of the log: which request a job, or a load on a hive, belongs to.
func (q *Queen) correlation(key, value string) string {
	if key != "job" {
		return ""
	}
	if e, ok := q.live.get(value); ok {
		return e.job.CorrelationID
	}
	return ""
}

// statusOf is what the client of a request that failed at the door was answered.
func statusOf(err error) int {
	var s interface{ Status() int }
	if errors.As(err, &s) && s.Status() >= 400 {
		return s.Status()
	}
	return http.StatusServiceUnavailable
}

// aborted counts a stream that ended early by the side that ended it.
func (q *Queen) aborted(j *router.Job, r router.Result) {
	switch {
	case r.State == router.CancelledJob && !j.Detached:
		q.met.StreamAborted(q.life, "client")
	case r.State != router.Failed || r.FirstToken.IsZero():
	case r.Code == "WORKER_FAILED" || r.Code == "HIVE_FAILED":
		q.met.StreamAborted(q.life, "worker")
	default:
		q.met.StreamAborted(q.life, "queen")
	}
}
