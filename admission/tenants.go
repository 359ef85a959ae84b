package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrInvalid says that limits make no sense.
var ErrInvalid = errors.New("invalid limits")

type invalid struct{ msg string }

func (e *invalid) Error() string { return "admission: " + e.msg }
func (e *invalid) Code() string  { return CodeInvalid }
func (e *invalid) Unwrap() error { return ErrInvalid }

// SetDefault gives the tenants that have no limits of their own others than Options.Default, from now on.
func (c *Controller) SetDefault(l Limits) error {
	if err := l.check(); err != nil {
		return err
	}
	c.mu.Lock()
	c.o.Default = l
	list := make([]*tenant, 0, len(c.tenants))
	for _, t := range c.tenants {
		list = append(list, t)
	}
	c.mu.Unlock()
	for _, t := range list {
		t.mu.Lock()
		if !t.own {
			t.limit(l, c.elapsed())
		}
		t.mu.Unlock()
	}
	return nil
}

func (l *Limits) check() error {
	if l.RPM < 0 || l.TPM < 0 || l.Concurrent < 0 || l.TokensPerDay < 0 {
		return &invalid{"limits are 0 (none) or more"}
	}
	if len(l.Models) > 256 {
		return &invalid{"at most 256 models can be listed"}
	}
	return nil
}

// limit changes the limits. A bucket whose limit stays keeps its level, so that nobody gains by being told again; one with
// a new limit starts full. The caller holds mu.
func (t *tenant) limit(l Limits, now time.Duration) {
	old := t.limits
	t.limits = l
	if l.RPM != old.RPM {
		t.requests = bucket{level: float64(l.RPM), at: now}
	}
	if l.TPM != old.TPM {
		t.tokens = bucket{level: float64(l.TPM), at: now}
	}
}

// SetTenant gives a tenant limits of its own, stored before they take effect. A rate that changes starts with a full
// bucket, the usage of the day stays.
func (c *Controller) SetTenant(ctx context.Context, t Tenant) error {
	if t.ID == "" || len(t.ID) > 128 || strings.ContainsFunc(t.ID, func(r rune) bool { return r < 0x21 || r == 0x7f }) {
		return &invalid{"a tenant id is 1 to 128 characters without spaces or control characters"}
	}
	if err := t.Limits.check(); err != nil {
		return err
	}
	if err := c.store.SaveTenant(ctx, t); err != nil {
		return fmt.Errorf("admission: save tenant: %w", err)
	}
	at := c.get(t.ID)
	if at == nil {
		return &invalid{"too many tenants"}
	}
	at.mu.Lock()
	defer at.mu.Unlock()
	at.own = true
	at.limit(t.Limits, c.elapsed())
	return nil
}

// Tenants lists every tenant that has limits of its own or has been seen, by id.
func (c *Controller) Tenants() []Report {
	c.mu.RLock()
	list := make([]*tenant, 0, len(c.tenants))
	for _, t := range c.tenants {
		list = append(list, t)
	}
	c.mu.RUnlock()
	hour := c.hour()
	out := make([]Report, 0, len(list))
	for _, t := range list {
		out = append(out, t.report(hour))
	}
	slices.SortFunc(out, func(a, b Report) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Tenant reports one tenant; ok is false when it was never seen.
func (c *Controller) Tenant(id string) (Report, bool) {
	c.mu.RLock()
	t := c.tenants[id]
	c.mu.RUnlock()
	if t == nil {
		return Report{}, false
	}
	return t.report(c.hour()), true
}

func (t *tenant) report(hour int64) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.day.roll(hour)
	return Report{Tenant: Tenant{ID: t.id, Limits: t.limits}, Running: t.running, Reserved: t.reserved,
		TokensToday: t.day.sum, JobsToday: t.day.jobs, Own: t.own}
}

// Flush writes settled usage to the store. What a failing store did not take is kept for the next time.
func (c *Controller) Flush(ctx context.Context) error {
	c.flushMu.Lock()
	defer c.flushMu.Unlock()
	c.dirtyMu.Lock()
	taken := c.dirty
	ids := c.ids
	c.dirty, c.ids = map[string]*Hour{}, nil
	c.dirtyMu.Unlock()
	if len(taken) == 0 {
		return nil
	}
	delta := make([]Hour, 0, len(taken))
	for _, h := range taken {
		delta = append(delta, *h)
	}
	err := c.store.AddUsage(ctx, delta, c.hour(), ids)
	if err == nil {
		return nil
	}
	c.dirtyMu.Lock()
	defer c.dirtyMu.Unlock()
	c.ids = append(ids, c.ids...)
	for _, h := range delta {
		key := fmt.Sprintf("%s\x00%d", h.Tenant, h.Hour)
		if d := c.dirty[key]; d != nil {
			d.Usage.Prompt += h.Usage.Prompt
			d.Usage.Output += h.Usage.Output
			d.Jobs += h.Jobs
			continue
		}
		kept := h
		c.dirty[key] = &kept
	}
	return fmt.Errorf("admission: store usage: %w", err)
}

// Run flushes until ctx ends, then once more, and drops usage older than two days once an hour.
func (c *Controller) Run(ctx context.Context) error {
	tick := time.NewTicker(c.o.Flush)
	defer tick.Stop()
	dropped := int64(0)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return c.Flush(last)
		case <-tick.C:
			if err := c.Flush(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("admission: usage stays in memory until the store takes it", "error", err)
			}
			if hour := c.hour(); hour != dropped {
				dropped = hour
				if err := c.store.DropUsage(ctx, hour-48); err != nil && ctx.Err() == nil {
					c.log.Warn("admission: drop old usage", "error", err)
				}
			}
		}
	}
}
