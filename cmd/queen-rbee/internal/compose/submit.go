package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// submitter takes a request through admission to the router.
type submitter struct {
	adm       *admission.Controller
	rt        *router.Router
	q         *queue.Queue
	live      *live
	hub       *sserelay.Hub
	met       *metrics.Instruments
	resolve   func(name string) (provisioner.Entry, error)
	serves    func(e provisioner.Entry, path string) error // nil when the model's engine answers that path
	modelWait time.Duration
}

var _ httpserver.Submitter = (*submitter)(nil)

// Submit implements httpserver.Submitter.
func (s *submitter) Submit(ctx context.Context, r *httpserver.Request) (httpserver.Job, error) {
	if err := s.q.First(ctx, r.Identity.Tenant, r.IdempotencyKey, r.BodyHash); err != nil { // a repeat costs nothing and is not refused
		return s.repeat(ctx, err)
	}
	entry0, err := s.resolve(r.Model)
	if err != nil {
		return nil, err
	}
	if r.Surface == httpserver.SurfaceRaw || r.Surface == httpserver.SurfaceEmbeddings {
		if err := s.serves(entry0, r.Path); err != nil {
			return nil, err
		}
	}
	begin, id := time.Now(), s.q.NewID()
	prompt := (r.PromptChars + 3) / 4
	grant, err := s.adm.Admit(ctx, admission.Request{ID: id, Tenant: r.Identity.Tenant, Model: r.Model, Batch: r.Priority == httpserver.PriorityBatch,
		PromptTokens: int64(prompt), MaxTokens: int64(r.MaxTokens), Deadline: r.Deadline})
	if err != nil {
		return nil, refusal(err)
	}
	n := &accepted{}
	j, e := &n.job, &n.entry
	*j = router.Job{ID: id, Tenant: r.Identity.Tenant, Model: entry0.Name, ModelRef: entry0.Ref, Priority: r.Priority, Session: r.Session,
		Node: r.Node, Surface: surfaceOf(r.Surface), Path: r.Path, Body: r.Body, ContentType: r.ContentType, Prompt: r.Prompt, Stream: r.Stream,
		Inline: !r.Stream && !r.Detach, Detached: r.Detach, Deadline: r.Deadline, Submitted: time.Now(), PromptTokens: prompt, MaxTokens: r.MaxTokens,
		IdempotencyKey: r.IdempotencyKey, CorrelationID: r.CorrelationID, Traceparent: r.Traceparent, Strip: entry0.Strip, Set: rawValues(entry0.Set)}
	e.job, e.grant, e.fingerprint, e.usage, e.keep, e.trace = j, grant, r.BodyHash, r.IncludeUsage, r.KeepAlive, s.trace(j, begin)
	e.trace.Child(metrics.SpanAdmit, begin, j.Submitted, nil, "tenant", j.Tenant)
	n.work.entry = e
	j.Aux = &n.work
	s.live.put(id, e)
	s.met.RequestStart(ctx, operationOf(j.Surface))
	h, err := s.rt.Submit(ctx, j)
	if err != nil {
		s.live.drop(id)
		grant.Settle(admission.Usage{})
		e.trace.End(codeOf(err), time.Now())
		if errors.Is(err, queue.ErrDuplicate) {
			s.met.RequestAbandoned(ctx, operationOf(j.Surface))
			return s.repeat(ctx, err)
		}
		s.met.RequestDone(ctx, metrics.Request{Operation: operationOf(j.Surface), Model: j.Model, Status: statusOf(err), Code: codeOf(err), Duration: time.Since(begin)})
		if r.IdempotencyKey != "" {
			return s.repeat(ctx, err)
		}
		return nil, err
	}
	n.reader = job{s: s, id: id, h: h, limits: limitHeaders(grant.Remaining()), late: r.IdempotencyKey == ""}
	return &n.reader, nil
}

// accepted is what compose keeps of a request that was let in: one piece of memory.
type accepted struct {
	job    router.Job
	entry  entry
	work   work
	reader job
}

func surfaceOf(s httpserver.Surface) router.Surface {
	switch s {
	case httpserver.SurfaceChat:
		return router.Chat
	case httpserver.SurfaceCompletions:
		return router.Completion
	case httpserver.SurfaceEmbeddings:
		return router.Embeddings
	case httpserver.SurfaceOllamaChat:
		return router.OllamaChat
	case httpserver.SurfaceOllamaGenerate:
		return router.OllamaGenerate
	case httpserver.SurfaceRaw:
		return router.Raw
	}
	return router.Native
}

func rawValues(set map[string]any) map[string]string {
	if len(set) == 0 {
		return nil
	}
	out := make(map[string]string, len(set))
	for k, v := range set {
		if b, err := json.Marshal(v); err == nil {
			out[k] = string(b)
		}
	}
	return out
}

// repeat answers a request whose idempotency key the queue knows: with the first job, or with why that can't be.
func (s *submitter) repeat(ctx context.Context, err error) (httpserver.Job, error) {
	var dup *queue.DuplicateError
	switch {
	case errors.As(err, &dup):
		j, err := s.attach(ctx, dup.First.ID)
		if err == nil || !errors.Is(err, sserelay.ErrNotFound) {
			return j, err
		}
		state := dup.First.State
		if rec, err := s.q.Get(ctx, dup.First.ID); err == nil {
			state = rec.State
		}
		return nil, &codedError{code: "CONFLICT", msg: fmt.Sprintf("this Idempotency-Key made job %s, which is %s and whose events are no longer kept: "+
			"GET /v2/tasks/%s says how it ended; take a new key to run the request again", dup.First.ID, state, dup.First.ID),
			facts: map[string]any{"job_id": dup.First.ID, "state": state}}
	case errors.Is(err, queue.ErrConflict):
		return nil, &codedError{code: "CONFLICT", msg: "this Idempotency-Key was used with another request: take a new key, or send the same request again"}
	}
	return nil, err
}

// attach gives a reader for a job that was submitted before: live, finished, or found at start. A job that ends at this
// very moment is in none of the three places for an instant.
func (s *submitter) attach(ctx context.Context, id string) (httpserver.Job, error) {
	for tries := 0; ; tries++ {
		h, running := s.rt.Handle(id)
		if st, ok := s.hub.Lookup(id); ok {
			if running {
				if err := h.Committed(ctx); err != nil {
					return nil, err
				}
			}
			return &job{s: s, id: id, st: st, eager: true}, nil
		}
		if running {
			return &job{s: s, id: id, h: h, eager: true}, nil
		}
		if _, ok := s.live.get(id); !ok || tries == 100 {
			st, err := s.hub.Replay(ctx, id)
			if err != nil {
				return nil, err
			}
			return &job{s: s, id: id, st: st, eager: true}, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// job is one reader's view of a job.
type job struct {
	s      *submitter
	id     string
	h      *router.Handle   // of a job that was submitted by this process
	st     *sserelay.Stream // else
	limits http.Header
	eager  bool // a reader that came later: every error is an event
	late   bool // it may be stored together with its end, if that comes soon
}

var _ httpserver.Job = (*job)(nil)

func (j *job) ID() string          { return j.id }
func (j *job) Limits() http.Header { return j.limits }

func (j *job) Position() int {
	if j.h == nil {
		return 0
	}
	return j.h.Position()
}

func (j *job) Committed(ctx context.Context) error {
	if j.h == nil {
		return nil
	}
	return j.h.Committed(ctx)
}

func (j *job) stream() (*sserelay.Stream, error) {
	if j.st != nil {
		return j.st, nil
	}
	st, err := j.h.Stream()
	if err != nil {
		return nil, err
	}
	j.st = st.(*stream).Stream
	return j.st, nil
}

// formatOf is a format by its name; FormatOpenAI is the one of the job's own client.
func formatOf(name string) (sserelay.Format, bool) {
	switch name {
	case httpserver.FormatNative:
		return sserelay.FormatNative, true
	case httpserver.FormatChat:
		return sserelay.FormatChat, true
	case httpserver.FormatCompletion:
		return sserelay.FormatCompletion, true
	case httpserver.FormatOllamaChat:
		return sserelay.FormatOllamaChat, true
	case httpserver.FormatOllamaGenerate:
		return sserelay.FormatOllamaGenerate, true
	case httpserver.FormatRaw:
		return sserelay.FormatRaw, true
	}
	return 0, false
}

func (j *job) view(v httpserver.View) sserelay.View {
	f, ok := formatOf(v.Format)
	usage := v.IncludeUsage
	if v.Format == httpserver.FormatOpenAI || !ok {
		var own, known bool
		if f, own, known = j.st.Asked(); known {
			usage = own
		} else {
			f = j.openAI()
		}
	}
	return sserelay.View{Format: f, IDs: v.IDs, IncludeUsage: usage, LastEventID: v.LastEventID, Model: v.Model, Eager: j.eager}
}

// openAI is the OpenAI view of a job whose own client reads no stream of OpenAI's: completion chunks for a completion, else
// chat chunks.
func (j *job) openAI() sserelay.Format {
	if e, ok := j.s.live.get(j.id); ok {
		if e.job.Surface == router.Completion {
			return sserelay.FormatCompletion
		}
		return sserelay.FormatChat
	}
	rec, err := j.s.q.Get(context.Background(), j.id)
	if err == nil {
		if old, err := decodePayload(&rec); err == nil && old.Surface == router.Completion {
			return sserelay.FormatCompletion
		}
	}
	return sserelay.FormatChat
}

// mark says where the job ran; nothing while that is not known.
func (j *job) mark(h http.Header) {
	worker, queued := j.ran()
	if worker != "" {
		h["X-Rbee-Worker-Id"] = []string{worker}
	}
	if queued != "" {
		h["X-Rbee-Queue-Ms"] = []string{queued}
	}
}

// ran is where the job ran and how many milliseconds it waited, as far as that is known.
func (j *job) ran() (worker, queued string) {
	switch {
	case j.h != nil:
		worker, _ = j.h.Worker()
		queued = strconv.FormatInt(j.h.QueueTime().Milliseconds(), 10)
	case j.st != nil:
		worker, _ = j.st.Worker()
	}
	return worker, queued
}

// Serve implements httpserver.Job.
func (j *job) Serve(ctx context.Context, w http.ResponseWriter, v httpserver.View) error {
	st, err := j.stream()
	if err != nil {
		return err
	}
	if j.eager {
		if err := j.Committed(ctx); err != nil {
			return err
		}
	}
	view := j.view(v)
	view.TakeOver = takeOver(w)
	view.OnHeaders = func(h http.Header) {
		j.mark(h)
		if v.OnHeaders != nil {
			v.OnHeaders(h)
		}
	}
	err = st.Serve(ctx, w, view)
	switch {
	case errors.Is(err, sserelay.ErrAborted):
		return errors.Join(httpserver.ErrAborted, err)
	case errors.Is(err, sserelay.ErrTaken):
		return httpserver.ErrTaken
	}
	return err
}

// shortAnswer is well below the time for which queue.SubmitLate holds a job back: the record of a job that was carried
// here and is over by then is written with its end.
const shortAnswer = 25 * time.Millisecond

// Result implements httpserver.Job.
func (j *job) Result(ctx context.Context, v httpserver.View) (*httpserver.Result, error) {
	st, err := j.stream()
	if err != nil {
		return nil, err
	}
	view := j.view(v)
	begin, carried := time.Now(), false
	wait := &patience{Context: ctx}
	if j.h != nil {
		defer wait.end()
		view.Carry = func() {
			if !j.eager { // else the one who submitted it does
				carried = j.h.Carry()
			}
			if over, _, _ := st.Ended(); !over && j.s.modelWait > 0 {
				wait.begin(j.h, j.s.modelWait)
			}
		}
	}
	res, err := st.Result(wait, view)
	if !carried || !j.late || time.Since(begin) > shortAnswer {
		j.s.hub.Flush() // its record may say only later how it ended: until then the journal does
	}
	if err != nil {
		if cause := context.Cause(wait.Context); cause != nil && !errors.Is(cause, context.Canceled) {
			return nil, cause
		}
		return nil, err
	}
	if err := j.Committed(ctx); err != nil {
		return nil, err
	}
	out := &httpserver.Result{Status: res.Status, ContentType: res.ContentType, Body: res.Body}
	out.WorkerID, out.QueueMs = j.ran()
	return out, nil
}

// patience is a reader's context, which ends early when the model is still being loaded after timeouts.model_wait, or begins
// to be after that. Only a reader whose job was not over at once pays for that.
type patience struct {
	context.Context
	giveUp context.CancelCauseFunc
	timer  *time.Timer
}

func (p *patience) begin(h *router.Handle, after time.Duration) {
	p.Context, p.giveUp = context.WithCancelCause(p.Context)
	ctx, giveUp := p.Context, p.giveUp
	var look func()
	look = func() {
		if err := h.LoadingError(); err != nil {
			giveUp(err)
		} else if ctx.Err() == nil {
			time.AfterFunc(time.Second, look)
		}
	}
	p.timer = time.AfterFunc(after, look)
}

func (p *patience) end() {
	if p.giveUp != nil {
		p.timer.Stop()
		p.giveUp(nil)
	}
}

// refused is a refusal with the x-ratelimit-* headers of its moment.
type refused struct {
	*admission.Refusal
}

func (r refused) Error() string       { return r.Message } // without the module's name: clients read it
func (r refused) Header() http.Header { return limitHeaders(r.State) }
func (r refused) Unwrap() error       { return r.Refusal }

func refusal(err error) error {
	var r *admission.Refusal
	if errors.As(err, &r) {
		return refused{r}
	}
	return err
}

// limitHeaders are the x-ratelimit-* values; those of a limit that is not set are left out.
func limitHeaders(r admission.Remaining) http.Header {
	if r.LimitRequests == 0 && r.LimitTokens == 0 {
		return nil
	}
	h, values := make(http.Header, 6), make([]string, 0, 6)
	put := func(name, v string) {
		values = append(values, v)
		h[name] = values[len(values)-1:]
	}
	if r.LimitRequests != 0 {
		put("X-Ratelimit-Limit-Requests", strconv.FormatInt(r.LimitRequests, 10))
		put("X-Ratelimit-Remaining-Requests", strconv.FormatInt(r.RemainingRequests, 10))
		put("X-Ratelimit-Reset-Requests", seconds(r.ResetRequests))
	}
	if r.LimitTokens != 0 {
		put("X-Ratelimit-Limit-Tokens", strconv.FormatInt(r.LimitTokens, 10))
		put("X-Ratelimit-Remaining-Tokens", strconv.FormatInt(r.RemainingTokens, 10))
		put("X-Ratelimit-Reset-Tokens", seconds(r.ResetTokens))
	}
	return h
}

// seconds writes a time as the header has it, rounded up to a millisecond: 1.5s.
func seconds(d time.Duration) string {
	ms := int64(max(0, d)+time.Millisecond-1) / int64(time.Millisecond)
	b := strconv.AppendInt(make([]byte, 0, 16), ms/1000, 10)
	if rest := ms % 1000; rest != 0 {
		b = append(b, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
		for b[len(b)-1] == '0' {
			b = b[:len(b)-1]
		}
	}
	return string(append(b, 's'))
}
