package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// judge decides what follows an attempt.
func (t *task) judge(w *Worker, out *Outcome) verdict {
	switch out.Kind {
	case Completed:
		res := &t.final // nobody reads it before the end
		*res = Result{State: Complete, StopReason: out.StopReason, Completed: out.Started.Add(out.Duration)}
		t.describe(res)
		return verdict{res: res}
	case ClientError:
		return verdict{why: out.Err, res: t.failure(out.Err, CodeInvalid)}
	case Aborted:
		return verdict{why: out.Err, res: t.aborted()}
	case Internal:
		return verdict{why: out.Err, res: t.failure(out.Err, CodeInternal)}
	case Busy:
		var e *statusError
		pause := time.Second
		if errors.As(out.Err, &e) {
			pause = min(max(e.after, time.Second), 30*time.Second)
		}
		t.busy++
		t.avoid(w.ID, pause)
		return verdict{again: true, why: out.Err, res: t.lost(w, out.Err)}
	}
	t.avoid(w.ID, 5*time.Second)
	return t.rescue(w, out.Err)
}

// rescue decides after a worker's fault: a plain retry while the client has seen nothing, a continuation after that.
func (t *task) rescue(w *Worker, why error) verdict {
	v := verdict{again: true, why: why, res: t.lost(w, why)}
	if !t.emitted {
		if t.retries >= t.r.o.Retries {
			v.again = false
		}
		t.retries++
		return v
	}
	if t.rescues >= t.r.o.Rescues {
		v.again = false
		return v
	}
	t.rescues++
	s, err := t.open()
	if err != nil {
		return verdict{why: err, res: t.failure(err, CodeInternal)}
	}
	// whether it can be continued at all is known now: a client need not wait for a slot to hear that it can't
	cont, err := t.continuation(s)
	if err == nil {
		err = build(&wire{}, t.job, w, cont)
	}
	switch {
	case errors.Is(err, errSpent):
		return verdict{why: why, res: t.spent()}
	case err != nil:
		return verdict{why: why, res: t.failure(fmt.Errorf("worker %s failed (%s) and %w", w.ID, logText(why), err), CodeWorkerFailed)}
	}
	return v
}

// lost is the result of a job whose worker failed and that nothing can save. A worker that fails is not quoted, since its
// words can repeat a prompt and the record keeps them; but a 500 of several workers is about the request.
func (t *task) lost(w *Worker, why error) *Result {
	var e *statusError
	switch {
	case errors.As(why, &e) && len(t.held) > 1:
		return t.result(Failed, CodeWorkerFailed, e.Error())
	case e != nil:
		return t.result(Failed, CodeWorkerFailed, e.LogText()+"; its own log says why; send the request again")
	}
	return t.result(Failed, CodeWorkerFailed, fmt.Sprintf("worker %s failed: %s; send the request again", w.ID, logText(why)))
}

// plain is an error's text without addresses that mean nothing to a client.
func plain(err error) string {
	var op *net.OpError
	var dial *dialError
	switch {
	case errors.As(err, &dial):
		return "it could not be reached"
	case errors.As(err, &op) || errors.Is(err, net.ErrClosed):
		return "the connection to it broke"
	}
	return err.Error()
}

// logText is plain without the words of a worker, which can repeat a prompt or a key: errors that quote them implement
// LogText.
func logText(err error) string {
	var quoting interface {
		error
		LogText() string
	}
	if errors.As(err, &quoting) {
		return quoting.LogText()
	}
	return plain(err)
}

// replace finds the job another place: a reservation to go on with, or nil when it waits or has ended.
func (t *task) replace(v verdict) *reservation {
	r := t.r
	if r.o.Hooks.OnRetry != nil {
		r.o.Hooks.OnRetry(t.job, t.worker.ID, t.emitted, v.why)
	}
	r.log.Info("job goes on elsewhere", "job", t.job.ID, "worker", t.worker.ID, "continued", t.emitted, "reason", logText(v.why))
	t.owed = r.o.Budget != nil && !t.emitted && !r.o.Budget.Take()
	if t.owed || t.busy > 1 { // no leave yet, or everybody is busy, whatever the scheduler believes
		t.wait(v, r.hold(t, &Placement{Action: Wait}, time.Now()))
		return nil
	}
	p, err := r.sched.Place(t.ctx, t.job)
	if err != nil {
		if t.ctx.Err() != nil {
			t.finish(t.aborted())
		} else { // the client hears why its job failed, not why there is nobody else
			r.log.Warn("job can't go on elsewhere", "job", t.job.ID, "error", logText(err))
			t.finish(v.res)
		}
		return nil
	}
	res := r.hold(t, &p, time.Now())
	switch p.Action {
	case Route:
		if slices.Contains(t.job.Exclude, p.Worker.ID) { // nobody else, for now
			res.release(Outcome{Kind: Aborted})
			if v.hung && !t.job.Detached {
				t.finish(v.res)
				return nil
			}
			t.wait(v, r.hold(t, &Placement{Action: Wait}, time.Now()))
			return nil
		}
		if err := r.queue.Started(t.ctx, t.job.ID, p.Worker.ID, p.Worker.Node, t.job.Attempt+1); err != nil {
			r.log.Warn("new worker of a job not recorded", "job", t.job.ID, "error", err)
		}
		return res
	case Reject:
		t.finish(v.res)
		return nil
	}
	if v.hung && !t.job.Detached {
		res.release(Outcome{Kind: Aborted})
		t.finish(v.res)
		return nil
	}
	t.wait(v, res)
	return nil
}

// wait puts a job that lost its worker back into the line, in front.
func (t *task) wait(v verdict, res *reservation) {
	r := t.r
	t.last = &v
	if t.busy > 1 {
		t.pause = time.Now().Add(min(50*time.Millisecond<<min(t.busy, 8), 5*time.Second))
	}
	if !t.emitted && t.stored {
		if err := r.queue.Requeue(t.ctx, t.job.ID); err == nil {
			t.stored = false
		}
	}
	if t.emitted && !t.job.Detached && res.p.Action == Wait {
		t.until = time.Now().Add(r.o.RescueWait)
	}
	if !r.lineUp(t, true) {
		res.release(Outcome{Kind: Aborted})
		t.finish(t.aborted())
		return
	}
	if res.p.Action == Provision {
		r.joinLoad(t, res)
	}
	res.release(Outcome{Kind: Aborted}) // nothing, when the load took it
	r.poke()
}

// callCancel tells a worker of the execute protocol that a job is not wanted any more. Closing the connection has said
// so already; this is for engines that notice late.
func (r *Router) callCancel(w Worker, id string) {
	r.enter()
	go func() {
		defer r.leave()
		ctx := &life{}
		ctx.limit(time.Now().Add(time.Second))
		defer ctx.cancel(errCancelled)
		x := &exchange{pool: r.pool, w: &w, job: &Job{},
			req: wire{path: "/v1/cancel", contentType: "application/json", body: []byte(`{"job_id":` + quote(id) + `}`)}}
		x.g.begin(ctx, time.Second, time.Second)
		_, _ = x.answer(x.post(true))
		x.end(false)
	}()
}

// unquote reads a raw JSON string; what is none stays as it is.
func unquote(raw []byte) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return string(raw)
	}
	return s
}
