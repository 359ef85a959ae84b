package retry

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"
)

// Class says what an error means for a retry and for a breaker.
type Class uint8

// The classes of errors.
const (
	Fault     Class = iota // broken now, may work later: retried, counts against the breaker
	Busy                   // refused for load (429, 503): retried, no fault of the breaker's
	Stop                   // the caller's own mistake or wish: not retried, no fault
	FatalStop              // broken for good: not retried, counts against the breaker
)

// Event tells an observer about one failed attempt.
type Event struct {
	Op      string
	Attempt int           // from 1
	Err     error         // what the attempt returned
	Delay   time.Duration // before the next attempt; 0 when there is none
	Final   bool          // no further attempt follows
	Reason  string        // why not: permanent, attempts, deadline, budget, breaker, cancelled
}

// Options tune a Retrier. The zero value is usable.
type Options struct {
	Initial       time.Duration // ceiling of the first delay, 0 = 1 s
	Multiplier    float64       // growth of the ceiling, 0 = 2
	Max           time.Duration // highest ceiling, 0 = 60 s
	Attempts      int           // in all, 0 = 5, 1 = never retry
	MaxRetryAfter time.Duration // cap of what a server may ask for, 0 = Max
	Budget        *Budget       // shared between retriers of one upstream; nil = a new one with its defaults
	NoBudget      bool          // do without a budget
	Breaker       *Breaker      // nil = none
	Classify      func(error) Class
	OnEvent       func(Event) // after each failed attempt
	Now           func() time.Time
	Sleep         func(context.Context, time.Duration) error
	Rand          func() float64 // in [0, 1)
}

// Retrier repeats operations. Its methods may be called from any goroutine.
type Retrier struct {
	o Options
}

// New returns a retrier.
func New(o Options) *Retrier {
	if o.Initial <= 0 {
		o.Initial = time.Second
	}
	if o.Multiplier < 1 {
		o.Multiplier = 2
	}
	if o.Max <= 0 {
		o.Max = time.Minute
	}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.MaxRetryAfter <= 0 {
		o.MaxRetryAfter = o.Max
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Classify == nil {
		o.Classify = Classify
	}
	if o.Budget == nil && !o.NoBudget {
		o.Budget = NewBudget(BudgetOptions{Now: o.Now})
	}
	return &Retrier{o: o}
}

// Do calls fn until it succeeds, its error is not worth a retry, the attempts or the budget are used up, or the next
// attempt would begin after ctx's deadline. A permanent error is returned as it is; one that was given up on is
// wrapped in *ExhaustedError. While the breaker is open the error is a *OpenError and fn is not called.
func (r *Retrier) Do(ctx context.Context, op string, fn func(context.Context) error) error {
	if r.o.Budget != nil {
		r.o.Budget.Request()
	}
	var last error
	for attempt := 1; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return r.giveUp(op, attempt-1, "cancelled", last, err)
		}
		report, err := r.allow()
		if err != nil {
			return r.giveUp(op, attempt-1, "breaker", last, err)
		}
		err = fn(ctx)
		class := r.class(ctx, err)
		report(err == nil || class == Busy || class == Stop, err)
		if err == nil {
			return nil
		}
		last = err
		delay, reason := r.next(ctx, class, attempt, err)
		if r.o.OnEvent != nil {
			r.o.OnEvent(Event{Op: op, Attempt: attempt, Err: err, Delay: delay, Final: reason != "", Reason: reason})
		}
		switch reason {
		case "":
		case "permanent":
			return unwrapPermanent(err)
		default:
			return r.giveUp(op, attempt, reason, last, nil)
		}
		if err := r.o.Sleep(ctx, delay); err != nil {
			return r.giveUp(op, attempt, "cancelled", last, err)
		}
	}
}

// class classifies an attempt's error; an attempt that ended because the caller left is nobody's fault.
func (r *Retrier) class(ctx context.Context, err error) Class {
	var p *permanentError
	switch {
	case err == nil:
		return Stop
	case ctx.Err() != nil:
		return Stop
	case errors.As(err, &p):
		return Stop
	}
	return r.o.Classify(err)
}

func (r *Retrier) allow() (func(ok bool, err error), error) {
	if r.o.Breaker == nil {
		return func(bool, error) {}, nil
	}
	return r.o.Breaker.Allow()
}

// next returns the delay before another attempt, or why there is none.
func (r *Retrier) next(ctx context.Context, class Class, attempt int, err error) (time.Duration, string) {
	switch {
	case class == Stop || class == FatalStop:
		return 0, "permanent"
	case attempt >= r.o.Attempts:
		return 0, "attempts"
	}
	delay := r.Backoff(attempt, err)
	if deadline, ok := ctx.Deadline(); ok && r.o.Now().Add(delay).After(deadline) {
		return 0, "deadline"
	}
	if r.o.Budget != nil && !r.o.Budget.Take() {
		return 0, "budget"
	}
	return delay, ""
}

// Backoff returns the delay after the attempt with that number (from 1): a random part of the ceiling, but not less
// than what err asks for as RetryAfter() (capped by MaxRetryAfter).
func (r *Retrier) Backoff(attempt int, err error) time.Duration {
	ceiling := float64(r.o.Initial) * math.Pow(r.o.Multiplier, float64(max(attempt, 1)-1))
	ceiling = math.Min(ceiling, float64(r.o.Max))
	delay := time.Duration(r.o.Rand() * ceiling)
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		delay = max(delay, min(asked.RetryAfter(), r.o.MaxRetryAfter))
	}
	return delay
}

func (r *Retrier) giveUp(op string, attempts int, reason string, last, cause error) error {
	if last == nil {
		return cause
	}
	return &ExhaustedError{Op: op, Attempts: attempts, Reason: reason, Err: last, Cause: cause}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
