package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/router"
)

// queueDoor lets the router speak to the queue.
type queueDoor struct {
	q       *queue.Queue
	live    *live
	restore func(*router.Job, *entry) // takes up what admission must know of a job found at start
}

var _ router.Queue = (*queueDoor)(nil)

// payload is what the store keeps of a job beside its columns: this header on one line, then the body.
type payload struct {
	Surface     router.Surface    `json:"s"`
	Path        string            `json:"p,omitempty"`
	ContentType string            `json:"c,omitempty"`
	Session     string            `json:"a,omitempty"`
	Node        string            `json:"n,omitempty"`
	Stream      bool              `json:"t,omitempty"`
	MaxTokens   int               `json:"m,omitempty"`
	Correlation string            `json:"i,omitempty"`
	Set         map[string]string `json:"set,omitempty"`
	Strip       []string          `json:"strip,omitempty"`
	PromptAt    [2]int            `json:"b,omitempty"` // where the prompt stands in the body
}

func encodePayload(j *router.Job) []byte {
	p := payload{Surface: j.Surface, Path: j.Path, ContentType: j.ContentType, Session: j.Session, Node: j.Node, Stream: j.Stream,
		MaxTokens: j.MaxTokens, Correlation: j.CorrelationID, Set: j.Set, Strip: j.Strip}
	if i := within(j.Body, j.Prompt); i > 0 {
		p.PromptAt = [2]int{i, i + len(j.Prompt)}
	}
	return append(append(p.append(make([]byte, 0, 192+len(j.Body))), '\n'), j.Body...)
}

// within finds a part of a body, which mostly is a slice of it.
func within(body, part []byte) int {
	if len(part) == 0 || len(body) == 0 {
		return -1
	}
	if i := cap(body) - cap(part); i >= 0 && i+len(part) <= len(body) && &body[i] == &part[0] {
		return i
	}
	return bytes.Index(body, part)
}

// append writes the header, which decodePayload reads. Reflection would cost more than all else that is done for a job.
func (p *payload) append(b []byte) []byte {
	if p.Set != nil || p.Strip != nil || !plainText(p.Path, p.ContentType, p.Session, p.Node, p.Correlation) {
		head, _ := json.Marshal(p) // of strings, numbers, and what holds them: it can't fail
		return append(b, head...)
	}
	text := func(name, v string) {
		if v != "" {
			b = append(append(append(append(b, name...), '"'), v...), '"')
		}
	}
	number := func(name string, n int) { b = strconv.AppendInt(append(b, name...), int64(n), 10) }
	number(`{"s":`, int(p.Surface))
	text(`,"p":`, p.Path)
	text(`,"c":`, p.ContentType)
	text(`,"a":`, p.Session)
	text(`,"n":`, p.Node)
	if p.Stream {
		b = append(b, `,"t":true`...)
	}
	if p.MaxTokens != 0 {
		number(`,"m":`, p.MaxTokens)
	}
	text(`,"i":`, p.Correlation)
	if p.PromptAt[1] > 0 {
		number(`,"b":[`, p.PromptAt[0])
		number(`,`, p.PromptAt[1])
		b = append(b, ']')
	}
	return append(b, '}')
}

// plainText reports whether none of the strings needs an escape in JSON.
func plainText(list ...string) bool {
	for _, s := range list {
		for i := range len(s) {
			if c := s[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
				return false
			}
		}
	}
	return true
}

func decodePayload(q *queue.Job) (*router.Job, error) {
	head, body, ok := bytes.Cut(q.Payload, []byte{'\n'})
	var p payload
	if err := json.Unmarshal(head, &p); err != nil || !ok {
		return nil, fmt.Errorf("job %s: its payload cannot be read", q.ID)
	}
	j := &router.Job{ID: q.ID, Tenant: q.Tenant, Model: q.Model, ModelRef: q.ModelRef, Priority: q.Priority, Session: p.Session, Node: p.Node,
		Surface: p.Surface, Path: p.Path, Body: body, ContentType: p.ContentType, Stream: p.Stream, Detached: q.Detached,
		Submitted: q.Submitted, Deadline: q.Deadline, PromptTokens: q.PromptTokens, MaxTokens: p.MaxTokens,
		IdempotencyKey: q.IdempotencyKey, CorrelationID: p.Correlation, Set: p.Set, Strip: p.Strip, Attempt: q.Attempt}
	if a, b := p.PromptAt[0], p.PromptAt[1]; a >= 0 && b > a && b <= len(body) {
		j.Prompt = body[a:b]
	}
	return j, nil
}

// wantsUsage reads from the body of a stored request whether its stream has a chunk with the usage.
func wantsUsage(body []byte) bool {
	var r struct {
		O struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	return json.Unmarshal(body, &r) == nil && r.O.IncludeUsage
}

// Submit implements router.Queue.
func (d *queueDoor) Submit(j *router.Job, running bool, worker, node string) (router.Pending, error) {
	job := queue.Job{ID: j.ID, Tenant: j.Tenant, Model: j.Model, ModelRef: j.ModelRef, Priority: j.Priority, State: queue.Queued,
		Submitted: j.Submitted, Deadline: j.Deadline, PromptTokens: j.PromptTokens, IdempotencyKey: j.IdempotencyKey,
		Detached: j.Detached}
	e := entryOf(j)
	if e != nil {
		job.Fingerprint = e.fingerprint
	}
	if running {
		job.State, job.Worker, job.Node = queue.Running, worker, node
	}
	var t *queue.Ticket
	var err error
	if running && j.Inline && j.IdempotencyKey == "" { // its reader waits for the store before it shows the answer
		t, err = d.q.SubmitLate(job, func() []byte { return encodePayload(j) })
	} else {
		job.Payload = encodePayload(j)
		t, err = d.q.Submit(job)
	}
	if err != nil {
		return nil, err
	}
	c := &commit{}
	if e != nil {
		e.setLease(t.Lease())
		c = &e.commit
	}
	c.t.Store(t)
	return c, nil
}

// commit is a job's way to the store. Once it is there, nothing is kept of what was written.
type commit struct {
	t atomic.Pointer[queue.Ticket]
}

// Wait implements router.Pending.
func (c *commit) Wait(ctx context.Context) error {
	t := c.t.Load()
	if t == nil {
		return nil
	}
	err := t.Wait(ctx)
	if err == nil {
		c.t.Store(nil)
	}
	return err
}

func entryOf(j *router.Job) *entry {
	if w, ok := j.Aux.(*work); ok {
		return w.entry
	}
	return nil
}

// Claim implements router.Queue.
func (d *queueDoor) Claim(ctx context.Context, id, worker, node string) error {
	job, err := d.q.Claim(ctx, id, worker, node)
	switch {
	case errors.Is(err, queue.ErrConflict), errors.Is(err, queue.ErrNotFound):
		return fmt.Errorf("%w: %w", router.ErrConflict, err)
	case err != nil:
		return err
	}
	if e, ok := d.live.get(id); ok {
		e.setLease(job.Lease)
	}
	return nil
}

// Started implements router.Queue. The worker of a later attempt is written with the result: no write of its own.
func (d *queueDoor) Started(context.Context, string, string, string, int) error { return nil }

// Requeue implements router.Queue.
func (d *queueDoor) Requeue(ctx context.Context, id string) error {
	e, ok := d.live.get(id)
	if !ok {
		return queue.ErrNotFound
	}
	return d.q.Release(ctx, e.getLease(), queue.ReleaseOptions{})
}

// Finish implements router.Queue.
func (d *queueDoor) Finish(ctx context.Context, id string, r router.Result) error {
	res := queue.Result{State: queue.State(r.State), Worker: r.Worker, Node: r.Node, Attempt: r.Attempt, Started: r.Started, FirstToken: r.FirstToken,
		Completed: r.Completed, PromptTokens: r.PromptTokens, CachedTokens: r.CachedTokens, TokensOut: r.TokensOut,
		ErrorCode: r.Code, ErrorMessage: r.Message}
	e, ok := d.live.get(id)
	if !ok {
		return queue.ErrNotFound
	}
	lease := e.getLease()
	if lease.Job == "" { // it still waits
		_, err := d.q.End(ctx, id, res)
		return err
	}
	return d.q.FinishLazy(lease, res)
}

// Line implements router.Queue.
func (d *queueDoor) Line(ctx context.Context, limit int) ([]*router.Job, error) {
	jobs, err := d.q.Line(ctx, limit)
	if err != nil {
		return nil, err
	}
	return d.jobs(ctx, jobs), nil
}

// Recover implements router.Queue.
func (d *queueDoor) Recover(ctx context.Context) ([]*router.Job, error) {
	jobs, err := d.q.Recover(ctx)
	if err != nil {
		return nil, err
	}
	running := jobs[:0]
	for _, j := range jobs {
		if j.State == queue.Running {
			running = append(running, j)
		}
	}
	return d.jobs(ctx, running), nil
}

// jobs gives the router's form of stored jobs: the one that is live already, or a new one.
func (d *queueDoor) jobs(ctx context.Context, list []queue.Job) []*router.Job {
	out := make([]*router.Job, 0, len(list))
	for i := range list {
		if e, ok := d.live.get(list[i].ID); ok {
			out = append(out, e.job)
			continue
		}
		j, err := decodePayload(&list[i])
		if err != nil { // written by something else, or damaged: it can never run
			if list[i].Lease.Job != "" {
				_ = d.q.Finish(ctx, list[i].Lease, queue.Result{State: queue.Failed, ErrorCode: "INTERNAL", ErrorMessage: "the stored request cannot be read", Completed: time.Now()})
			} else {
				_, _ = d.q.Cancel(ctx, list[i].ID)
			}
			continue
		}
		e := &entry{job: j, usage: j.Stream && wantsUsage(j.Body)}
		e.setLease(list[i].Lease)
		j.Aux = &work{entry: e}
		d.live.put(j.ID, e)
		d.restore(j, e)
		out = append(out, j)
	}
	return out
}
