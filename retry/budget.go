package retry

import (
	"sync"
	"time"
)

// BudgetOptions tune a Budget. The zero value is usable.
type BudgetOptions struct {
	Ratio  float64       // retries per request, 0 = 0.2
	Min    int           // retries a window that are always allowed, 0 = 3, negative = none
	Window time.Duration // what is counted together, 0 = 10 s
	Now    func() time.Time
}

// Budget bounds the retries of everything that shares it: over any window at most Min of them, or Ratio times the
// requests of that window when that is more. So a failing upstream sees at most 1.2 times its normal load.
type Budget struct {
	o       BudgetOptions
	mu      sync.Mutex
	slots   [slots]slot
	current int64 // index of the newest slot since the epoch
	sum     slot
}

const slots = 10

type slot struct{ requests, retries int }

// NewBudget returns a budget.
func NewBudget(o BudgetOptions) *Budget {
	if o.Ratio <= 0 {
		o.Ratio = 0.2
	}
	if o.Min == 0 {
		o.Min = 3
	}
	o.Min = max(o.Min, 0)
	if o.Window <= 0 {
		o.Window = 10 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	b := &Budget{o: o}
	b.current = b.index()
	return b
}

// Request counts a first attempt.
func (b *Budget) Request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	b.slots[b.current%slots].requests++
	b.sum.requests++
}

// Take asks for one retry.
func (b *Budget) Take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	if b.sum.retries >= b.allowed() {
		return false
	}
	b.slots[b.current%slots].retries++
	b.sum.retries++
	return true
}

// Left returns how many retries are left now.
func (b *Budget) Left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance()
	return max(b.allowed()-b.sum.retries, 0)
}

func (b *Budget) allowed() int {
	return max(b.o.Min, int(b.o.Ratio*float64(b.sum.requests)))
}

func (b *Budget) index() int64 { return b.o.Now().UnixNano() / (int64(b.o.Window) / slots) }

// advance forgets what left the window. A clock that went back leaves everything as it is.
func (b *Budget) advance() {
	now := b.index()
	if now-b.current >= slots {
		b.slots, b.sum, b.current = [slots]slot{}, slot{}, now
		return
	}
	for b.current < now {
		b.current++
		old := &b.slots[b.current%slots]
		b.sum.requests -= old.requests
		b.sum.retries -= old.retries
		*old = slot{}
	}
}
