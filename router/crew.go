package router

import (
	"slices"
	"sync"
	"time"
)

// crew is the goroutines that carry jobs whose submitters do not. One that has carried a job waits a while for another: its stack has
// grown to what an exchange needs by then, and growing a new one costs more than all else about a goroutine.
type crew struct {
	mu     sync.Mutex
	idle   []*carrier // the one that came last at the end
	sweeps *time.Timer
	closed bool
}

// carrier is one that waits.
type carrier struct {
	next  chan *task // with its slot; closed: there is none
	since time.Time
}

// Bounds of who waits, and for how long.
const (
	crewIdle   = 64
	crewLinger = time.Second
)

// carry has a task carried, which has its slot.
func (c *crew) carry(t *task) {
	c.mu.Lock()
	last := len(c.idle) - 1
	if last < 0 {
		c.mu.Unlock()
		go c.work(t)
		return
	}
	w := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	c.mu.Unlock()
	w.next <- t // which has room: nobody else has w
}

// work is a carrier's life.
func (c *crew) work(t *task) {
	var w *carrier
	for t != nil {
		t.carry(t.slot)
		if w == nil {
			w = &carrier{next: make(chan *task, 1)}
		}
		if !c.rest(w) {
			return
		}
		t = <-w.next
	}
}

// rest adds a carrier to those that wait; false where there are enough.
func (c *crew) rest(w *carrier) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= crewIdle {
		return false
	}
	w.since = time.Now()
	c.idle = append(c.idle, w)
	if c.sweeps == nil {
		c.sweeps = time.AfterFunc(crewLinger, c.sweep)
	}
	return true
}

// sweep ends those who waited in vain.
func (c *crew) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, now := 0, time.Now()
	for n < len(c.idle) && (c.closed || now.Sub(c.idle[n].since) >= crewLinger) {
		close(c.idle[n].next)
		n++
	}
	c.idle = slices.Delete(c.idle, 0, n)
	if len(c.idle) == 0 {
		c.sweeps = nil
		return
	}
	c.sweeps.Reset(crewLinger)
}

// close ends those who wait; nobody waits any more.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	if c.sweeps != nil {
		c.sweeps.Stop()
	}
	c.mu.Unlock()
	c.sweep()
}
