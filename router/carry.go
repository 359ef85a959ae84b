package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"runtime/debug"
	"time"
)

// verdict is what follows an attempt.
type verdict struct {
	again bool
	hung  bool    // the worker fell silent: the client has waited long enough already
	why   error   // of the attempt that failed
	res   *Result // when not again
}

// carry runs attempts until the job has ended or waits again. It owns the task, and the goroutine is its own.
// Whoever starts it has counted it in active, where it counts.
func (t *task) carry(res *reservation) {
	counts, parked := t.counts(), false
	defer func() {
		if counts && !parked {
			t.r.leave()
		}
	}()
	defer t.caught()
	parked = t.run(res)
}

// counts says whether whoever carries the job first is counted in active. The submitter of a whole answer is not: nothing of
// the router's runs on once the job is out of the books, and Drain waits for those.
func (t *task) counts() bool { return !t.job.Inline || t.job.Stream }

// caught ends a job whose carrier panicked.
func (t *task) caught() {
	v := recover()
	if v == nil {
		return
	}
	t.r.log.Error("panic while a job was carried", "job", t.job.ID, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if t.slot != nil {
		t.slot.release(Outcome{Kind: Internal, Err: errors.New("panic")})
	}
	defer func() {
		if v := recover(); v != nil { // the neighbour that panicked may do so again
			t.close(t.result(Failed, CodeInternal, "internal error"))
		}
	}()
	switch {
	case !t.settled:
		t.finish(t.result(Failed, CodeInternal, "internal error; the queen's log has the details"))
	case !t.closed():
		t.close(t.result(Failed, CodeInternal, "internal error"))
	}
}

// run is the loop over attempts. parked says that the task is somebody else's now: see resume.
func (t *task) run(res *reservation) (parked bool) {
	for res != nil {
		t.slot = res
		v, parked := t.attempt(res)
		if parked {
			return true
		}
		res = t.next(res, v)
	}
	return false
}

// next ends the job, or gives where to try again.
func (t *task) next(res *reservation, v verdict) *reservation {
	res.release(Outcome{Kind: Internal, Err: v.why}) // only where the attempt had no chance to
	if !v.again {
		if v.res.Code == CodeWorkerFailed && v.why != nil { // the client's own words of it are for no log
			t.r.log.Info("job failed with its worker", "job", t.job.ID, "worker", t.worker.ID, "reason", logText(v.why))
		}
		t.finish(v.res)
		return nil
	}
	return t.replace(v)
}

// resume goes on after an attempt whose stream was parked, on a goroutine of its own.
func (t *task) resume(res *reservation, out Outcome, err error) {
	parked := false
	defer func() {
		if !parked {
			t.r.leave()
		}
	}()
	defer t.caught()
	v := t.after(res, t.relayed(&res.x, out, err))
	parked = t.run(t.next(res, v))
}

// carryClaimed begins with a job that waited: it makes it running in the store first.
func (t *task) carryClaimed(res *reservation) {
	parked := false
	defer func() {
		if !parked {
			t.r.leave()
		}
	}()
	defer t.caught()
	t.slot = res
	w := &res.p.Worker
	var err error
	if t.stored {
		err = t.r.queue.Started(t.ctx, t.job.ID, w.ID, w.Node, t.job.Attempt+1)
	} else {
		err = t.r.queue.Claim(t.ctx, t.job.ID, w.ID, w.Node)
	}
	if err == nil {
		t.stored = true
		parked = t.run(res)
		return
	}
	res.release(Outcome{Kind: Internal, Err: err})
	switch {
	case t.ctx.Err() != nil:
		t.finish(t.aborted())
	case errors.Is(err, ErrConflict):
		// ended behind our back: what happened is in the store already, the readers still need their terminal event
		s, err := t.open()
		if err != nil {
			t.r.log.Warn("stream of a job that was ended elsewhere not readable", "job", t.job.ID, "error", err)
		} else if _, over := s.Ended(); !over {
			_ = s.Fail(context.Background(), CodeCancelled, "cancelled on request")
		}
		t.close(t.result(CancelledJob, CodeCancelled, "cancelled on request"))
	default:
		t.finish(t.failure(err, CodeInternal))
	}
}

// finish settles, or lets go of a detached job that the shutdown cut.
func (t *task) finish(res *Result) {
	if t.job.Detached && res.State != Complete && errors.Is(t.ctx.why(), errCut) {
		t.abandon()
		return
	}
	t.settle(res)
}

// attempt posts the job to a worker and relays the answer. When it is parked, resume goes on.
func (t *task) attempt(res *reservation) (v verdict, parked bool) {
	w := &res.p.Worker
	if t.ctx.Err() != nil {
		res.release(Outcome{Kind: Aborted, Err: t.ctx.why()})
		return verdict{res: t.aborted()}, false
	}
	s, err := t.open()
	if err != nil {
		return verdict{why: err, res: t.failure(err, CodeInternal)}, false
	}
	cont, err := t.continuation(s)
	x := &res.x
	if err == nil {
		err = build(&x.req, t.job, w, cont)
	}
	if errors.Is(err, errSpent) {
		return verdict{why: err, res: t.spent()}, false
	}
	if err != nil {
		return verdict{why: err, res: t.failure(err, CodeInternal)}, false
	}
	first := t.r.o.FirstToken
	if !x.req.stream {
		first = t.r.o.reply(t.job.MaxTokens)
	}
	x.pool, x.w, x.job = t.r.pool, w, t.job
	x.g.begin(t.ctx, first, t.r.o.InterToken)
	t.begin(w, x.g.started)
	out, parked := t.converse(s, x, res, cont)
	if parked {
		return verdict{}, true
	}
	return t.after(res, out), false
}

// after judges an attempt that has ended.
func (t *task) after(res *reservation, out Outcome) verdict {
	x := &res.x
	t.conclude(res, x, &out)
	v := t.judge(x.w, &out)
	v.hung = out.Kind == WorkerFault && (errors.Is(out.Err, errFirstToken) || errors.Is(out.Err, errInterToken) || (out.FirstToken == 0 && out.Duration >= x.g.first))
	return v
}

// begin counts an attempt.
func (t *task) begin(w *Worker, now time.Time) {
	t.job.Attempt++
	if t.tries++; t.tries == 1 && t.r.o.Budget != nil {
		t.r.o.Budget.Request()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.worker = w
	if t.started.IsZero() {
		t.started = now
	}
}

// continuation is what earlier attempts emitted, or nil when the client has seen nothing.
func (t *task) continuation(s Stream) (*continuation, error) {
	if !t.emitted {
		return nil, nil
	}
	text, tokens, ok := s.Prefix()
	if !ok {
		return nil, refusal("this answer, as far as it got,")
	}
	if text == "" && tokens == 0 {
		return nil, nil
	}
	t.tokens = tokens
	return &continuation{text, tokens}, nil
}

func (t *task) spent() *Result {
	res := t.result(Complete, "", "")
	res.StopReason = "length"
	return res
}

// converse is the exchange itself: post, commit, answer, relay.
func (t *task) converse(s Stream, x *exchange, res *reservation, cont *continuation) (out Outcome, parked bool) {
	keep, streamed := false, false
	defer func() {
		if !streamed { // else relayed did, or does
			x.end(keep)
		}
	}()
	posted := x.post(false)
	if posted != nil && x.c == nil {
		return t.broke(x, posted), false
	}
	// nothing reaches a reader before the job is stored; the worker is at it meanwhile
	if !t.late() {
		if err := t.committed(); err != nil {
			return t.ours(err), false
		}
	}
	if err := s.Started(t.ctx, x.w.ID, x.w.Node, t.job.Attempt); err != nil {
		return t.ours(err), false
	}
	resp, err := x.answer(posted)
	if err != nil {
		return t.broke(x, err), false
	}
	t.status = resp.status
	if resp.status/100 != 2 {
		out, keep = t.refused(s, x, &resp, cont)
		return out, false
	}
	if kind := mediaType(resp.contentType); kind == "text/event-stream" || (x.req.stream && kind != "application/json") {
		out, parked = t.relay(s, x, res, &resp)
		streamed = true
		return out, parked
	}
	body, over, err := x.whole(&resp, t.r.o.MaxReply)
	if err != nil {
		return t.broke(x, err), false
	}
	keep = over && !resp.closes
	if out, err = s.Body(t.ctx, resp.status, resp.header, body); err != nil {
		out.Kind, out.Err = t.kindOf(err), x.g.why(err)
	}
	return out, false
}

// mediaType is a Content-Type without its parameters; the two that nearly all are need no parsing.
func mediaType(contentType string) string {
	switch contentType {
	case "application/json", "text/event-stream":
		return contentType
	case "application/json; charset=utf-8":
		return "application/json"
	case "text/event-stream; charset=utf-8":
		return "text/event-stream"
	}
	kind, _, _ := mime.ParseMediaType(contentType)
	return kind
}

// relay passes a streamed answer on.
func (t *task) relay(s Stream, x *exchange, res *reservation, resp *response) (out Outcome, parked bool) {
	f := &frames{streamBody: bodyOf(x.c, resp), x: x, keep: !resp.closes}
	x.f = f
	o := CopyOptions{Protocol: orText(x.w.Protocol, ProtocolOpenAI), Surface: x.req.surface, Attempt: t.job.Attempt, Status: resp.status,
		ContentType: resp.contentType, Continued: t.emitted, UsageInjected: x.req.usageInjected,
		Stop: x.req.stop, FirstToken: x.g.first, InterToken: x.g.inter}
	x.req = wire{} // nothing is posted again
	var err error
	if ps, ok := s.(PollStream); ok && t.r.o.Poller != nil && t.job.Stream && !t.job.Detached {
		if out, parked, err = ps.CopyThen(t.ctx, f, o, func(out Outcome, err error) { t.resume(res, out, err) }); parked {
			return out, true
		}
	} else {
		out, err = s.Copy(t.ctx, f, o)
	}
	return t.relayed(x, out, err), false
}

// relayed ends the exchange of a streamed answer.
func (t *task) relayed(x *exchange, out Outcome, err error) Outcome {
	if err != nil {
		out.Kind, out.Err = t.kindOf(err), x.g.why(err)
	}
	x.endStream(t.r, err)
	return out
}

// late says that the job's readers wait for the store themselves.
func (t *task) late() bool { return t.r.o.LateCommit && !t.job.Stream && !t.job.Detached }

// committed waits until the job is in the store.
func (t *task) committed() error {
	if t.pending == nil {
		return nil
	}
	return t.pending.Wait(t.ctx)
}

// broke is the outcome of a connection that failed.
func (t *task) broke(x *exchange, err error) Outcome {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errTruncated
	}
	out := Outcome{Kind: WorkerFault, Err: x.g.why(err)}
	if t.ctx.Err() != nil {
		out.Kind = Aborted
	}
	return out
}

// ours is the outcome of a failure on our own side.
func (t *task) ours(err error) Outcome {
	if t.ctx.Err() != nil {
		return Outcome{Kind: Aborted, Err: t.ctx.why()}
	}
	return Outcome{Kind: Internal, Err: err}
}

// kindOf tells a worker's fault from the stream's own.
func (t *task) kindOf(err error) Kind {
	switch {
	case t.ctx.Err() != nil:
		return Aborted
	case codeOf(err, CodeWorkerFailed) != CodeWorkerFailed:
		return Internal
	}
	return WorkerFault
}
