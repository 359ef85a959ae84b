package engine

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// ending is why attend returned.
type ending uint8

const (
	stopped ending = iota
	detached
	died
	late   // not ready in time
	stolen // somebody else answers on its port
	hung   // served and then stopped answering
)

// run is the life of a worker: attend a process, and when it dies start the next, until it is stopped or hopeless.
func (w *worker) run(p *process) {
	logDone := make(chan struct{})
	go func() {
		defer close(logDone)
		w.log.run(w.logStop, func() bool { return w.snapshot().State == hiveapi.WorkerLoading })
	}()
	left := w.lives(p)
	close(w.logStop)
	<-logDone
	w.s.remove(w)
	w.s.freePort(w.port)
	if !left {
		w.s.forget(w.req.WorkerID)
		w.evMu.Lock()
		if w.s.o.OnChange != nil {
			w.s.o.OnChange(w.snapshot(), true)
		}
		w.evMu.Unlock()
	}
	close(w.done)
}

// lives returns true when the worker was left running.
func (w *worker) lives(p *process) (left bool) {
	inARow, ports := 0, 0
	for {
		began := time.Now()
		why := w.attend(p)
		ready := w.isReady()
		switch why {
		case detached:
			return true
		case stopped:
			return false
		}
		v := w.autopsy(p, why, ready)
		w.sweepLater()
		if v.port && ports < 3 {
			ports++
		} else {
			if ready && time.Since(began) > time.Minute {
				inARow = 0
			}
			if !w.again(v, ready, inARow) {
				return w.linger(v)
			}
			if stop := w.pause(v, inARow); stop {
				return false
			}
			inARow++
		}
		w.update(func(r *Worker) {
			r.State, r.Message, r.ErrorCode, r.Progress, r.SlotsFree = hiveapi.WorkerLoading, v.message, v.code, 0, 0
			r.Restarting = false
			if !v.port {
				r.Restarts++
			}
		})
		w.log.note("starting again")
		next, err := w.launch()
		if err != nil {
			return w.linger(verdict{message: err.Error()})
		}
		p = next
	}
}

// again decides whether a worker that died is started once more. One that never served in this life and whose end is
// explained by what doesn't change is not.
func (w *worker) again(v verdict, ready bool, inARow int) bool {
	if w.spec.Restart == "never" || v.permanent || inARow >= w.s.o.MaxRestarts {
		return false
	}
	return ready || w.snapshot().Restarts > 0
}

// pause waits before a restart: not at all the first time, then with backoff. It returns true on a stop.
func (w *worker) pause(v verdict, inARow int) bool {
	wait := time.Duration(0)
	if inARow > 0 {
		wait = min(w.s.o.Backoff<<(inARow-1), time.Minute)
		w.update(func(r *Worker) {
			r.State, r.SlotsFree, r.ErrorCode, r.Restarting = hiveapi.WorkerFailed, 0, v.code, true
			r.Message = fmt.Sprintf("%s; it is started again in %v", v.message, wait.Round(time.Millisecond))
		})
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return false
	case <-w.stop:
		return true
	case <-w.s.detach:
		return true
	}
}

// linger shows a failure for a while, or until somebody stops the worker.
func (w *worker) linger(v verdict) bool {
	w.s.log.Warn("a worker has failed", "worker_id", w.req.WorkerID, "engine", w.spec.Name, "reason", v.message)
	w.update(func(r *Worker) {
		r.State, r.Message, r.ErrorCode, r.SlotsFree, r.PID = hiveapi.WorkerFailed, v.message, v.code, 0, 0
	})
	t := time.NewTimer(w.s.o.FailedTTL)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.stop:
	case <-w.s.detach:
	}
	return false
}

func (w *worker) isReady() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wasReady
}

// attend waits until a process serves and then until it ends, or until it is to end.
func (w *worker) attend(p *process) ending {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.notReady = ""
	ready := make(chan error, 1)
	go func() { ready <- w.becomeReady(ctx, p.pid) }()
	settle := func() { // nobody reads the plan any more when attend returns
		cancel()
		if ready != nil {
			<-ready
		}
	}
	sick := make(chan struct{})
	timeout := time.NewTimer(max(w.plan.ReadyTimeout, time.Second))
	defer timeout.Stop()
	for {
		select {
		case <-p.exit:
			settle()
			return died
		case <-w.s.detach:
			settle()
			return detached
		case <-w.stop:
			settle()
			w.terminate(p)
			return stopped
		case err := <-ready:
			ready = nil
			if err != nil {
				w.notReady = err.Error()
				w.put(p)
				if errors.Is(err, errStolen) {
					return stolen
				}
				return late
			}
			timeout.Stop()
			w.serve(p)
			go w.watchHealth(ctx, w.plan.Address, w.plan.Health, w.plan.APIKey, sick)
		case <-sick:
			w.put(p)
			return hung
		case <-timeout.C:
			settle()
			w.put(p)
			return late
		}
	}
}

var errStolen = errors.New("another program answers on this port; trying another one")

// contained says whether somebody else listens for the worker, as a container's runtime does.
func (w *worker) contained() bool {
	switch filepath.Base(w.plan.Path) {
	case "docker", "podman", "nerdctl", "ssh":
		return true
	}
	return len(w.plan.Stop) > 0
}

// becomeReady waits for the health path and, where the engine has a step behind that, takes it.
func (w *worker) becomeReady(ctx context.Context, pid int) error {
	if err := w.s.prober.ready(ctx, w.plan.Address, w.plan.Health, w.plan.APIKey, w.poke); err != nil {
		return err
	}
	if !w.contained() && foreign(w.plan.Address, pid) {
		return errStolen
	}
	if w.spec.Adapter == Ollama && len(w.spec.Command) == 0 {
		return w.loadOllama(ctx)
	}
	return nil
}

// watchHealth closes sick when the engine has not answered three times in a row. An answer of any kind is a sign of
// life: some engines say 503 while they are busy.
func (w *worker) watchHealth(ctx context.Context, address, path, key string, sick chan<- struct{}) {
	if w.s.o.HealthEvery < 0 {
		return
	}
	t := time.NewTicker(w.s.o.HealthEvery)
	defer t.Stop()
	for missed := 0; missed < 3; {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		actx, cancel := context.WithTimeout(ctx, min(w.s.o.HealthEvery, 5*time.Second))
		code := w.s.prober.health(actx, address, path, key)
		cancel()
		if missed++; code != 0 {
			missed = 0
		}
	}
	if ctx.Err() == nil {
		close(sick)
	}
}

// serve marks the worker as ready.
func (w *worker) serve(p *process) {
	memory := residentBytes(p.pid)
	w.mu.Lock()
	w.wasReady = true
	w.mu.Unlock()
	w.update(func(r *Worker) {
		r.State, r.Progress, r.SlotsFree, r.ReadyAt, r.Message, r.ErrorCode = hiveapi.WorkerIdle, 1, r.SlotsTotal, time.Now().UTC(), "", ""
		if r.MemoryBytes == 0 {
			r.MemoryBytes = memory
		}
	})
	if err := w.save(p); err != nil {
		w.s.log.Warn("a worker's record can't be written", "worker_id", w.req.WorkerID, "error", err)
	}
	w.s.log.Info("a worker serves", "worker_id", w.req.WorkerID, "engine", w.spec.Name, "pid", p.pid, "address", w.plan.Address)
}

// autopsy says why a process ended.
func (w *worker) autopsy(p *process, why ending, ready bool) verdict {
	w.log.read()
	var v verdict
	switch {
	case why == hung:
		v.message = fmt.Sprintf("the engine stopped answering %s and was ended", w.plan.Health)
	case why == stolen:
		v = verdict{message: "another program answers on its port", port: true}
	case why == late && w.notReady != "":
		v = verdict{message: w.notReady, permanent: true}
	case why == late:
		v = verdict{message: fmt.Sprintf("the engine did not answer %s within %v; see its log, or raise ready_timeout", w.plan.Health, w.plan.ReadyTimeout), permanent: true}
	default:
		v = explain(w.s.signs, p.end(), ready, w.log.Tail(60))
	}
	w.log.note(v.message)
	w.s.log.Info("a worker's process ended", "worker_id", w.req.WorkerID, "pid", p.pid, "reason", v.message)
	return v
}

// terminate drains and stops a worker on request.
func (w *worker) terminate(p *process) {
	w.mu.Lock()
	o := w.stopOpts
	w.mu.Unlock()
	w.update(func(r *Worker) { r.State, r.SlotsFree = hiveapi.WorkerDraining, 0 })
	if o.Drain > 0 {
		w.drain(p, o.Drain)
	}
	if o.Grace > 0 {
		w.plan.StopGrace = o.Grace
	}
	w.put(p)
	sweep(w.spawnMark())
}

// sweepLater ends what a process that died left behind, without holding up the next one, which gets another mark.
func (w *worker) sweepLater() {
	mark := w.spawnMark()
	w.s.wg.Go(func() { sweep(mark) })
	w.mu.Lock()
	w.mark = randomHex(16)
	w.mu.Unlock()
}

// drain waits until the engine says that it has nothing to do.
func (w *worker) drain(p *process, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		n, ok := w.s.prober.requests(ctx, w.plan.Address, w.plan.Capabilities.Metrics, w.plan.APIKey, w.adapter)
		if ok && n == 0 || !ok && w.adapter.running == "" {
			return
		}
		select {
		case <-t.C:
		case <-p.exit:
			return
		case <-ctx.Done():
			return
		}
	}
}

// put ends a process: the spec's stop command or TERM, then KILL for the group.
func (w *worker) put(p *process) {
	grace := time.NewTimer(max(w.plan.StopGrace, 100*time.Millisecond))
	defer grace.Stop()
	if len(w.plan.Stop) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), w.plan.StopGrace)
		cmd := exec.CommandContext(ctx, w.plan.Stop[0], w.plan.Stop[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.log.note("the stop command failed: " + err.Error() + " " + clip(string(out)))
		}
		cancel()
	}
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.exit:
		return
	case <-grace.C:
	}
	_ = p.signal(syscall.SIGKILL)
	<-p.exit
}
