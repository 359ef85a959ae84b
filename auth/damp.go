package auth

import (
	"sync"
	"time"
)

// damper counts failed attempts per address in windows of a minute. It holds at most maxAddresses addresses; when it
// is full the whole window is dropped, which an attacker with that many addresses could do anyway.
type damper struct {
	mu    sync.Mutex
	limit int
	now   func() time.Time
	seen  map[string]*attempts
}

type attempts struct {
	since time.Time
	count int
}

const (
	maxAddresses = 65_536
	dampWindow   = time.Minute
)

func newDamper(limit int, now func() time.Time) *damper {
	if limit == 0 {
		limit = 20
	}
	return &damper{limit: limit, now: now, seen: map[string]*attempts{}}
}

// blocked returns how long the address has to wait; 0: it may try.
func (d *damper) blocked(addr string) time.Duration {
	if d.limit < 0 || addr == "" {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.seen[addr]
	if a == nil {
		return 0
	}
	left := dampWindow - d.now().Sub(a.since)
	if left <= 0 {
		delete(d.seen, addr)
		return 0
	}
	if a.count < d.limit {
		return 0
	}
	return left
}

func (d *damper) failed(addr string) {
	if d.limit < 0 || addr == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.seen[addr]
	if a == nil {
		if len(d.seen) >= maxAddresses {
			clear(d.seen)
		}
		d.seen[addr] = &attempts{since: d.now(), count: 1}
		return
	}
	a.count++
}
