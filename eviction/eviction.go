// Package eviction decides what to give up when room is needed: which idle worker to stop for device
// memory, which model file to drop for disk. It knows items with a size, a last use, a frequency and a
// cost of coming back; what is pinned or in use is never chosen; the set chosen is sufficient, and no
// member of it could be left out. Policies are funcs (LRU, GDSF), expiry by time to live is separate, and
// every choice is explained. Plan is pure; Evictor carries plans out over two small interfaces.
package eviction

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Item is one thing that could go: a worker on a device, a model file on a disk.
type Item struct {
	ID, Group     string // Group: where it takes room ("node/device", "node/disk")
	Size          int64
	LastUsed      time.Time
	Uses          float64 // how often it was used, however counted
	ReloadSeconds float64 // what bringing it back takes
	Pinned, Busy  bool
	TTL           time.Duration // idle for longer, it expires; 0 = never
}

// Policy gives an item's worth; the lowest goes first.
type Policy func(now time.Time, it Item) (score float64)

// LRU gives up what was used longest ago.
func LRU(now time.Time, it Item) float64 { return -now.Sub(it.LastUsed).Seconds() }

// GDSF gives up what is worth least per byte: frequency x reload seconds / size, with the frequency
// halved for every half hour without a use, so that old fame does not last.
func GDSF(now time.Time, it Item) float64 { return gdsf(now, it, 30*time.Minute) }

// GDSFHalfLife is GDSF with another half-life.
func GDSFHalfLife(half time.Duration) Policy {
	return func(now time.Time, it Item) float64 { return gdsf(now, it, half) }
}

func gdsf(now time.Time, it Item, half time.Duration) float64 {
	age := max(now.Sub(it.LastUsed), 0)
	uses := max(it.Uses, 1) * math.Exp2(-age.Seconds()/max(half.Seconds(), 1e-9))
	return uses * max(it.ReloadSeconds, 0.001) / max(float64(it.Size)/(1<<30), 1e-9)
}

// ErrInsufficient is what errors.Is finds in an *InsufficientError.
var ErrInsufficient = errors.New("eviction: not enough can be given up")

// InsufficientError says why no set of items is enough.
type InsufficientError struct {
	Need, Evictable, Pinned, Busy int64 // bytes
}

// Error names the need, the offer and the way out.
func (e *InsufficientError) Error() string {
	return fmt.Sprintf("eviction: %d bytes are needed and %d can be given up (%d pinned, %d in use): unpin something, wait for work to end, or add room",
		e.Need, e.Evictable, e.Pinned, e.Busy)
}

// Is matches ErrInsufficient.
func (e *InsufficientError) Is(target error) bool { return target == ErrInsufficient }

// Code is the contract's code.
func (e *InsufficientError) Code() string { return "INSUFFICIENT_VRAM" }

// Details are the numbers.
func (e *InsufficientError) Details() map[string]any {
	return map[string]any{"need_bytes": e.Need, "evictable_bytes": e.Evictable, "pinned_bytes": e.Pinned, "busy_bytes": e.Busy}
}

// Reason is why one item goes or stays.
type Reason struct {
	ID     string
	Chosen bool
	Score  float64
	Why    string
}

// Choice is a plan: what to give up, and the fate of every item.
type Choice struct {
	Evict   []Item // lowest worth first
	Freed   int64
	Penalty time.Duration // what bringing them back would take
	Reasons []Reason
}

// IDs are those of the items to give up.
func (c *Choice) IDs() []string {
	ids := make([]string, len(c.Evict))
	for i, it := range c.Evict {
		ids[i] = it.ID
	}
	return ids
}

// Plan chooses a smallest sufficient set: the lowest scores first until need is covered, then every member
// that the others make superfluous is taken back, the most valuable first. A need of 0 or less needs
// nothing. A nil policy is LRU. Equal scores go by id, so that equal inputs give equal plans.
func Plan(now time.Time, items []Item, need int64, p Policy) (*Choice, error) {
	if p == nil {
		p = LRU
	}
	c := &Choice{}
	type scored struct {
		Item
		score float64
	}
	var pool []scored
	short := &InsufficientError{Need: need}
	for _, it := range items {
		switch {
		case it.Pinned:
			short.Pinned += it.Size
			c.Reasons = append(c.Reasons, Reason{ID: it.ID, Why: "pinned"})
		case it.Busy:
			short.Busy += it.Size
			c.Reasons = append(c.Reasons, Reason{ID: it.ID, Why: "in use"})
		case it.Size <= 0:
			c.Reasons = append(c.Reasons, Reason{ID: it.ID, Why: "takes no room"})
		default:
			short.Evictable += it.Size
			pool = append(pool, scored{it, p(now, it)})
		}
	}
	if need > 0 && short.Evictable < need {
		return nil, short
	}
	slices.SortFunc(pool, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.ID, b.ID))
	})
	n := 0
	for n < len(pool) && c.Freed < need {
		c.Freed += pool[n].Size
		n++
	}
	keep := make([]bool, len(pool))
	for i := n - 1; i >= 0; i-- {
		if c.Freed-pool[i].Size >= need {
			c.Freed -= pool[i].Size
			keep[i] = true
		}
	}
	for i, it := range pool {
		r := Reason{ID: it.ID, Score: it.score}
		switch {
		case i >= n:
			r.Why = "worth more than what goes"
		case keep[i]:
			r.Why = "not needed beside the others"
		default:
			r.Chosen, r.Why = true, "worth least"
			c.Evict = append(c.Evict, it.Item)
			c.Penalty += time.Duration(it.ReloadSeconds * float64(time.Second))
		}
		c.Reasons = append(c.Reasons, r)
	}
	return c, nil
}

// Expired are the items idle for longer than their time to live, oldest first; never a pinned or busy one.
func Expired(now time.Time, items []Item) []Item {
	var out []Item
	for _, it := range items {
		if it.TTL > 0 && !it.Pinned && !it.Busy && now.Sub(it.LastUsed) >= it.TTL {
			out = append(out, it)
		}
	}
	slices.SortFunc(out, func(a, b Item) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), cmp.Compare(a.ID, b.ID))
	})
	return out
}
