package admission

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// MaxTenants bounds how many tenants are kept in memory.
const MaxTenants = 100_000

// Options are all optional.
type Options struct {
	Default      Limits            // for tenants without limits of their own
	AssumeOutput int64             // output tokens reserved when a request names no maximum; 0: 256
	Now          func() time.Time  // time.Now when nil; its monotonic reading is what counts
	Flush        time.Duration     // how often settled usage goes to the store while Run runs; 0: 1 s
	Logger       *slog.Logger      // silent when nil
	OnRefuse     func(code string) // called for each refusal
	// Served are the jobs that ended lately by the caller's own records. Those whose settlement a crash kept from the
	// store are settled by New; the others are left alone, by their ids. Ten minutes' worth is plenty.
	Served []Served
}

// Controller decides about admissions. It is safe for concurrent use; a check locks its tenant only.
type Controller struct {
	store   Store
	depth   Depth
	o       Options
	log     *slog.Logger
	base    time.Time    // read once, with its monotonic reading
	wall    int64        // Unix nanoseconds of base
	mu      sync.RWMutex // guards the map
	tenants map[string]*tenant
	active  atomic.Int64 // tenants with at least one job inside

	flushMu sync.Mutex
	dirtyMu sync.Mutex
	dirty   map[string]*Hour // settled and not yet stored
	ids     []string         // the jobs in dirty
}

type tenant struct {
	mu       sync.Mutex
	id       string
	limits   Limits
	own      bool
	requests bucket
	tokens   bucket
	day      window
	running  int64
	reserved int64
}

// New loads tenants and the usage of the last day.
func New(ctx context.Context, store Store, depth Depth, o Options) (*Controller, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.AssumeOutput <= 0 {
		o.AssumeOutput = 256
	}
	if o.Flush <= 0 {
		o.Flush = time.Second
	}
	c := &Controller{store: store, depth: depth, o: o, log: o.Logger, tenants: map[string]*tenant{}, dirty: map[string]*Hour{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.base = o.Now()
	c.wall = c.base.UnixNano()
	list, err := store.Tenants(ctx)
	if err != nil {
		return nil, fmt.Errorf("admission: load tenants: %w", err)
	}
	for _, t := range list {
		at := c.get(t.ID)
		at.limits, at.own = t.Limits, true
		at.reset(c.elapsed())
	}
	if err := c.settleServed(ctx); err != nil {
		return nil, err
	}
	hours, err := store.UsageSince(ctx, c.hour()-24)
	if err != nil {
		return nil, fmt.Errorf("admission: load usage: %w", err)
	}
	slices.SortFunc(hours, func(a, b Hour) int { return int(a.Hour - b.Hour) })
	for _, h := range hours {
		at := c.get(h.Tenant)
		hour := min(h.Hour, c.hour()) // a clock that was set back since: count it now rather than not at all
		at.day.add(hour, h.Usage.Total(), h.Jobs)
	}
	return c, nil
}

// settleServed stores the settlements that a crash swallowed.
func (c *Controller) settleServed(ctx context.Context) error {
	if len(c.o.Served) == 0 {
		return nil
	}
	hour := c.hour()
	recent, err := c.store.RecentIDs(ctx, hour-24)
	if err != nil {
		return fmt.Errorf("admission: load settled jobs: %w", err)
	}
	known := make(map[string]bool, len(recent))
	for _, id := range recent {
		known[id] = true
	}
	var delta []Hour
	var ids []string
	for _, s := range c.o.Served {
		if s.ID == "" || known[s.ID] {
			continue
		}
		known[s.ID] = true
		at := min(s.At.UnixNano()/int64(time.Hour), hour)
		delta = append(delta, Hour{Tenant: s.Tenant, Hour: at, Usage: s.Usage, Jobs: 1})
		ids = append(ids, s.ID)
	}
	c.o.Served = nil
	if len(ids) == 0 {
		return nil
	}
	if err := c.store.AddUsage(ctx, delta, hour, ids); err != nil {
		return fmt.Errorf("admission: settle served jobs: %w", err)
	}
	return nil
}

// elapsed is the controller's own clock: it never jumps.
func (c *Controller) elapsed() time.Duration { return c.o.Now().Sub(c.base) }

// hour counts hours since 1970 on that clock.
func (c *Controller) hour() int64 { return (c.wall + int64(c.elapsed())) / int64(time.Hour) }

func (c *Controller) get(id string) *tenant {
	c.mu.RLock()
	t := c.tenants[id]
	c.mu.RUnlock()
	if t != nil {
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t = c.tenants[id]; t != nil {
		return t
	}
	if len(c.tenants) >= MaxTenants {
		return nil
	}
	t = &tenant{id: id, limits: c.o.Default}
	t.day.hour = c.hour()
	t.reset(c.elapsed())
	c.tenants[strings.Clone(id)] = t
	return t
}

// reset fills the buckets, after limits changed or for a new tenant.
func (t *tenant) reset(now time.Duration) {
	t.requests = bucket{level: float64(t.limits.RPM), at: now}
	t.tokens = bucket{level: float64(t.limits.TPM), at: now}
}

// Grant is an admitted request. Settle it exactly once; later calls do nothing.
type Grant struct {
	c        *Controller
	id       string
	t        *tenant
	reserved int64
	state    Remaining
	settled  atomic.Bool
}

// Remaining is the state of the tenant's limits right after the admission.
func (g *Grant) Remaining() Remaining { return g.state }

// Admit lets a request in or returns a *Refusal. What it lets in counts at once.
func (c *Controller) Admit(_ context.Context, r Request) (*Grant, error) {
	g := &Grant{}
	if _, refusal := c.decide(r, g); refusal != nil {
		if c.o.OnRefuse != nil {
			c.o.OnRefuse(refusal.Reason)
		}
		return nil, refusal
	}
	return g, nil
}

// Check says what Admit would say, and changes nothing.
func (c *Controller) Check(r Request) (Remaining, error) {
	state, refusal := c.decide(r, nil)
	if refusal != nil {
		return refusal.State, refusal
	}
	return state, nil
}

// Restore takes up a job that was admitted before a restart and is not finished: it counts against concurrency and
// tokens, but is never refused.
func (c *Controller) Restore(r Request) *Grant {
	t := c.get(r.Tenant)
	if t == nil {
		t = &tenant{id: r.Tenant}
	}
	cost := c.cost(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	c.enter(t, cost)
	return &Grant{c: c, t: t, id: r.ID, reserved: cost}
}

func (c *Controller) cost(r Request) int64 {
	out := r.MaxTokens
	if out <= 0 {
		out = c.o.AssumeOutput
	}
	return max(0, r.PromptTokens) + out
}

func (c *Controller) enter(t *tenant, cost int64) {
	if t.running == 0 {
		c.active.Add(1)
	}
	t.running++
	t.reserved += cost
}

// decide judges a request; one that may come in is written to the grant, unless there is none.
func (c *Controller) decide(r Request, g *Grant) (Remaining, *Refusal) {
	if r.Tenant == "" {
		return Remaining{}, &Refusal{Reason: CodeInvalid, Message: "the request names no tenant"}
	}
	t := c.get(r.Tenant)
	if t == nil {
		return Remaining{}, &Refusal{Reason: CodeCapacity, After: time.Minute, Message: "too many tenants are active: try again later"}
	}
	load := Load{Idle: true}
	if c.depth != nil {
		load = c.depth.Load(r.Model)
	}
	cost, now := c.cost(r), c.elapsed()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests.fill(now, t.limits.RPM)
	t.tokens.fill(now, t.limits.TPM)
	t.day.roll(c.hour())
	if refusal := c.refusal(t, r, load, cost, now); refusal != nil {
		refusal.State = t.remaining()
		return Remaining{}, refusal
	}
	if g == nil {
		return t.remaining(), nil
	}
	if t.limits.RPM > 0 {
		t.requests.level--
	}
	if t.limits.TPM > 0 {
		t.tokens.level -= float64(min(cost, t.limits.TPM))
	}
	c.enter(t, cost)
	g.c, g.t, g.id, g.reserved, g.state = c, t, r.ID, cost, t.remaining()
	return g.state, nil
}

// refusal checks in the order: may it ever, is it too much now, is there room, can it be in time.
func (c *Controller) refusal(t *tenant, r Request, load Load, cost int64, now time.Duration) *Refusal {
	l := &t.limits
	if len(l.Models) > 0 && !slices.Contains(l.Models, r.Model) {
		return &Refusal{Reason: CodeForbidden, Message: "this tenant may not use this model: GET /v1/models lists those it may"}
	}
	if l.TokensPerDay > 0 && t.day.sum+t.reserved+cost > l.TokensPerDay {
		if cost > l.TokensPerDay {
			return &Refusal{Reason: CodeQuota, After: 24 * time.Hour, // for those who come back whatever they are told
				Message: fmt.Sprintf("the request may take %d tokens, the tenant's quota is %d a day: lower max_tokens", cost, l.TokensPerDay)}
		}
		hours := t.day.free(t.day.sum + t.reserved + cost - l.TokensPerDay)
		into := time.Duration((c.wall + int64(now)) % int64(time.Hour))
		return &Refusal{Reason: CodeQuota, After: time.Duration(hours)*time.Hour - into,
			Message: fmt.Sprintf("the tenant's quota of %d tokens in 24 hours is used up", l.TokensPerDay)}
	}
	if l.RPM > 0 && t.requests.level < 1 {
		return &Refusal{Reason: CodeRateLimited, After: t.requests.wait(1, l.RPM),
			Message: fmt.Sprintf("the tenant may make %d requests a minute: slow down", l.RPM)}
	}
	if l.TPM > 0 && t.tokens.level < float64(min(cost, l.TPM)) {
		return &Refusal{Reason: CodeRateLimited, After: t.tokens.wait(float64(cost), l.TPM),
			Message: fmt.Sprintf("the tenant may use %d tokens a minute: slow down or lower max_tokens", l.TPM)}
	}
	if l.Concurrent > 0 && t.running >= l.Concurrent {
		return &Refusal{Reason: CodeRateLimited, After: atLeast(max(load.Wait, load.Took/time.Duration(t.running)), time.Second),
			Message: fmt.Sprintf("the tenant may have %d jobs at once: wait for one to end", l.Concurrent)}
	}
	if full := c.full(t, r, load); full != "" {
		return &Refusal{Reason: CodeCapacity, After: atLeast(load.Wait, time.Second), Message: full}
	}
	if !r.Deadline.IsZero() {
		left := r.Deadline.Sub(c.o.Now())
		if left <= 0 || load.Wait > left {
			return &Refusal{Reason: CodeDeadline, Message: fmt.Sprintf("the deadline cannot be met: about %s of waiting, %s left",
				load.Wait.Round(time.Millisecond), left.Round(time.Millisecond))}
		}
	}
	return nil
}

// full says why there is no room, or "". While the line is less than half full anyone may join it; beyond that a
// tenant may hold no more than its equal share of it, and batch jobs have to stay out of the last tenth.
func (c *Controller) full(t *tenant, r Request, load Load) string {
	if load.Max <= 0 || load.Idle {
		return ""
	}
	if load.Waiting >= load.Max {
		return "the queue is full and no worker is idle: try again later"
	}
	if r.Batch && load.Waiting >= load.Max-load.Max/10 {
		return "the queue is nearly full: batch jobs have to wait outside"
	}
	if load.Waiting >= load.Max/2 {
		others := c.active.Load()
		if t.running == 0 {
			others++
		}
		if share := int64(load.Max) / max(1, others); t.running >= max(1, share) {
			return "the queue is more than half full and this tenant holds its share of it: try again later"
		}
	}
	return ""
}

func atLeast(d, least time.Duration) time.Duration { return max(d, least) }

func (t *tenant) remaining() Remaining {
	var r Remaining
	if l := t.limits.RPM; l > 0 {
		r.LimitRequests, r.RemainingRequests = l, max(0, int64(t.requests.level))
		r.ResetRequests = t.requests.wait(float64(l), l)
	}
	if l := t.limits.TPM; l > 0 {
		r.LimitTokens, r.RemainingTokens = l, max(0, int64(t.tokens.level))
		r.ResetTokens = t.tokens.wait(float64(l), l)
	}
	return r
}

// Settle replaces the reservation by what the job really took: on its end, its failure and its cancellation.
func (g *Grant) Settle(u Usage) {
	if g.c == nil || g.settled.Swap(true) {
		return
	}
	c, t := g.c, g.t
	used := max(0, u.Prompt) + max(0, u.Output)
	hour := c.hour()
	t.mu.Lock()
	t.running--
	t.reserved -= g.reserved
	if t.running == 0 {
		c.active.Add(-1)
	}
	t.day.add(hour, used, 1)
	if l := t.limits.TPM; l > 0 {
		t.tokens.fill(c.elapsed(), l)
		t.tokens.level = min(float64(l), t.tokens.level+float64(min(g.reserved, l)-used))
	}
	t.mu.Unlock()

	c.dirtyMu.Lock()
	defer c.dirtyMu.Unlock()
	d := c.dirty[t.id]
	if d == nil || d.Hour != hour {
		if d != nil { // the hour turned: keep the old one under a name of its own
			c.dirty[fmt.Sprintf("%s\x00%d", t.id, d.Hour)] = d
		}
		d = &Hour{Tenant: t.id, Hour: hour}
		c.dirty[t.id] = d
	}
	d.Usage.Prompt += max(0, u.Prompt)
	d.Usage.Output += max(0, u.Output)
	d.Jobs++
	if g.id != "" {
		c.ids = append(c.ids, g.id)
	}
}

// Name gives the grant the id of its job, where that is known only after the admission. Call it before Settle.
func (g *Grant) Name(id string) { g.id = id }
