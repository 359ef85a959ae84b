package router

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// statusError is a worker's answer that is not a success.
type statusError struct {
	worker  string
	status  int
	message string
	after   time.Duration
}

// Error says which worker answered what.
func (e *statusError) Error() string {
	return fmt.Sprintf("worker %s answered %d: %s", e.worker, e.status, e.message)
}

// LogText is what a log may say: the worker's own words can repeat a prompt or a key.
func (e *statusError) LogText() string {
	return fmt.Sprintf("worker %s answered %d", e.worker, e.status)
}

// Code is the contract's code of the status.
func (e *statusError) Code() string {
	if e.clients() {
		return CodeInvalid
	}
	return CodeWorkerFailed
}

// clients reports whether the answer is about the request and not about the worker: a 501 is what engines say to a path
// that they were started without.
func (e *statusError) clients() bool {
	return e.status/100 == 4 || e.status == http.StatusNotImplemented
}

// refused judges an answer that is not a success.
func (t *task) refused(s Stream, x *exchange, resp *response, cont *continuation) (Outcome, bool) {
	body, over, err := x.whole(resp, 1<<20)
	if err != nil {
		return t.broke(x, err), false
	}
	e := &statusError{worker: x.w.ID, status: resp.status, message: errorText(body)}
	if key := x.w.APIKey; key != "" { // the queen's, not the client's
		e.message = strings.ReplaceAll(e.message, key, "[key]")
	}
	out := Outcome{Kind: WorkerFault, Err: e}
	keep := over && !resp.closes && resp.status/100 != 3
	switch {
	case resp.status == http.StatusTooManyRequests || resp.status == http.StatusServiceUnavailable:
		out.Kind = Busy
		if n, err := strconv.Atoi(resp.header.Get("Retry-After")); err == nil {
			e.after = time.Duration(n) * time.Second
		}
	case resp.status == http.StatusUnauthorized || resp.status == http.StatusForbidden || resp.status == http.StatusRequestTimeout:
		// the queen's own key, or the worker's impatience: nothing that the client did
	case e.clients() && cont == nil:
		out.Kind = ClientError
		if _, err := s.Body(t.ctx, resp.status, resp.header, body); err != nil {
			out.Kind, out.Err = t.kindOf(err), err
		}
	case e.clients():
		// the continuation is the router's own request, not the client's
		out.Err = refusal("this answer, by its engine's own word,")
		t.rescues = max(t.rescues, t.r.o.Rescues)
	}
	return out, keep
}

// errorText finds the message in an error body of any of the usual shapes.
func errorText(body []byte) string {
	const limit = 500
	text := strings.TrimSpace(string(body[:min(len(body), 4*limit)]))
	b, err := parseBody(body)
	for depth := 0; err == nil && depth < 3; depth++ {
		if v, ok := b.get("message"); ok && len(v) > 1 && v[0] == '"' {
			text = unquote(v)
			break
		}
		v, ok := b.get("error")
		if !ok {
			break
		}
		if len(v) > 1 && v[0] == '"' {
			text = unquote(v)
			break
		}
		b, err = parseBody(v)
	}
	if len(text) > limit {
		text = text[:limit] + "..."
	}
	return orText(strings.ToValidUTF8(text, "?"), "no message")
}

// conclude settles the attempt: slot, scheduler, fleet, hook.
func (t *task) conclude(res *reservation, x *exchange, out *Outcome) {
	w := x.w
	out.Worker, out.Node, out.Started = w.ID, w.Node, x.g.started
	out.Duration = x.g.took
	if last := time.Duration(x.g.firstAt.Load()); last > 0 && out.FirstToken == 0 {
		out.FirstToken = last
	}
	if out.FirstToken > 0 && t.firstToken.IsZero() {
		t.firstToken = x.g.started.Add(out.FirstToken)
	}
	t.emitted = t.emitted || out.Frames > 0
	t.tokens = max(t.tokens, out.Tokens)
	t.prompt, t.cached = max(t.prompt, out.PromptTokens), max(t.cached, out.CachedTokens)
	if out.Kind == Aborted && w.Capabilities.CancelCall && x.c != nil {
		t.r.callCancel(*w, t.job.ID)
	}
	t.r.sched.Observe(t.job, *w, *out) // first: the scheduler still has it before it
	res.release(*out)
	t.report(w, out)
	if t.r.o.Hooks.OnTry != nil {
		t.r.o.Hooks.OnTry(t.job, *w, *out)
	}
	if t.r.waits.Load() {
		t.r.poke()
	}
}

// report tells the fleet how the worker did. A 500 is held back until another worker has been asked the same: engines
// answer it to requests that are the client's fault, too, and those must not get workers ejected.
func (t *task) report(w *Worker, out *Outcome) {
	if out.Kind == Completed {
		t.busy = 0
		for _, h := range t.held {
			t.r.fleet.Report(h.worker, h.err)
		}
		t.held = nil
		t.r.fleet.Report(w.ID, nil)
		return
	}
	var e *statusError
	switch {
	case out.Kind == ClientError:
		t.r.fleet.Report(w.ID, nil)
	case out.Kind == WorkerFault && errors.As(out.Err, &e) && e.status == http.StatusInternalServerError:
		t.held = append(t.held, heldReport{w.ID, out.Err})
	case out.Kind == WorkerFault && codeOf(out.Err, "") != CodeWorkerFailed:
		t.r.pool.forget(w)
		t.r.fleet.Report(w.ID, out.Err)
	case out.Kind == WorkerFault && errors.As(out.Err, &e):
		t.r.fleet.Report(w.ID, out.Err)
	}
}
