package admission_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/admission/admissiontest"
)

func TestMemoryConformance(t *testing.T) {
	admissiontest.Run(t, func(*testing.T) admission.Store { return admission.NewMemoryStore() }, nil)
}

func controller(t testing.TB, depth admission.Depth, o admission.Options) *admission.Controller {
	t.Helper()
	c, err := admission.New(t.Context(), admission.NewMemoryStore(), depth, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refusal(t *testing.T, err error, code string) *admission.Refusal {
	t.Helper()
	var r *admission.Refusal
	if !errors.As(err, &r) || r.Code() != code {
		t.Fatalf("got %v, want a refusal with %s", err, code)
	}
	return r
}

func TestRetryAfterIsHonest(t *testing.T) {
	for name, c := range map[string]struct {
		limits admission.Limits
		code   string
		want   time.Duration
	}{
		"requests a minute": {admission.Limits{RPM: 2}, admission.CodeRateLimited, 30 * time.Second},
		"tokens a minute":   {admission.Limits{TPM: 200}, admission.CodeRateLimited, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctl := controller(t, nil, admission.Options{Default: c.limits})
				req := admission.Request{Tenant: "a", PromptTokens: 50, MaxTokens: 50}
				for range 2 {
					if _, err := ctl.Admit(t.Context(), req); err != nil {
						t.Fatal(err)
					}
				}
				_, err := ctl.Admit(t.Context(), req)
				if got := refusal(t, err, c.code).RetryAfter(); got != c.want {
					t.Fatalf("Retry-After %v, want %v", got, c.want)
				}
				pass(c.want - time.Millisecond)
				_, err = ctl.Admit(t.Context(), req)
				refusal(t, err, c.code)
				pass(time.Millisecond)
				if _, err := ctl.Admit(t.Context(), req); err != nil {
					t.Fatalf("after the promised time: %v", err)
				}
			})
		})
	}
}

func TestSettleRefundsAndCharges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(t, nil, admission.Options{Default: admission.Limits{TPM: 1000, TokensPerDay: 1500}})
		g, err := c.Admit(t.Context(), admission.Request{Tenant: "a", PromptTokens: 100, MaxTokens: 900})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 10})
		refusal(t, err, admission.CodeRateLimited)
		g.Settle(admission.Usage{Prompt: 100, Output: 50})
		g.Settle(admission.Usage{Prompt: 100, Output: 50}) // the second one counts nothing
		r, ok := c.Tenant("a")
		if !ok || r.TokensToday != 150 || r.JobsToday != 1 || r.Running != 0 || r.Reserved != 0 {
			t.Fatalf("after settling: %+v", r)
		}
		if g, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 850}); err != nil {
			t.Fatalf("the refund is missing: %v", err)
		}
		_, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 800})
		q := refusal(t, err, admission.CodeQuota)
		if q.RetryAfter() <= 0 || q.RetryAfter() > 25*time.Hour {
			t.Fatalf("quota Retry-After %v", q.RetryAfter())
		}
		g.Settle(admission.Usage{Output: 1350}) // more than was reserved: the quota is now used up to the last token
		_, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 1})
		q = refusal(t, err, admission.CodeQuota)
		pass(q.RetryAfter() + time.Second)
		if _, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 1}); err != nil {
			t.Fatalf("after the promised time: %v", err)
		}
	})
}

// TestMoreThanADaysQuota: no waiting helps, and who comes back all the same does so once a day.
func TestMoreThanADaysQuota(t *testing.T) {
	c := controller(t, nil, admission.Options{Default: admission.Limits{TokensPerDay: 100}})
	_, err := c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 101})
	if after := refusal(t, err, admission.CodeQuota).RetryAfter(); after != 24*time.Hour {
		t.Errorf("Retry-After %v", after)
	}
}

func TestCapacityDeadlineModels(t *testing.T) {
	var load atomic.Pointer[admission.Load]
	load.Store(&admission.Load{Idle: true})
	c := controller(t, admission.DepthFunc(func(string) admission.Load { return *load.Load() }), admission.Options{})
	ctx := t.Context()
	if err := c.SetTenant(ctx, admission.Tenant{ID: "narrow", Limits: admission.Limits{Models: []string{"m"}, Concurrent: 1}}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Admit(ctx, admission.Request{Tenant: "narrow", Model: "other"})
	refusal(t, err, admission.CodeForbidden)
	g, err := c.Admit(ctx, admission.Request{Tenant: "narrow", Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Admit(ctx, admission.Request{Tenant: "narrow", Model: "m"})
	refusal(t, err, admission.CodeRateLimited)
	g.Settle(admission.Usage{})

	load.Store(&admission.Load{Waiting: 10, Max: 10, Wait: 7 * time.Second})
	_, err = c.Admit(ctx, admission.Request{Tenant: "b"})
	if r := refusal(t, err, admission.CodeCapacity); r.RetryAfter() != 7*time.Second {
		t.Fatalf("capacity Retry-After %v, want the estimated wait", r.RetryAfter())
	}
	load.Store(&admission.Load{Waiting: 0, Max: 10, Wait: 10 * time.Second})
	_, err = c.Admit(ctx, admission.Request{Tenant: "b", Deadline: time.Now().Add(5 * time.Second)})
	refusal(t, err, admission.CodeDeadline)
	if _, err = c.Admit(ctx, admission.Request{Tenant: "b", Deadline: time.Now().Add(time.Minute)}); err != nil {
		t.Fatal(err)
	}
}

func TestOneTenantCannotFillTheLine(t *testing.T) {
	var waiting atomic.Int64
	c := controller(t, admission.DepthFunc(func(string) admission.Load {
		return admission.Load{Waiting: int(waiting.Load()), Max: 100, Wait: time.Second}
	}), admission.Options{})
	if _, err := c.Admit(t.Context(), admission.Request{Tenant: "quiet"}); err != nil {
		t.Fatal(err)
	}
	waiting.Add(1)
	for range 1000 {
		if _, err := c.Admit(t.Context(), admission.Request{Tenant: "flood"}); err == nil {
			waiting.Add(1)
		}
	}
	if r, _ := c.Tenant("flood"); r.Running != 50 {
		t.Fatalf("the flood holds %d of 100 places, want half", r.Running)
	}
	if _, err := c.Admit(t.Context(), admission.Request{Tenant: "quiet"}); err != nil {
		t.Fatalf("the quiet tenant is shut out: %v", err)
	}
}

// TestFault14ClockJumpRefillsNothing drives the controller with a clock whose wall reading jumps while its monotonic
// reading, as time.Now's does, goes on.
func TestFault14ClockJumpRefillsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(t, nil, admission.Options{Default: admission.Limits{RPM: 10, TokensPerDay: 1000}})
		for range 10 {
			g, err := c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 100})
			if err != nil {
				t.Fatal(err)
			}
			g.Settle(admission.Usage{Output: 90})
		}
		// a restart with a wall clock set back by a day still knows what was used
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 1})
		refusal(t, err, admission.CodeRateLimited)
		pass(time.Minute)
		_, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 200})
		refusal(t, err, admission.CodeQuota)
	})
	for _, jump := range []time.Duration{-24 * time.Hour, -time.Hour, time.Hour} {
		store := admission.NewMemoryStore()
		now := time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC)
		o := admission.Options{Default: admission.Limits{TokensPerDay: 1000}, Now: func() time.Time { return now }}
		c, err := admission.New(t.Context(), store, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		g, err := c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 900})
		if err != nil {
			t.Fatal(err)
		}
		g.Settle(admission.Usage{Output: 900})
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(jump)
		if c, err = admission.New(t.Context(), store, nil, o); err != nil {
			t.Fatal(err)
		}
		_, err = c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 200})
		refusal(t, err, admission.CodeQuota)
	}
}

// TestNoOverAdmission lets 64 goroutines hammer one tenant and checks the limits at every moment against a model, and
// the settled sum at the end.
func TestNoOverAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := admission.Limits{RPM: 600, TPM: 60_000, Concurrent: 10, TokensPerDay: 200_000}
		c := controller(t, nil, admission.Options{Default: limits})
		start := time.Now()
		var running, admitted, settled, worst, charged atomic.Int64
		var wg sync.WaitGroup
		for worker := range 64 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), 1))
				for range 200 {
					pass(time.Duration(rng.IntN(400)) * time.Millisecond)
					r := admission.Request{Tenant: "a", PromptTokens: rng.Int64N(50), MaxTokens: 1 + rng.Int64N(200)}
					g, err := c.Admit(context.Background(), r)
					if err != nil {
						continue
					}
					if n := running.Add(1); n > worst.Load() {
						worst.Store(n)
					}
					if n, most := admitted.Add(1), 600+int64(time.Since(start).Minutes()*600)+1; n > most {
						t.Errorf("%d requests admitted, at most %d may be", n, most)
					}
					cost := r.PromptTokens + r.MaxTokens
					if n, most := charged.Add(cost), limits.TPM+int64(time.Since(start).Minutes()*float64(limits.TPM))+1; n > most {
						t.Errorf("%d tokens were let in, at most %d may be", n, most)
					}
					pass(time.Duration(rng.IntN(300)) * time.Millisecond)
					used := admission.Usage{Prompt: r.PromptTokens, Output: rng.Int64N(r.MaxTokens + 1)}
					running.Add(-1) // before Settle: from then on another may enter
					charged.Add(used.Total() - cost)
					g.Settle(used)
					if sum := settled.Add(used.Total()); sum > limits.TokensPerDay {
						t.Errorf("%d tokens served, the quota is %d", sum, limits.TokensPerDay)
					}
				}
			})
		}
		wg.Wait()
		r, _ := c.Tenant("a")
		if worst.Load() > limits.Concurrent || r.TokensToday != settled.Load() || r.JobsToday != admitted.Load() || r.Running != 0 || r.Reserved != 0 {
			t.Fatalf("worst %d at once; %d tokens settled, %d known; %d jobs, %d known; %+v", worst.Load(), settled.Load(), r.TokensToday, admitted.Load(), r.JobsToday, r)
		}
		if admitted.Load() < 100 {
			t.Fatalf("only %d admitted: the test proves little", admitted.Load())
		}
	})
}

type failingStore struct {
	admission.Store
	fail atomic.Bool
}

func (f *failingStore) AddUsage(ctx context.Context, d []admission.Hour, hour int64, ids []string) error {
	if f.fail.Load() {
		return errors.New("disk full")
	}
	return f.Store.AddUsage(ctx, d, hour, ids)
}

func TestUsageOutlivesAFailingStore(t *testing.T) {
	store := &failingStore{Store: admission.NewMemoryStore()}
	c, err := admission.New(t.Context(), store, nil, admission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store.fail.Store(true)
	for range 3 {
		g, err := c.Admit(t.Context(), admission.Request{Tenant: "a", MaxTokens: 10})
		if err != nil {
			t.Fatal(err)
		}
		g.Settle(admission.Usage{Output: 10})
		if err := c.Flush(t.Context()); err == nil {
			t.Fatal("a failing store went unnoticed")
		}
	}
	store.fail.Store(false)
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	hours, err := store.UsageSince(t.Context(), 0)
	if err != nil || len(hours) != 1 || hours[0].Usage.Output != 30 || hours[0].Jobs != 3 {
		t.Fatalf("stored %+v, %v", hours, err)
	}
}

// TestLimitsChangeWithoutAGift: who is told the same limits again has what was left, not a full bucket.
func TestLimitsChangeWithoutAGift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := controller(t, nil, admission.Options{Default: admission.Limits{RPM: 1}})
		req := func(tenant string) error {
			_, err := c.Admit(t.Context(), admission.Request{Tenant: tenant, MaxTokens: 1})
			return err
		}
		if err := c.SetTenant(t.Context(), admission.Tenant{ID: "own", Limits: admission.Limits{RPM: 1}}); err != nil {
			t.Fatal(err)
		}
		for _, tenant := range []string{"own", "other"} {
			if err := req(tenant); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.SetTenant(t.Context(), admission.Tenant{ID: "own", Limits: admission.Limits{RPM: 1, TPM: 1000}}); err != nil {
			t.Fatal(err)
		}
		if err := c.SetDefault(admission.Limits{RPM: 1, Concurrent: 5}); err != nil {
			t.Fatal(err)
		}
		for _, tenant := range []string{"own", "other"} {
			refusal(t, req(tenant), admission.CodeRateLimited)
		}
		if err := c.SetDefault(admission.Limits{RPM: 3}); err != nil {
			t.Fatal(err)
		}
		for range 3 { // another rate begins full, for those without limits of their own
			if err := req("other"); err != nil {
				t.Fatal(err)
			}
		}
		refusal(t, req("other"), admission.CodeRateLimited)
		refusal(t, req("own"), admission.CodeRateLimited)
		if err := c.SetDefault(admission.Limits{RPM: -1}); !errors.Is(err, admission.ErrInvalid) {
			t.Errorf("a negative default: %v", err)
		}
		if err := c.SetDefault(admission.Limits{}); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if err := req("new"); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestConcurrencyWaitsForAJob: the more jobs a tenant has, the sooner one of them ends.
func TestConcurrencyWaitsForAJob(t *testing.T) {
	c := controller(t, admission.DepthFunc(func(string) admission.Load { return admission.Load{Idle: true, Took: 40 * time.Second} }),
		admission.Options{Default: admission.Limits{Concurrent: 4}})
	for range 4 {
		if _, err := c.Admit(t.Context(), admission.Request{Tenant: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Admit(t.Context(), admission.Request{Tenant: "a"})
	if after := refusal(t, err, admission.CodeRateLimited).RetryAfter(); after != 10*time.Second {
		t.Errorf("Retry-After %v, want a quarter of a job's time", after)
	}
}

func TestBadLimitsAreRefused(t *testing.T) {
	c := controller(t, nil, admission.Options{})
	for name, tenant := range map[string]admission.Tenant{
		"no id": {}, "newline": {ID: "a\n"}, "negative": {ID: "a", Limits: admission.Limits{RPM: -1}},
		"models": {ID: "a", Limits: admission.Limits{Models: make([]string, 300)}},
	} {
		if err := c.SetTenant(t.Context(), tenant); !errors.Is(err, admission.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.Admit(t.Context(), admission.Request{}); err == nil {
		t.Error("a request without a tenant was admitted")
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	c := controller(t, nil, admission.Options{Default: admission.Limits{RPM: 100, TPM: 1000}})
	r := admission.Request{Tenant: "a", MaxTokens: 10}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Check(r); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a check allocates %v times", n)
	}
}

func BenchmarkAdmit(b *testing.B) {
	c := controller(b, admission.DepthFunc(func(string) admission.Load { return admission.Load{Idle: true} }),
		admission.Options{Default: admission.Limits{RPM: 1 << 40, TPM: 1 << 40, Concurrent: 1 << 40, TokensPerDay: 1 << 60}})
	names := make([]string, 10_000)
	for i := range names {
		names[i] = "tenant-" + string(rune('a'+i%26)) + time.Duration(i).String()
		g, err := c.Admit(b.Context(), admission.Request{Tenant: names[i]})
		if err != nil {
			b.Fatal(err)
		}
		g.Settle(admission.Usage{})
	}
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := c.Check(admission.Request{Tenant: names[i%len(names)], MaxTokens: 10}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("admit and settle", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			g, err := c.Admit(b.Context(), admission.Request{Tenant: names[i%len(names)], MaxTokens: 10})
			if err != nil {
				b.Fatal(err)
			}
			g.Settle(admission.Usage{Prompt: 1, Output: 5})
		}
	})
}

// pass lets synthetic time go by.
func pass(d time.Duration) { <-time.After(d) }
