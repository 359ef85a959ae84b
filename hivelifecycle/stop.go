package hivelifecycle

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// errStillRuns says that even KILL did not end the process in time.
var errStillRuns = errors.New("the process is still there after KILL")

// stop ends the hive, whatever it is doing.
func (h *hive) stop(ctx context.Context, o StopOptions) error {
	h.quiet()
	if err := h.lock(ctx); err != nil {
		return fail(h.name, StepStop, err, "try again")
	}
	defer h.unlock()
	if h.local != nil {
		return h.stopLocal(ctx, o)
	}
	return h.stopNetwork(ctx, o)
}

func (h *hive) stopLocal(ctx context.Context, o StopOptions) error {
	p, ep, err := h.running(ctx)
	if err != nil {
		return err
	}
	if p == nil {
		h.reapLocal(ctx, o)
		h.down(StatusOffline, "stopped")
		return nil
	}
	if !h.ask(ctx, ep, o) {
		o.Grace = 0
	}
	if !h.end(ctx, p, o) {
		h.m.event(h.name, StepStop, Failed, fmt.Sprintf("Hive %s (pid %d) can't be ended.", h.name, p.pid))
		return fail(h.name, StepStop, errStillRuns, fmt.Sprintf("look at pid %d", p.pid))
	}
	h.reapLocal(ctx, o)
	h.mu.Lock()
	h.proc = nil
	h.mu.Unlock()
	h.down(StatusOffline, "stopped")
	h.m.event(h.name, StepStop, Done, fmt.Sprintf("Hive %s has stopped.", h.name))
	return nil
}

// reapLocal ends the workers of a hive that died without ending them.
func (h *hive) reapLocal(ctx context.Context, o StopOptions) {
	dir := h.m.hiveDir(h.name)
	left, err := filepath.Glob(filepath.Join(dir, "workers", "*.json"))
	if err != nil || len(left) == 0 || o.KeepWorkers {
		return
	}
	bin, err := h.m.findBinary(h.local.Binary)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_, err = exec.CommandContext(ctx, bin, "--data-dir", dir, "reap").Output()
	}
	if err != nil {
		h.m.event(h.name, StepStop, Failed, fmt.Sprintf("Workers of hive %s may still run: %v.", h.name, err))
	}
}

// running finds the process to stop: the one that is watched, or one of an earlier queen that proves its identity.
func (h *hive) running(ctx context.Context) (*proc, Endpoint, error) {
	h.mu.Lock()
	p, ep := h.proc, h.ep
	h.mu.Unlock()
	if p != nil {
		if p.alive() {
			return p, ep, nil
		}
		return nil, Endpoint{}, nil
	}
	dir := h.m.hiveDir(h.name)
	s, err := readState(dir)
	if err != nil {
		return nil, Endpoint{}, nil //nolint:nilerr // no readable state means that there is nothing of ours to stop
	}
	id, err := loadIdentity(dir)
	if err != nil {
		return nil, Endpoint{}, fail(h.name, StepStop, err, "repair the hive's data directory")
	}
	start, alive := procStart(s.PID)
	if !alive || !belongs(s.PID, id.ID) {
		return nil, Endpoint{}, nil
	}
	return earlier(s.PID, start), Endpoint{Node: h.name, ID: id.ID, Address: s.Address, Token: id.Token, PID: s.PID, Dial: localDial}, ctx.Err()
}

// ask lets the hive's workers finish if that is wanted, then requests the polite end. It says whether the hive took
// the request; when it did not, the signals come at once.
func (h *hive) ask(ctx context.Context, ep Endpoint, o StopOptions) bool {
	if o.Drain > 0 {
		h.status(StatusDraining, "finishing its work")
		h.m.event(h.name, StepDrain, Begun, fmt.Sprintf("Hive %s may finish its work for %s.", h.name, o.Drain))
		switch busy, err := callerOf(ep).drain(ctx, o.Drain); {
		case err != nil:
			h.m.event(h.name, StepDrain, Failed, fmt.Sprintf("Hive %s does not say what its workers do: %v.", h.name, err))
		case busy > 0:
			h.m.event(h.name, StepDrain, Failed, fmt.Sprintf("%d workers of hive %s are still busy.", busy, h.name))
		default:
			h.m.event(h.name, StepDrain, Done, fmt.Sprintf("Hive %s has finished its work.", h.name))
		}
	}
	h.m.event(h.name, StepStop, Begun, fmt.Sprintf("Asking hive %s to end.", h.name))
	ctx, cancel := context.WithTimeout(ctx, h.m.o.ProbeTimeout)
	defer cancel()
	if err := callerOf(ep).shutdown(ctx, o.KeepWorkers); err != nil {
		h.m.o.Log.Warn("hive did not take the request to end", "node", h.name, "err", err)
		return false
	}
	return true
}

// end waits for the process, then sends TERM, then KILL; true when it has gone. KILL is sent even when ctx has ended.
func (h *hive) end(ctx context.Context, p *proc, o StopOptions) bool {
	if p.wait(ctx, o.Grace) {
		return true
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		h.m.o.Log.Warn("TERM failed", "node", h.name, "err", err)
	}
	if p.wait(ctx, o.Term) {
		return true
	}
	h.m.event(h.name, StepStop, Begun, fmt.Sprintf("Hive %s (pid %d) did not end by itself and is killed.", h.name, p.pid))
	if err := p.signal(syscall.SIGKILL); err != nil {
		h.m.o.Log.Warn("KILL failed", "node", h.name, "err", err)
	}
	return p.wait(context.WithoutCancel(ctx), 5*time.Second)
}
