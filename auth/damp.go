package auth

import (
	"strings"
	"sync"
	"time"
)

// damper counts failed attempts per address and key id in windows of a minute: many clients come from one address, and one
// of them with a wrong key must not shut the others out. It holds at most maxGuessed pairs; when it is full the whole window
// is dropped, which an attacker with that many addresses could do anyway.
type damper struct {
	mu    sync.Mutex
	limit int
	now   func() time.Time
	seen  map[guessed]*attempts
}

// guessed is a key id as an address presented it, whether there is such a key or not; "" for what has no key's form.
type guessed struct{ addr, id string }

type attempts struct {
	since time.Time
	count int
}

const (
	maxGuessed = 65_536
	dampWindow = time.Minute
)

func newDamper(limit int, now func() time.Time) *damper {
	if limit == 0 {
		limit = 20
	}
	return &damper{limit: limit, now: now, seen: map[guessed]*attempts{}}
}

// blocked returns how long the address has to wait before it tries this key id again; 0: it may try.
func (d *damper) blocked(g guessed) time.Duration {
	if d.limit < 0 || g.addr == "" {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.seen[g]
	if a == nil {
		return 0
	}
	left := dampWindow - d.now().Sub(a.since)
	if left <= 0 {
		delete(d.seen, g)
		return 0
	}
	if a.count < d.limit {
		return 0
	}
	return left
}

func (d *damper) failed(g guessed) {
	if d.limit < 0 || g.addr == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.seen[g]
	if a == nil {
		if len(d.seen) >= maxGuessed {
			clear(d.seen)
		}
		g.id = strings.Clone(g.id) // the rest of what was presented is not kept
		d.seen[g] = &attempts{since: d.now(), count: 1}
		return
	}
	a.count++
}
