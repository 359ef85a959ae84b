package compose

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/metrics"
	"github.com/queen-rbee/queen-rbee/router"
	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/sserelay"
)

// streams lets the router write event streams.
type streams struct {
	hub   *sserelay.Hub
	sched *scheduler.Scheduler
	met   *metrics.Instruments
}

var (
	_ router.Streams = (*streams)(nil)
	_ router.Stream  = (*stream)(nil)

	_ router.PollStream = (*stream)(nil)
)

// stream is a relay's stream as the router sees it; what is not here is the relay's own method.
type stream struct {
	*sserelay.Stream
	job   *router.Job
	entry *entry
	sched *scheduler.Scheduler
}

// Open implements router.Streams.
func (s *streams) Open(j *router.Job, recovered bool) (router.Stream, error) {
	e := entryOf(j)
	o := sserelay.StreamOptions{Detached: j.Detached, Recovered: recovered, Model: j.Model, Created: j.Submitted, IncludeUsage: e != nil && e.usage}
	switch {
	case !j.Stream:
	case j.Surface == router.Chat:
		o.Format = sserelay.FormatChat
	case j.Surface == router.Completion:
		o.Format = sserelay.FormatCompletion
	}
	st, err := s.hub.Open(context.Background(), j.ID, o)
	if err != nil {
		return nil, err
	}
	if e != nil {
		e.stream = st
	}
	return &stream{Stream: st, job: j, entry: e, sched: s.sched}, nil
}

// protocolOf says how the relay has to read what a worker sends.
func protocolOf(worker string, surface router.Surface) sserelay.Protocol {
	if worker == router.ProtocolExecute && surface == router.Native {
		return sserelay.Execute
	}
	switch surface {
	case router.Chat:
		return sserelay.Chat
	case router.Completion:
		return sserelay.Completion
	case router.Native:
		return sserelay.Execute
	}
	return sserelay.Raw
}

// Copy implements router.Stream.
func (s *stream) Copy(ctx context.Context, body io.ReadCloser, o router.CopyOptions) (router.Outcome, error) {
	out, err := s.Stream.Copy(ctx, body, s.copyOptions(o))
	return outcome(out), err
}

func (s *stream) copyOptions(o router.CopyOptions) sserelay.CopyOptions {
	p := protocolOf(o.Protocol, o.Surface)
	if p == sserelay.Raw && !strings.HasPrefix(o.ContentType, "text/event-stream") {
		p = sserelay.Bytes
	}
	co := sserelay.CopyOptions{Protocol: p, Status: o.Status, ContentType: o.ContentType, // the router watches over the worker's silence
		StripUsage: o.UsageInjected, Hold: s.hold, OnFirst: func() { s.sched.FirstToken(s.job.ID) }}
	if o.Continued {
		co.Continuation = &sserelay.Continuation{Stop: o.Stop}
	}
	return co
}

// hold keeps the first byte back until the job is stored. Readers of a job that is neither streamed nor detached wait for
// the store themselves.
func (s *stream) hold(ctx context.Context) error {
	if s.entry == nil || !s.job.Stream && !s.job.Detached {
		return nil
	}
	return s.entry.commit.Wait(ctx)
}

// Body implements router.Stream.
func (s *stream) Body(ctx context.Context, status int, header http.Header, body []byte) (router.Outcome, error) {
	if err := s.hold(ctx); err != nil {
		return router.Outcome{}, err
	}
	p := sserelay.Raw
	switch s.job.Surface {
	case router.Chat, router.OllamaChat:
		p = sserelay.Chat
	case router.Completion, router.OllamaGenerate:
		p = sserelay.Completion
	case router.Native:
		p = sserelay.Execute
	}
	out, err := s.Stream.Body(ctx, p, status, header, body)
	return outcome(out), err
}

func outcome(o sserelay.Outcome) router.Outcome {
	return router.Outcome{Frames: o.Frames, Tokens: o.OutputTokens, PromptTokens: o.PromptTokens, CachedTokens: o.CachedTokens, StopReason: o.Finish}
}

// End implements router.Stream.
func (s *stream) End(ctx context.Context, r router.Result) error {
	decode := time.Duration(0)
	if !r.FirstToken.IsZero() && !r.Completed.IsZero() {
		decode = r.Completed.Sub(r.FirstToken)
	}
	return s.Stream.End(ctx, sserelay.Result{Finish: r.StopReason, PromptTokens: r.PromptTokens, CachedTokens: r.CachedTokens,
		OutputTokens: r.TokensOut, Decode: max(0, decode)})
}

// Ended implements router.Stream.
func (s *stream) Ended() (router.Result, bool) {
	ended, r, err := s.Stream.Ended()
	if !ended {
		return router.Result{}, false
	}
	res := router.Result{State: router.Complete, StopReason: r.Finish, PromptTokens: r.PromptTokens, CachedTokens: r.CachedTokens, TokensOut: r.OutputTokens}
	if err != nil {
		res.State, res.Code, res.Message = router.Failed, codeOf(err), err.Error()
		if res.Code == router.CodeCancelled {
			res.State = router.CancelledJob
		}
	}
	return res, true
}
