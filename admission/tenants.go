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

// SetTenant gives a tenant limits of its own, stored before they take effect. Its buckets start full, its usage of the
// day stays.
func (c *Controller) SetTenant(ctx context.Context, t Tenant) error {
	if t.ID == "" || len(t.ID) > 128 || strings.ContainsFunc(t.ID, func(r rune) bool { return r < 0x21 || r == 0x7f }) {
		return &invalid{"a tenant id is 1 to 128 characters without spaces or control characters"}
	}
	if t.Limits.RPM < 0 || t.Limits.TPM < 0 || t.Limits.Concurrent < 0 || t.Limits.TokensPerDay < 0 {
		return &invalid{"limits are 0 (none) or more"}
	}
	if len(t.Limits.Models) > 256 {
		return &invalid{"at most 256 models can be listed"}
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
	at.limits, at.own = t.Limits, true
	at.reset(c.elapsed())
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
