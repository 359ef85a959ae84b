package retry

import (
	"sync"
	"time"
)

// State is a breaker's state.
type State uint8

// The states of a breaker.
const (
	Closed   State = iota // everything goes through
	Open                  // nothing goes through
	HalfOpen              // a few probes go through
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case Open:
		return "open"
	case HalfOpen:
		return "half-open"
	}
	return "closed"
}

// BreakerOptions tune a Breaker. The zero value is usable.
type BreakerOptions struct {
	Name        string
	Failures    int           // in a row that open it, 0 = 5
	Cooldown    time.Duration // until the first probe, 0 = 30 s; times the number of openings in a row
	MaxCooldown time.Duration // 0 = 10 x Cooldown
	Probes      int           // at once while half open, and successes that close it; 0 = 1
	OnState     func(name string, from, to State)
	Now         func() time.Time
}

// Breaker stops calls to something that fails every time, and probes whether it has recovered.
type Breaker struct {
	o        BreakerOptions
	mu       sync.Mutex
	state    State
	failures int
	opened   int // times in a row
	until    time.Time
	probing  int
	passed   int
	gen      int
	last     error
}

// NewBreaker returns a closed breaker.
func NewBreaker(o BreakerOptions) *Breaker {
	if o.Name == "" {
		o.Name = "upstream"
	}
	if o.Failures <= 0 {
		o.Failures = 5
	}
	if o.Cooldown <= 0 {
		o.Cooldown = 30 * time.Second
	}
	if o.MaxCooldown <= 0 {
		o.MaxCooldown = 10 * o.Cooldown
	}
	if o.Probes <= 0 {
		o.Probes = 1
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Breaker{o: o}
}

// State returns the state now.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == Open && !b.o.Now().Before(b.until) {
		return HalfOpen
	}
	return b.state
}

// Allow asks to make one call. report must be called once with its outcome; later calls of it do nothing. While the
// breaker is open, or half open with all its probes out, the error is a *OpenError.
func (b *Breaker) Allow() (report func(ok bool, err error), err error) {
	b.mu.Lock()
	change := func() {}
	defer func() {
		b.mu.Unlock()
		change()
	}()
	now := b.o.Now()
	if b.state == Open && !now.Before(b.until) {
		change = b.become(HalfOpen)
		b.probing, b.passed = 0, 0
	}
	switch {
	case b.state == Open:
		return nil, &OpenError{Name: b.o.Name, After: b.until.Sub(now), Last: b.last}
	case b.state == HalfOpen && b.probing >= b.o.Probes:
		return nil, &OpenError{Name: b.o.Name, After: b.o.Cooldown / 10, Last: b.last}
	case b.state == HalfOpen:
		b.probing++
	}
	gen := b.gen
	var once sync.Once
	return func(ok bool, err error) { once.Do(func() { b.report(gen, ok, err) }) }, nil
}

// report settles a call that Allow let through in generation gen; calls from an older state no longer count.
func (b *Breaker) report(gen int, ok bool, err error) {
	b.mu.Lock()
	change := func() {}
	defer func() {
		b.mu.Unlock()
		change()
	}()
	if gen != b.gen {
		return
	}
	if b.state == HalfOpen {
		b.probing--
	}
	switch {
	case !ok:
		b.last = err
		if b.failures++; b.state == HalfOpen || b.failures >= b.o.Failures {
			b.opened++
			wait := min(b.o.Cooldown*time.Duration(b.opened), b.o.MaxCooldown)
			b.until = b.o.Now().Add(wait)
			change = b.become(Open)
		}
	case b.state == HalfOpen:
		if b.passed++; b.passed >= b.o.Probes {
			b.opened, b.failures, b.last = 0, 0, nil
			change = b.become(Closed)
		}
	default:
		b.failures = 0
	}
}

// become changes the state; the returned func tells the observer, outside the lock.
func (b *Breaker) become(to State) func() {
	from := b.state
	b.state = to
	b.gen++
	if b.o.OnState == nil || from == to {
		return func() {}
	}
	return func() { b.o.OnState(b.o.Name, from, to) }
}
