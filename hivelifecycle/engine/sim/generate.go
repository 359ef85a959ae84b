package sim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const defaultTokens = 16

// task is one answer that somebody wants.
type task struct {
	seed   uint64 // of the prompt proper
	start  int    // position of the first token to come
	n      int    // how many
	reason string // stop or length
	full   string // everything that the engine reads: prompt and the answer so far
	done   string // the end of full that is an answer of the simulator's own: it counts in the tokens that it was made of
	fault  Fault
}

// outcome is what became of a task.
type outcome struct {
	tokens, prompt, cached int
	first, decode          time.Duration
}

// plan works out what an answer to prompt consists of. prefix is the beginning of the answer that exists already; with
// an empty one it is looked for at the end of prompt.
func (s *Server) plan(prompt, prefix string, maxTokens *int) (task, error) {
	t := task{full: prompt + prefix, n: defaultTokens, reason: "stop"}
	if prefix != "" {
		t.seed, t.start = hash(hashStart, prompt), count(prefix)
		if _, ours := s.text.matches(t.seed, prefix); ours {
			t.n -= t.start
			t.done = prefix
		}
	} else {
		t.seed, t.start = s.text.split(prompt)
		t.n -= t.start
	}
	if maxTokens != nil {
		if *maxTokens < 0 || *maxTokens > 1<<20 {
			return t, fmt.Errorf("max_tokens is a whole number from 1 to %d", 1<<20)
		}
		t.n, t.reason = *maxTokens, "length"
	}
	t.n = max(t.n, 0)
	t.fault = s.faults.draw()
	return t, nil
}

// read is how many tokens the engine reads before it writes one.
func (t *task) read() int {
	if t.done == "" {
		return promptTokens(t.full)
	}
	return promptTokens(t.full[:len(t.full)-len(t.done)]) + t.start
}

// tooLong says whether a task does not fit into the context.
func (s *Server) tooLong(t task) bool {
	return s.c.Context > 0 && promptTokens(t.full) >= s.c.Context
}

// The faults that a handler has to act on.
var (
	errCut     = errors.New("the connection is to be cut")
	errGarbage = errors.New("garbage is to be sent, then the connection is to be cut")
	errFirst   = errors.New("failing before the first token was asked for")
	errBusy    = errors.New("being busy was asked for")
)

// generate holds a slot while it makes the tokens of t. emit is called for each of them and flush after those that
// were due together, so that a late timer does not lose time.
func (s *Server) generate(ctx context.Context, t task, emit func(i int, token string), flush func() error) (outcome, error) {
	out := outcome{prompt: t.read()}
	s.waiting.Add(1)
	select {
	case s.slots <- struct{}{}:
		s.waiting.Add(-1)
	case <-ctx.Done():
		s.waiting.Add(-1)
		return out, context.Cause(ctx)
	}
	s.busy.Add(1)
	s.answerTotal.Add(1)
	defer func() {
		s.busy.Add(-1)
		<-s.slots
	}()
	began := time.Now()
	if err := s.before(ctx, t.fault); err != nil {
		return out, err
	}
	out.cached = min(s.cache.lookup(t.full), out.prompt)
	prefill := s.c.TTFT + time.Duration(float64(out.prompt-out.cached)/s.c.Prefill*float64(time.Second))
	if err := sleep(ctx, prefill); err != nil {
		return out, context.Cause(ctx)
	}
	s.cache.add(t.full)
	s.promptTotal.Add(int64(out.prompt))
	s.cachedTotal.Add(int64(out.cached))
	out.first = time.Since(began)
	err := s.decode(ctx, t, &out, emit, flush)
	s.predictedTotal.Add(int64(out.tokens))
	return out, err
}

func (s *Server) before(ctx context.Context, f Fault) error {
	switch f.Kind {
	case FailFirst:
		return errFirst
	case FailBusy:
		return errBusy
	case FailCrash:
		s.o.Exit(139)
		return errCut
	case FailHang:
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

func (s *Server) decode(ctx context.Context, t task, out *outcome, emit func(int, string), flush func() error) error {
	start := time.Now()
	defer func() { out.decode = time.Since(start) }()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	answer := make([]byte, 0, 8*t.n)
	for out.tokens < t.n {
		due := t.n
		if s.c.ITL > 0 {
			due = min(t.n, 1+int(time.Since(start)/s.c.ITL))
		}
		for out.tokens < due {
			if err := s.during(ctx, t.fault, out.tokens, flush); err != nil {
				return err
			}
			token := s.text.token(t.seed, t.start+out.tokens)
			emit(t.start+out.tokens, token)
			answer = append(answer, token...)
			out.tokens++
			if s.c.ITL == 0 && out.tokens%64 == 0 {
				break
			}
		}
		if err := flush(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if out.tokens >= t.n || s.c.ITL == 0 {
			continue
		}
		timer.Reset(time.Until(start.Add(time.Duration(out.tokens) * s.c.ITL)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.cache.add(t.full + string(answer))
	return s.during(ctx, t.fault, out.tokens, flush)
}

// during acts on the faults that count tokens.
func (s *Server) during(ctx context.Context, f Fault, tokens int, flush func() error) error {
	if f.N != tokens || f.Kind == "" {
		return nil
	}
	switch f.Kind {
	case FailAfter:
		return errors.Join(errCut, flush())
	case FailGarbage:
		return errors.Join(errGarbage, flush())
	case FailCrashAfter:
		err := flush()
		s.o.Exit(139)
		return errors.Join(errCut, err)
	case FailHangAfter:
		if err := flush(); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

// broken deals with a generation that did not come to its end. It says whether the handler can still write.
func (s *Server) broken(w http.ResponseWriter, err error, begun bool) (writable bool) {
	switch {
	case errors.Is(err, errCut), errors.Is(err, errGarbage):
		if errors.Is(err, errGarbage) {
			_, _ = w.Write([]byte("data: {\"choices\":[{\"del\n\n"))
			_ = http.NewResponseController(w).Flush()
		}
		if conn, _, herr := http.NewResponseController(w).Hijack(); herr == nil {
			_ = conn.Close()
		}
		return false
	case begun:
		return true
	case errors.Is(err, errFirst):
		fail(w, http.StatusInternalServerError, "server_error", "asked for by fail=first")
	case errors.Is(err, errBusy):
		fail(w, http.StatusServiceUnavailable, "unavailable_error", "asked for by fail=busy")
	case errors.Is(err, errCancelled):
		fail(w, 499, "cancelled", "the job was cancelled")
	}
	return false
}
