package compose

import (
	"context"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// jobs shows and cancels stored jobs.
type jobs struct {
	q     *queue.Queue
	rt    *router.Router
	sched *scheduler.Scheduler
	sub   *submitter
	ring  *scheduler.Ring
}

var _ httpserver.Jobs = (*jobs)(nil)

var errNoJob = &codedError{code: "JOB_NOT_FOUND", msg: "no job has this id, or it is past its retention: GET /v2/tasks lists them"}

// List implements httpserver.Jobs.
func (a *jobs) List(ctx context.Context, who httpserver.Identity, q httpserver.JobQuery) ([]httpserver.JobRecord, string, error) {
	tenant := q.Tenant
	if !who.Operator() {
		tenant = who.Tenant
	}
	page, err := a.q.List(ctx, queue.Filter{State: queue.State(q.State), Model: q.Model, Tenant: tenant, Priority: q.Priority, Cursor: q.Cursor, Limit: q.Limit})
	if err != nil {
		return nil, "", err
	}
	out := make([]httpserver.JobRecord, len(page.Jobs))
	for i := range page.Jobs {
		out[i] = jobRecord(&page.Jobs[i])
	}
	return out, page.Next, nil
}

func (a *jobs) job(ctx context.Context, who httpserver.Identity, id string) (queue.Job, error) {
	j, err := a.q.Get(ctx, id)
	if err != nil {
		return j, err
	}
	if !who.Operator() && j.Tenant != who.Tenant {
		return j, errNoJob
	}
	return j, nil
}

// Get implements httpserver.Jobs.
func (a *jobs) Get(ctx context.Context, who httpserver.Identity, id string) (httpserver.JobRecord, error) {
	j, err := a.job(ctx, who, id)
	if err != nil {
		return httpserver.JobRecord{}, err
	}
	return jobRecord(&j), nil
}

// Explain implements httpserver.Jobs.
func (a *jobs) Explain(ctx context.Context, who httpserver.Identity, id string) (*httpserver.Decision, error) {
	j, err := a.job(ctx, who, id)
	if err != nil {
		return nil, err
	}
	sj := &scheduler.Job{ID: j.ID, Tenant: j.Tenant, Model: j.Model, Priority: j.Priority, PromptTokens: j.PromptTokens}
	if rj, err := decodePayload(&j); err == nil {
		sj = schedJob(rj)
	}
	d := explained(a.sched.Explain(sj)) // the candidates as they are now
	if made := a.ring.Of(id); len(made) > 0 {
		last := made[len(made)-1].Decision // and the decision as it was made
		d.Action, d.WorkerID, d.Node, d.Code, d.Reason = last.Action.String(), last.Worker, last.Node, last.Code, last.Reason
		d.Policy, d.PolicyHash, d.SnapshotVersion = last.Policy, last.PolicyHash, last.Snapshot
		d.Evict = append([]string{}, last.Evict...)
	}
	return &d, nil
}

// Cancel implements httpserver.Jobs.
func (a *jobs) Cancel(ctx context.Context, who httpserver.Identity, id string) (httpserver.JobRecord, error) {
	j, err := a.job(ctx, who, id)
	if err != nil {
		return httpserver.JobRecord{}, err
	}
	if !j.State.Terminal() {
		if h, ok := a.rt.Handle(id); ok {
			_ = a.rt.Cancel(ctx, id) // it may have ended meanwhile
			select {
			case <-h.Done():
			case <-time.After(2 * time.Second): // the record says what there is by then
			case <-ctx.Done():
			}
			j, err = a.q.Get(ctx, id)
		} else {
			j, err = a.q.Cancel(ctx, id)
		}
		if err != nil {
			return httpserver.JobRecord{}, err
		}
	}
	return jobRecord(&j), nil
}

// Attach implements httpserver.Jobs.
func (a *jobs) Attach(ctx context.Context, who httpserver.Identity, id string) (httpserver.Job, error) {
	if _, err := a.job(ctx, who, id); err != nil {
		return nil, err
	}
	return a.sub.attach(ctx, id)
}

func jobRecord(j *queue.Job) httpserver.JobRecord {
	r := httpserver.JobRecord{JobID: j.ID, TenantID: j.Tenant, Model: j.Model, ModelRef: j.ModelRef, Priority: j.Priority, State: string(j.State),
		WorkerID: j.Worker, Node: j.Node, Attempt: j.Attempt, SubmittedAt: httpserver.Time{Time: j.Submitted}, StartedAt: httpserver.Time{Time: j.Started},
		FirstTokenAt: httpserver.Time{Time: j.FirstToken}, CompletedAt: httpserver.Time{Time: j.Completed}, Deadline: httpserver.Time{Time: j.Deadline},
		PromptTokens: j.PromptTokens, CachedTokens: j.CachedTokens, TokensOut: j.TokensOut}
	if r.Priority == "" {
		r.Priority = queue.Interactive
	}
	if j.ErrorCode != "" {
		r.Error = &httpserver.JobError{Code: j.ErrorCode, Message: j.ErrorMessage}
	}
	return r
}
