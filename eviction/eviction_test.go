package eviction

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Unix(1_700_000_000, 0)

func item(id string, size int64, idle time.Duration) Item {
	return Item{ID: id, Group: "n/0", Size: size, LastUsed: t0.Add(-idle), Uses: 1, ReloadSeconds: 1}
}

func TestPlanIsLRUAndMinimal(t *testing.T) {
	items := []Item{item("small-old", 1, 10*time.Hour), item("big", 8, 5*time.Hour), item("hot", 8, time.Second)}
	c, err := Plan(t0, items, 8, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"big"}, c.IDs()); diff != "" {
		t.Errorf("the old small one is not needed beside the big one: %s", diff)
	}
}

func TestPlanNeverTakesPinnedOrBusy(t *testing.T) {
	a, b, c := item("a", 8, time.Hour), item("b", 8, time.Hour), item("c", 4, time.Hour)
	a.Pinned, b.Busy = true, true
	_, err := Plan(t0, []Item{a, b, c}, 8, LRU)
	var short *InsufficientError
	if !errors.As(err, &short) || !errors.Is(err, ErrInsufficient) || short.Code() != "INSUFFICIENT_VRAM" {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(&InsufficientError{Need: 8, Evictable: 4, Pinned: 8, Busy: 8}, short); diff != "" {
		t.Error(diff)
	}
}

func TestGDSFKeepsWhatIsDearToReload(t *testing.T) {
	cheap, dear := item("cheap", 1<<30, time.Minute), item("dear", 1<<30, time.Hour)
	dear.Uses, dear.ReloadSeconds = 100, 60
	c, err := Plan(t0, []Item{dear, cheap}, 1<<30, GDSF)
	if err != nil || !slices.Equal(c.IDs(), []string{"cheap"}) {
		t.Errorf("got %v %v; LRU would have taken dear", c, err)
	}
	fame := item("fame", 1<<30, 48*time.Hour)
	fame.Uses = 1e6
	if GDSF(t0, fame) > GDSF(t0, cheap) {
		t.Error("old fame must fade")
	}
}

// Property: whatever the items, a plan is sufficient, minimal, and takes nothing pinned or busy; and an
// error comes exactly when everything evictable is too little.
func TestPlanProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 5000 {
		var items []Item
		var evictable int64
		for i := range rng.IntN(12) {
			it := item(fmt.Sprint(i), rng.Int64N(20), time.Duration(rng.IntN(100))*time.Second)
			it.Pinned, it.Busy = rng.IntN(4) == 0, rng.IntN(4) == 0
			it.Uses, it.ReloadSeconds = float64(rng.IntN(9)), float64(rng.IntN(9))
			if !it.Pinned && !it.Busy {
				evictable += it.Size
			}
			items = append(items, it)
		}
		need := rng.Int64N(60) - 5
		policy := []Policy{LRU, GDSF, nil}[round%3]
		c, err := Plan(t0, items, need, policy)
		if (err != nil) != (need > 0 && evictable < need) {
			t.Fatalf("round %d: need %d of %d: %v", round, need, evictable, err)
		}
		if err != nil {
			continue
		}
		var freed int64
		for _, it := range c.Evict {
			freed += it.Size
			if it.Pinned || it.Busy {
				t.Fatalf("round %d: victim %+v", round, it)
			}
		}
		for _, it := range c.Evict {
			if freed-it.Size >= need {
				t.Fatalf("round %d: %s is superfluous", round, it.ID)
			}
		}
		if freed != c.Freed || freed < need && need > 0 || len(c.Reasons) != len(items) {
			t.Fatalf("round %d: freed %d of %d, %d reasons for %d items", round, freed, need, len(c.Reasons), len(items))
		}
	}
}

// house is a Lister, Stopper and Drainer in memory; busyAfter makes an item busy once it is drained.
type house struct {
	items     map[string]Item
	log       []string
	busyAfter map[string]bool
}

func (h *house) Items(context.Context) ([]Item, error) {
	var out []Item
	for _, it := range h.items {
		out = append(out, it)
	}
	return out, nil
}

func (h *house) Stop(_ context.Context, id string) error {
	h.log = append(h.log, "stop "+id)
	delete(h.items, id)
	return nil
}

func (h *house) Drain(_ context.Context, id string) error {
	h.log = append(h.log, "drain "+id)
	if h.busyAfter[id] {
		it := h.items[id]
		it.Busy = true
		h.items[id] = it
	}
	return nil
}

func (h *house) Undrain(_ context.Context, id string) error {
	h.log = append(h.log, "undrain "+id)
	return nil
}

func TestFreeDrainsFirstAndGivesBackWhatGotBusy(t *testing.T) {
	h := &house{items: map[string]Item{"a": item("a", 8, 2*time.Hour), "b": item("b", 8, time.Hour)}, busyAfter: map[string]bool{"a": true}}
	e := New(h, h, Options{Now: func() time.Time { return t0 }})
	c, err := e.Free(t.Context(), "n/0", 8)
	if err != nil || !slices.Equal(c.IDs(), []string{"b"}) {
		t.Fatalf("got %+v %v", c, err)
	}
	if diff := cmp.Diff([]string{"drain a", "undrain a", "drain b", "stop b"}, h.log); diff != "" {
		t.Error(diff)
	}
	if e.Last() != c {
		t.Error("Last must explain the last Free")
	}
}

func TestFreeStopsNothingWhenItIsNotEnough(t *testing.T) {
	h := &house{items: map[string]Item{"a": item("a", 8, time.Hour)}}
	if _, err := New(h, h, Options{}).Free(t.Context(), "n/0", 9); !errors.Is(err, ErrInsufficient) || len(h.log) != 0 {
		t.Errorf("got %v, log %v", err, h.log)
	}
	if _, err := New(h, h, Options{}).Free(t.Context(), "elsewhere", 1); !errors.Is(err, ErrInsufficient) {
		t.Errorf("another group's items are not ours: %v", err)
	}
}

func TestRunSweepsExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, kept, busy := item("old", 1, 0), item("kept", 1, 0), item("busy", 1, 0)
		old.LastUsed, kept.LastUsed, busy.LastUsed = time.Now(), time.Now(), time.Now()
		old.TTL, busy.TTL, busy.Busy = time.Minute, time.Minute, true
		h := &house{items: map[string]Item{"old": old, "kept": kept, "busy": busy}}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := New(h, h, Options{}).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"drain old", "stop old"}, h.log); diff != "" {
			t.Error(diff)
		}
	})
}
