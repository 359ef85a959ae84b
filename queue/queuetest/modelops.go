package queuetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// step does one random operation on both the queue and the model.
func (c *checker) step() {
	ctx := context.Background()
	switch n := c.rnd.IntN(100); {
	case n < 25:
		c.enqueue(ctx)
	case n < 40:
		c.next(ctx)
	case n < 48:
		c.claim(ctx)
	case n < 62:
		c.finish(ctx)
	case n < 68:
		c.release(ctx)
	case n < 72:
		c.extend(ctx)
	case n < 77:
		c.cancel(ctx)
	case n < 81:
		c.pause(ctx)
	case n < 90:
		c.advance(ctx)
	case n < 95:
		c.crash()
	default:
		c.verify()
	}
}

// randomJob makes a job from small alphabets, so that everything collides.
func (c *checker) randomJob() queue.Job {
	pick := func(s ...string) string { return s[c.rnd.IntN(len(s))] }
	j := queue.Job{Tenant: pick("a", "b", "c"), Model: pick("x", "y"), Priority: pick(queue.Interactive, queue.Interactive, queue.Batch),
		Payload: fmt.Appendf(nil, "body %d", c.rnd.IntN(3))}
	switch c.rnd.IntN(8) {
	case 0:
		j.NotBefore = c.now.Add(time.Duration(1+c.rnd.IntN(100)) * time.Second)
	case 1:
		j.Deadline = c.now.Add(time.Duration(1+c.rnd.IntN(300)) * time.Second)
	case 2, 3:
		j.IdempotencyKey = pick("k1", "k2", "k3")
	case 4:
		j.State, j.Worker = queue.Running, "direct"
	}
	return j
}

func (c *checker) enqueue(ctx context.Context) {
	j := c.randomJob()
	key := [2]string{j.Tenant, j.IdempotencyKey}
	first := c.jobs[c.keys[key]]
	if first != nil && first.State.Terminal() && first.Submitted.Before(c.now.Add(-modelWindow)) {
		first = nil
	}
	t, err := c.q.Submit(j)
	if j.IdempotencyKey != "" && first != nil {
		c.logf("enqueue with used key %v: %v", key, err)
		var dup *queue.DuplicateError
		if string(first.Payload) == string(j.Payload) {
			c.check(errors.As(err, &dup) && dup.First.ID == first.ID, "a duplicate got %v, the first is %s", err, first.ID)
		} else {
			c.check(errors.Is(err, queue.ErrConflict) && !errors.As(err, &dup), "another body for a key got %v", err)
		}
		return
	}
	if err != nil {
		c.check(false, "submit: %v", err)
		return
	}
	got := t.Job()
	m := &mjob{Job: got}
	m.Payload = j.Payload
	c.jobs[got.ID] = m
	if j.IdempotencyKey != "" {
		c.keys[key] = got.ID
	}
	c.logf("enqueue %s %s", got.ID, got.State)
	if c.rnd.IntN(20) == 0 {
		m.maybe = true
		c.crash() // before anybody heard of the commit
		return
	}
	if got.State == queue.Running {
		m.leases, m.held = append(m.leases, got.Lease), true
		deaths := c.deaths
		if c.rnd.IntN(2) == 0 {
			c.lazy(m)
		}
		if deaths != c.deaths {
			return
		}
	}
	c.check(t.Wait(ctx) == nil, "the commit failed")
	m.acked = true
}

func (c *checker) took(j queue.Job, worker string) {
	m := c.jobs[j.ID]
	if m == nil || !c.waits(m) {
		c.check(false, "claimed %s, which does not wait", j.ID)
		return
	}
	c.check(j.Attempt == m.Attempt+1 && string(j.Payload) == string(m.Payload), "claimed %+v, was %+v", j, m.Job)
	m.State, m.Attempt, m.Worker, m.ErrorMessage = queue.Running, m.Attempt+1, worker, ""
	m.Lease, m.leases, m.held = j.Lease, append(m.leases, j.Lease), true
}

func (c *checker) next(ctx context.Context) {
	line, err := c.q.Line(ctx, 1)
	if err != nil || len(line) == 0 {
		c.check(err == nil, "line: %v", err)
		return
	}
	j, err := c.q.Next(ctx, queue.ClaimOptions{Worker: "w"})
	c.logf("next %s %v", j.ID, err)
	if err != nil || j.ID != line[0].ID {
		c.check(false, "next took %s, the first in line is %s: %v", j.ID, line[0].ID, err)
		return
	}
	c.took(j, "w")
}

func (c *checker) claim(ctx context.Context) {
	m := c.some(queue.Queued, queue.Queued, queue.Running, queue.Complete)
	if m == nil {
		return
	}
	ok := c.waits(m)
	j, err := c.q.Claim(ctx, m.ID, "cw", "n")
	c.logf("claim %s %v", m.ID, err)
	if !ok {
		c.check(errors.Is(err, queue.ErrConflict), "claim of a job that is %s: %v", m.State, err)
		return
	}
	if err != nil {
		c.check(false, "claim: %v", err)
		return
	}
	c.took(j, "cw")
}

// lease picks a running job's lease, or one that is lost.
func (c *checker) lease() (m *mjob, l queue.Lease, holds bool) {
	m = c.some(queue.Running, queue.Queued, queue.Complete)
	if m == nil || len(m.leases) == 0 {
		return nil, queue.Lease{}, false
	}
	i := len(m.leases) - 1
	if c.rnd.IntN(4) == 0 {
		i = c.rnd.IntN(len(m.leases))
	}
	return m, m.leases[i], m.held && i == len(m.leases)-1
}

func (c *checker) finish(ctx context.Context) {
	m, l, holds := c.lease()
	if m == nil {
		return
	}
	if holds && c.rnd.IntN(3) == 0 {
		c.lazy(m)
		return
	}
	tokens := c.rnd.IntN(100)
	err := c.q.Finish(ctx, l, queue.Result{TokensOut: tokens})
	c.logf("finish %s fence %d: %v", m.ID, l.Fence, err)
	if !holds {
		c.check(errors.Is(err, queue.ErrLeaseLost), "finish with a lost lease: %v", err)
		return
	}
	c.check(err == nil, "finish: %v", err)
	c.end(m, queue.Complete, "")
	if tokens > 0 {
		m.TokensOut = tokens
	}
}

// lazy finishes a held job without waiting, and sometimes crashes before it can be stored.
func (c *checker) lazy(m *mjob) {
	err := c.q.FinishLazy(m.Lease, queue.Result{State: queue.Failed, ErrorCode: "X"})
	c.logf("finish lazily %s: %v", m.ID, err)
	c.check(err == nil, "finish lazily: %v", err)
	if c.rnd.IntN(4) == 0 {
		// what the model knows stays; what the store knows will be asked
		m.maybe = true
		c.crash()
		return
	}
	c.end(m, queue.Failed, "X")
	c.lazies = append(c.lazies, m)
}

func (c *checker) release(ctx context.Context) {
	m, l, holds := c.lease()
	if m == nil {
		return
	}
	o := queue.ReleaseOptions{Refund: c.rnd.IntN(2) == 0, Reason: "r"}
	if c.rnd.IntN(2) == 0 {
		o.Delay = time.Duration(c.rnd.IntN(60)) * time.Second
	}
	err := c.q.Release(ctx, l, o)
	c.logf("release %s fence %d: %v", m.ID, l.Fence, err)
	if !holds {
		c.check(errors.Is(err, queue.ErrLeaseLost), "release with a lost lease: %v", err)
		return
	}
	c.check(err == nil, "release: %v", err)
	at, attempt := time.Time{}, m.Attempt
	if o.Delay > 0 {
		at = c.now.Add(o.Delay)
	}
	if o.Refund {
		attempt--
	}
	c.back(m, attempt, at, "r")
	c.q.Sweep() // its deadline may have passed while it ran
	c.sweep()
}

func (c *checker) extend(ctx context.Context) {
	m, l, holds := c.lease()
	if m == nil {
		return
	}
	d := time.Duration(1+c.rnd.IntN(120)) * time.Second
	got, err := c.q.Extend(ctx, l, d)
	c.logf("extend %s fence %d: %v", m.ID, l.Fence, err)
	if !holds {
		c.check(errors.Is(err, queue.ErrLeaseLost), "extend with a lost lease: %v", err)
		return
	}
	c.check(err == nil && got.Until.Equal(c.now.Add(d)), "extend: %v %v", got.Until, err)
	m.Lease = got
	m.leases[len(m.leases)-1] = got
}

func (c *checker) cancel(ctx context.Context) {
	m := c.some(queue.Queued, queue.Running, queue.Complete, queue.Cancelled, queue.Failed)
	if m == nil {
		return
	}
	was := m.State
	got, err := c.q.Cancel(ctx, m.ID)
	c.logf("cancel %s (%s): %v", m.ID, was, err)
	if !was.Terminal() {
		c.end(m, queue.Cancelled, "CANCELLED")
	}
	c.check(err == nil && got.State == m.State, "cancel of a %s job: %s %v", was, got.State, err)
}

func (c *checker) pause(ctx context.Context) {
	all := []queue.Pause{{Model: "x"}, {Model: "y"}, {Tenant: "a"}, {Model: "x", Tenant: "b"}}
	p := all[c.rnd.IntN(len(all))]
	if c.pauses[p] || c.rnd.IntN(3) == 0 {
		c.logf("resume %+v", p)
		c.check(c.q.Resume(ctx, p) == nil, "resume failed")
		delete(c.pauses, p)
		return
	}
	c.logf("pause %+v", p)
	c.check(c.q.Pause(ctx, p) == nil, "pause failed")
	c.pauses[p] = true
}

func (c *checker) advance(ctx context.Context) {
	d := time.Duration(c.rnd.IntN(90)) * time.Second
	switch c.rnd.IntN(12) {
	case 0:
		d = 25 * time.Hour
	case 1:
		d = 100 * time.Hour
	}
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
	c.logf("advance %v", d)
	c.q.Sweep()
	c.sweep()
	if _, err := c.q.List(ctx, queue.Filter{Limit: 1}); err != nil { // everything due is stored after it
		c.check(false, "list: %v", err)
	}
	c.lazies = nil
	if c.rnd.IntN(4) > 0 {
		return
	}
	c.check(c.q.Housekeep(ctx) == nil, "housekeeping failed")
	for id, j := range c.jobs {
		if j.State.Terminal() && j.Completed.Before(c.now.Add(-modelRetention)) {
			c.logf("purged %s", id)
			delete(c.jobs, id)
			if k := [2]string{j.Tenant, j.IdempotencyKey}; c.keys[k] == id {
				delete(c.keys, k)
			}
		}
	}
}

// crash kills the queue where it stands and opens the store again. Changes that were not waited for may be lost.
func (c *checker) crash() {
	c.logf("crash")
	c.deaths++
	for _, m := range c.lazies {
		m.maybe = true
	}
	c.lazies = nil
	c.store.die()
	c.q.Close()
	if err := c.store.Close(); err != nil {
		c.check(false, "close: %v", err)
	}
	c.start(true)
}
