package hivelifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// steady is how long a hive must have run for its next death to count as the first one.
const steady = time.Minute

// hive is one hive that the Manager looks after. Whoever starts or stops it holds op; mu guards the fields for
// moments only.
type hive struct {
	m    *Manager
	name string
	op   chan struct{}
	tell sync.Mutex // one call to the Registrar at a time

	mu      sync.Mutex
	local   *LocalConfig
	network *NetworkConfig
	flight  *flight
	want    bool // it should be running
	ready   bool
	ep      Endpoint
	proc    *proc // local hives
	remote  *host // network hives: the machine
	since   time.Time
	fails   int
	life    context.CancelFunc // ends the goroutine that watches this incarnation
}

// flight is one start that any number of callers wait for; it is given up when the last of them has gone.
type flight struct {
	done      chan struct{}
	cancel    context.CancelFunc
	waiters   int
	abandoned bool
	ep        Endpoint
	err       error
}

// ensure starts the hive unless it answers, sharing the work with every other caller. asked is true when somebody
// wants the hive to run, false for a restart, which Stop forbids.
func (h *hive) ensure(ctx context.Context, asked bool) (Endpoint, error) {
	for {
		f, joined, err := h.join(asked)
		if err != nil {
			return Endpoint{}, err
		}
		if !joined { // an earlier start is still being taken back
			select {
			case <-f.done:
				continue
			case <-ctx.Done():
				return Endpoint{}, fail(h.name, StepStart, ctx.Err(), "try again")
			}
		}
		select {
		case <-f.done:
			return f.ep, f.err
		case <-ctx.Done():
		}
		h.mu.Lock()
		if f.waiters--; f.waiters == 0 {
			f.abandoned = true
			f.cancel()
		}
		h.mu.Unlock()
		return Endpoint{}, fail(h.name, StepStart, ctx.Err(), "allow it more time")
	}
}

// join finds the start under way or begins one. joined is false for one that was given up and has not ended yet.
func (h *hive) join(asked bool) (f *flight, joined bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if asked {
		h.want = true
	} else if !h.want {
		return nil, false, ErrStopped
	}
	if f := h.flight; f != nil {
		if f.abandoned {
			return f, false, nil
		}
		f.waiters++
		return f, true, nil
	}
	ctx, cancel := context.WithCancel(h.m.ctx)
	f = &flight{done: make(chan struct{}), cancel: cancel, waiters: 1}
	ok := h.m.spawnGo(func() {
		f.ep, f.err = h.start(ctx)
		h.mu.Lock()
		h.flight = nil
		h.mu.Unlock()
		cancel()
		close(f.done)
	})
	if !ok {
		cancel()
		return nil, false, fail(h.name, StepStart, ErrClosed, "start the queen again")
	}
	h.flight = f
	return f, true, nil
}

// start runs with op held.
func (h *hive) start(ctx context.Context) (Endpoint, error) {
	if err := h.lock(ctx); err != nil {
		return Endpoint{}, fail(h.name, StepStart, err, "try again")
	}
	defer h.unlock()
	h.mu.Lock()
	want, local, network := h.want, h.local, h.network
	h.mu.Unlock()
	if !want {
		return Endpoint{}, fail(h.name, StepStart, ErrStopped, "start it again")
	}
	if ep, ok := h.answers(ctx); ok {
		return ep, nil
	}
	h.status(StatusStarting, "the hive is being started")
	var ep Endpoint
	var err error
	if local != nil {
		ep, err = h.startLocal(ctx, *local)
	} else {
		ep, err = h.startNetwork(ctx, *network)
	}
	if err != nil {
		h.status(StatusError, err.Error())
		h.retryLater(err)
	}
	return ep, err
}

// answers probes the endpoint that is known already.
func (h *hive) answers(ctx context.Context) (Endpoint, bool) {
	h.mu.Lock()
	ep, ready := h.ep, h.ready
	h.mu.Unlock()
	if !ready {
		return Endpoint{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, h.m.o.ProbeTimeout)
	defer cancel()
	_, err := callerOf(ep).handshake(ctx)
	return ep, err == nil
}

// up records a hive that answers and begins to watch it.
func (h *hive) up(ep Endpoint, p *proc, watch func(life context.Context)) Endpoint {
	life, cancel := context.WithCancel(h.m.ctx)
	h.mu.Lock()
	if h.life != nil {
		h.life()
	}
	h.ep, h.proc, h.ready, h.life, h.since = ep, p, true, cancel, time.Now()
	h.mu.Unlock()
	verb := "started"
	if ep.Adopted {
		verb = "was running and has been adopted"
	}
	h.m.event(h.name, StepReady, Done, fmt.Sprintf("Hive %s %s: version %s, pid %d, at %s.", h.name, verb, ep.Version, ep.PID, ep.Address))
	h.status(StatusOnline, "")
	h.tell.Lock()
	h.m.reg.HiveReady(h.name, ep)
	h.tell.Unlock()
	h.m.spawnGo(func() { watch(life) })
	return ep
}

// down notes that this incarnation has ended.
func (h *hive) down(status, message string) {
	h.mu.Lock()
	h.ready = false
	if time.Since(h.since) > steady {
		h.fails = 0
	}
	h.mu.Unlock()
	h.status(status, message)
}

// restart brings a hive back that ended by itself: at once the first time, then ever later, until it runs, is
// stopped, or fails for a reason that only a person can mend.
func (h *hive) restart(ctx context.Context, why string) {
	for {
		h.mu.Lock()
		n, want := h.fails, h.want
		h.fails++
		h.mu.Unlock()
		if !want {
			return
		}
		d := h.m.o.Backoff(n)
		when := "at once"
		if d > 0 {
			when = "in " + d.String()
		}
		h.m.event(h.name, StepRestart, Begun, fmt.Sprintf("Hive %s %s; it is tried again %s.", h.name, why, when))
		if !sleep(ctx, d) {
			return
		}
		_, err := h.ensure(h.m.ctx, false)
		if err == nil || errors.Is(err, ErrStopped) || ctx.Err() != nil {
			return
		}
		if permanent(err) {
			h.mu.Lock()
			if ctx.Err() == nil && h.life != nil { // nothing watches any more: a later start may try again
				h.life()
				h.life = nil
			}
			h.mu.Unlock()
			h.m.event(h.name, StepRestart, Failed, fmt.Sprintf("Hive %s is not tried again by itself: %v.", h.name, err))
			return
		}
		why = "could not be started"
	}
}

func (h *hive) status(status, message string) {
	h.tell.Lock()
	defer h.tell.Unlock()
	h.m.reg.HiveStatus(h.name, status, message)
}

// leave stops watching and restarting the hive and lets it run.
func (h *hive) leave() {
	h.quiet()
	h.mu.Lock()
	r := h.remote
	h.remote, h.ready = nil, false
	h.mu.Unlock()
	if r != nil {
		r.close()
	}
}

// quiet ends the watching and any start under way.
func (h *hive) quiet() {
	h.mu.Lock()
	h.want = false
	if h.life != nil {
		h.life()
		h.life = nil
	}
	f := h.flight
	if f != nil {
		f.abandoned = true
		f.cancel()
	}
	h.mu.Unlock()
	if f != nil {
		<-f.done
	}
}

func (h *hive) lock(ctx context.Context) error {
	select {
	case h.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hive) unlock() { <-h.op }
