package retry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

func fixed(x float64) func() float64 { return func() float64 { return x } }

func TestBackoffGrowsWithFullJitter(t *testing.T) {
	half := New(Options{Rand: fixed(0.5)})
	for i, want := range []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second} {
		if got := half.Backoff(i+1, errDown); got != want {
			t.Errorf("attempt %d: %v, want %v", i+1, got, want)
		}
	}
	if got := half.Backoff(60, errDown); got != 30*time.Second {
		t.Errorf("cap: %v", got)
	}
	if got := New(Options{Rand: fixed(0)}).Backoff(3, errDown); got != 0 {
		t.Errorf("full jitter reaches down to %v", got)
	}
	asked := fmt.Errorf("x: %w", &RetryAfterError{After: 7 * time.Second, Err: errDown})
	if got := half.Backoff(1, asked); got != 7*time.Second {
		t.Errorf("Retry-After: %v", got)
	}
	asked = &RetryAfterError{After: time.Hour, Err: errDown}
	if got := half.Backoff(1, asked); got != time.Minute {
		t.Errorf("Retry-After is not capped: %v", got)
	}
}

func TestDoRetriesThenSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		r := New(Options{Rand: fixed(1), OnEvent: func(e Event) { events = append(events, e) }})
		n, begin := 0, time.Now()
		err := r.Do(t.Context(), "op", func(context.Context) error {
			if n++; n < 4 {
				return errDown
			}
			return nil
		})
		if err != nil || n != 4 || time.Since(begin) != 7*time.Second || len(events) != 3 {
			t.Fatalf("%v, %d attempts in %v, %d events", err, n, time.Since(begin), len(events))
		}
	})
}

func TestDoGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{NoBudget: true})
		n := 0
		err := r.Do(t.Context(), "load", func(context.Context) error { n++; return errDown })
		var x *ExhaustedError
		if !errors.As(err, &x) || x.Reason != "attempts" || n != 5 || !errors.Is(err, errDown) {
			t.Fatalf("%v after %d", err, n)
		}
		n = 0
		err = r.Do(t.Context(), "load", func(context.Context) error { n++; return Permanent(errDown) })
		if err != errDown || n != 1 {
			t.Fatalf("%v after %d", err, n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n, slow := 0, New(Options{Rand: fixed(0.999), NoBudget: true})
		begin := time.Now()
		err = slow.Do(ctx, "load", func(context.Context) error { n++; return errDown })
		if !errors.As(err, &x) || x.Reason != "deadline" || n != 2 || time.Since(begin) >= time.Second {
			t.Fatalf("%v after %d, %v", err, n, time.Since(begin))
		}
	})
}

func TestDoStopsWhenTheCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := NewBreaker(BreakerOptions{Failures: 1})
		r := New(Options{Breaker: b})
		err := r.Do(ctx, "op", func(ctx context.Context) error { cancel(); return ctx.Err() })
		if !errors.Is(err, context.Canceled) || b.State() != Closed {
			t.Fatalf("%v, breaker %v", err, b.State())
		}
	})
}

func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		b := NewBreaker(BreakerOptions{Name: "w1", OnState: func(_ string, from, to State) {
			changes = append(changes, from.String()+">"+to.String())
		}})
		fail := func(ok bool) error {
			report, err := b.Allow()
			if err == nil {
				report(ok, errDown)
			}
			return err
		}
		for range 4 {
			fail(false)
		}
		fail(true) // a success starts the count again
		for range 5 {
			if err := fail(false); err != nil {
				t.Fatal(err)
			}
		}
		var open *OpenError
		if err := fail(true); !errors.As(err, &open) || open.RetryAfter() != 30*time.Second || !errors.Is(err, ErrOpen) {
			t.Fatalf("open: %v", err)
		}
		wait := func(d time.Duration) { <-time.After(d) }
		wait(30 * time.Second)
		report, err := b.Allow()
		if err != nil || b.State() != HalfOpen {
			t.Fatalf("no probe: %v", err)
		}
		if _, err := b.Allow(); !errors.Is(err, ErrOpen) {
			t.Fatalf("a second probe at once: %v", err)
		}
		report(false, errDown)
		report(true, nil) // only the first report counts
		wait(59 * time.Second)
		if b.State() != Open {
			t.Fatal("the second cooldown is not longer")
		}
		wait(time.Second)
		if err := fail(true); err != nil || b.State() != Closed {
			t.Fatalf("%v, %v", err, b.State())
		}
		want := "[closed>open open>half-open half-open>open open>half-open half-open>closed]"
		if got := fmt.Sprint(changes); got != want {
			t.Errorf("changes %s", got)
		}
	})
}

func TestBusyIsNoFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBreaker(BreakerOptions{Failures: 1})
		r := New(Options{Breaker: b, Attempts: 3, NoBudget: true})
		err := r.Do(t.Context(), "op", func(context.Context) error { return &RetryAfterError{After: time.Second, Err: errDown} })
		if !errors.Is(err, errDown) || b.State() != Closed {
			t.Fatalf("%v, breaker %v", err, b.State())
		}
	})
}

func TestBudgetWindow(t *testing.T) {
	now := time.Unix(1000, 0)
	b := NewBudget(BudgetOptions{Now: func() time.Time { return now }})
	take := func() (n int) {
		for b.Take() {
			n++
		}
		return n
	}
	if n := take(); n != 3 {
		t.Errorf("without requests: %d", n)
	}
	for range 100 {
		b.Request()
	}
	if n := take(); n != 17 {
		t.Errorf("after 100 requests: %d more", n)
	}
	now = now.Add(9 * time.Second)
	if n := take(); n != 0 {
		t.Errorf("inside the window: %d", n)
	}
	now = now.Add(time.Second)
	if n := take(); n != 3 {
		t.Errorf("a new window: %d", n)
	}
	now = now.Add(-time.Hour)
	if n := take(); n != 0 {
		t.Errorf("clock went back: %d", n)
	}
	now = now.Add(24 * time.Hour)
	if b.Left() != 3 {
		t.Errorf("clock leapt: %d", b.Left())
	}
}

// TestFault26RetryStorm: everything fails, a hundred callers keep on; the upstream sees at most 1.2 attempts a request.
func TestFault26RetryStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Initial: 10 * time.Millisecond})
		var mu sync.Mutex
		attempts, requests := 0, 0
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 200 {
					mu.Lock()
					requests++
					mu.Unlock()
					err := r.Do(t.Context(), "op", func(context.Context) error {
						mu.Lock()
						attempts++
						mu.Unlock()
						return errDown
					})
					if !errors.Is(err, errDown) {
						t.Error(err)
					}
					<-time.After(5 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		ratio := float64(attempts) / float64(requests)
		t.Logf("%d requests, %d attempts, %.3fx", requests, attempts, ratio)
		if ratio > 1.2 {
			t.Errorf("a storm multiplied the load by %.3f", ratio)
		}
		if attempts <= requests {
			t.Error("no retries at all")
		}
		// the control: without a budget the same storm multiplies
		free, n := New(Options{NoBudget: true, Initial: time.Millisecond}), 0
		_ = free.Do(t.Context(), "op", func(context.Context) error { n++; return errDown })
		if n != 5 {
			t.Errorf("control: %d attempts", n)
		}
	})
}
