package eviction

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Lister tells what there is, as of now.
type Lister interface {
	Items(ctx context.Context) ([]Item, error)
}

// Stopper gives one item up; it returns when its room is free. Stopping what is gone already is no error.
type Stopper interface {
	Stop(ctx context.Context, id string) error
}

// Drainer is a Stopper that can first keep new work away. Drain returns at once; between Drain and Stop
// the items are listed again, and one that turned out busy or pinned is given back with Undrain.
type Drainer interface {
	Drain(ctx context.Context, id string) error
	Undrain(ctx context.Context, id string) error
}

// Options tune an Evictor; the zero value works.
type Options struct {
	Policy   Policy           // nil = LRU
	Interval time.Duration    // of Run's sweeps; 0 = 10 s
	Now      func() time.Time // nil = time.Now
	Logger   *slog.Logger     // nil = discard
	OnEvict  func(it Item, why string)
}

// Evictor carries plans out: one at a time, so that two callers never count the same room twice.
type Evictor struct {
	list Lister
	stop Stopper
	o    Options
	turn chan struct{}
	mu   sync.Mutex
	last *Choice
}

// New makes an Evictor.
func New(list Lister, stop Stopper, o Options) *Evictor {
	if o.Policy == nil {
		o.Policy = LRU
	}
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Evictor{list: list, stop: stop, o: o, turn: make(chan struct{}, 1)}
}

// errChanged restarts a plan whose victim got work or a pin in the meantime.
var errChanged = errors.New("eviction: an item came into use")

// Free gives up enough of one group ("" = all) for need bytes, and returns what it did. It stops nothing
// when not enough can be given up (*InsufficientError).
func (e *Evictor) Free(ctx context.Context, group string, need int64) (*Choice, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	done := &Choice{}
	for {
		items, err := e.items(ctx, group)
		if err != nil {
			return done, err
		}
		plan, err := Plan(e.o.Now(), items, need-done.Freed, e.o.Policy)
		if err != nil {
			return done, err
		}
		err = e.carryOut(ctx, plan, group, "room is needed", done)
		if errors.Is(err, errChanged) {
			continue
		}
		done.Reasons = plan.Reasons
		e.mu.Lock()
		e.last = done
		e.mu.Unlock()
		return done, err
	}
}

// carryOut stops a plan's items one by one, looking again before each.
func (e *Evictor) carryOut(ctx context.Context, plan *Choice, group, why string, done *Choice) error {
	for _, it := range plan.Evict {
		if err := e.stopOne(ctx, it, group, why); err != nil {
			return err
		}
		done.Evict = append(done.Evict, it)
		done.Freed += it.Size
		done.Penalty += time.Duration(it.ReloadSeconds * float64(time.Second))
	}
	return nil
}

func (e *Evictor) stopOne(ctx context.Context, it Item, group, why string) error {
	drainer, _ := e.stop.(Drainer)
	if drainer != nil {
		if err := drainer.Drain(ctx, it.ID); err != nil {
			return fmt.Errorf("eviction: drain %s: %w", it.ID, err)
		}
	}
	items, err := e.items(ctx, group)
	if err == nil {
		k := slices.IndexFunc(items, func(x Item) bool { return x.ID == it.ID })
		if k >= 0 && (items[k].Busy || items[k].Pinned) {
			err = errChanged
		}
	}
	if err == nil {
		if err = e.stop.Stop(ctx, it.ID); err == nil {
			e.o.Logger.InfoContext(ctx, "evicted", "id", it.ID, "group", it.Group, "bytes", it.Size, "why", why)
			if e.o.OnEvict != nil {
				e.o.OnEvict(it, why)
			}
			return nil
		}
		err = fmt.Errorf("eviction: stop %s: %w", it.ID, err)
	}
	if drainer != nil {
		err = errors.Join(err, drainer.Undrain(context.WithoutCancel(ctx), it.ID))
	}
	return err
}

func (e *Evictor) items(ctx context.Context, group string) ([]Item, error) {
	all, err := e.list.Items(ctx)
	if err != nil {
		return nil, fmt.Errorf("eviction: list: %w", err)
	}
	if group == "" {
		return all, nil
	}
	var out []Item
	for _, it := range all {
		if it.Group == group {
			out = append(out, it)
		}
	}
	return out, nil
}

// Sweep gives up what has outlived its time to live, and returns the ids.
func (e *Evictor) Sweep(ctx context.Context) ([]string, error) {
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	items, err := e.items(ctx, "")
	if err != nil {
		return nil, err
	}
	var gone []string
	var errs []error
	for _, it := range Expired(e.o.Now(), items) {
		switch err := e.stopOne(ctx, it, "", "idle for its time to live"); {
		case err == nil:
			gone = append(gone, it.ID)
		case !errors.Is(err, errChanged):
			errs = append(errs, err)
		}
	}
	return gone, errors.Join(errs...)
}

// Last is what the last Free did, for explanations; nil before the first.
func (e *Evictor) Last() *Choice {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// Run sweeps until ctx ends; an error of one sweep is logged and the next one tries again.
func (e *Evictor) Run(ctx context.Context) error {
	t := time.NewTicker(e.o.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			if _, err := e.Sweep(ctx); err != nil && ctx.Err() == nil {
				e.o.Logger.WarnContext(ctx, "sweep failed; will try again", "err", err)
			}
		}
	}
}
