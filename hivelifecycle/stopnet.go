package hivelifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// stopNetwork ends the hive on its machine: the polite request, TERM, KILL, then the unit if there is one.
func (h *hive) stopNetwork(ctx context.Context, o StopOptions) error {
	h.mu.Lock()
	c := *h.network
	h.mu.Unlock()
	id, err := loadIdentity(h.m.hiveDir(h.name))
	if err != nil {
		return fail(h.name, StepStop, err, "repair the hive's data directory")
	}
	t, err := h.reach(ctx, c)
	if err != nil {
		return err
	}
	if t.tls, err = h.m.tlsFor(c, id); err != nil {
		return h.failed(StepStop, err, "")
	}
	if err := h.preflight(ctx, t, remoteDir(c, id)); err != nil {
		return err
	}
	s, ours, err := h.found(ctx, t, id)
	if err != nil {
		return h.failed(StepStop, err, "check the connection")
	}
	if ours {
		ep := Endpoint{Node: h.name, ID: id.ID, Address: s.Address, Token: id.Token, PID: s.PID, Dial: t.dial, TLS: t.tls}
		if s.Address == "" || !h.ask(ctx, ep, o) {
			o.Grace = 0
		}
		if err := h.endRemote(ctx, t, s.PID, id.ID, o); err != nil {
			return err
		}
	}
	if t.facts.Systemd {
		if _, _, err := t.script(ctx, stopUnitScript(id, false), nil); err != nil {
			return h.failed(StepStop, err, "check the connection")
		}
	}
	if !o.KeepWorkers {
		h.reapRemote(ctx, t)
	}
	h.down(StatusOffline, "stopped")
	h.m.event(h.name, StepStop, Done, fmt.Sprintf("Hive %s has stopped.", h.name))
	h.mu.Lock()
	h.remote = nil
	h.mu.Unlock()
	t.close()
	return nil
}

// reapRemote ends the workers of a hive that died without ending them. Where there is nothing to end it does nothing.
func (h *hive) reapRemote(ctx context.Context, t *host) {
	out, exit, err := t.script(ctx, reapScript(t.facts), nil)
	if err == nil && exit != 0 {
		err = fmt.Errorf("status %d: %s", exit, brief([]byte(out)))
	}
	if err != nil {
		h.m.event(h.name, StepStop, Failed, fmt.Sprintf("Workers of hive %s may still run on %s: %v.", h.name, t.target, err))
	} else if out != "" && out != "ended 0" {
		h.m.event(h.name, StepStop, Done, fmt.Sprintf("Hive %s had died; processes that it left: %s.", h.name, out))
	}
}

// endRemote waits for the process to go, then sends TERM, then KILL, on the machine.
func (h *hive) endRemote(ctx context.Context, t *host, pid int, id string, o StopOptions) error {
	for _, phase := range []struct {
		sig  string
		wait time.Duration
	}{{"", o.Grace}, {"TERM", o.Term}, {"KILL", 5 * time.Second}} {
		if phase.sig != "" {
			if _, _, err := t.script(ctx, signalScript(pid, id, phase.sig), nil); err != nil {
				return h.failed(StepStop, err, "check the connection")
			}
		}
		if gone, err := t.gone(ctx, pid, id, phase.wait); err != nil || gone {
			if err != nil {
				return h.failed(StepStop, err, "check the connection")
			}
			return nil
		}
	}
	return h.failed(StepStop, errStillRuns, fmt.Sprintf("look at pid %d on %s", pid, t.target))
}

// gone waits until the process has ended, for at most d.
func (t *host) gone(ctx context.Context, pid int, id string, d time.Duration) (bool, error) {
	for end := time.Now().Add(d); ; {
		runs, err := t.runs(ctx, pid, id)
		if err != nil || !runs {
			return !runs, err
		}
		if time.Now().After(end) {
			return false, nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return false, ctx.Err()
		}
	}
}

// RemoveOptions say what goes with a hive.
type RemoveOptions struct {
	Stop StopOptions
	// Purge deletes the hive's whole data directory, models included; without it only the identity and the traces of
	// its running go.
	Purge bool
}

// Remove stops the hive and takes it out of this Manager and off its machine. It is idempotent.
func (m *Manager) Remove(ctx context.Context, name string, o RemoveOptions) error {
	h, err := m.known(name)
	if err != nil {
		return err
	}
	h.mu.Lock()
	c := h.network
	h.mu.Unlock()
	dir := m.hiveDir(name)
	if err := h.stop(ctx, o.Stop.withDefaults()); err != nil {
		return err
	}
	if c != nil {
		if err := h.removeRemote(ctx, *c, o.Purge); err != nil {
			return err
		}
	}
	m.Forget(name)
	if o.Purge || c != nil {
		err = os.RemoveAll(dir)
	} else {
		for _, f := range []string{"id", "token", "hive.json", "hive.out"} {
			if e := os.Remove(dir + "/" + f); !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
	}
	if err != nil {
		return fail(name, StepRemove, err, "remove "+dir+" by hand")
	}
	m.event(name, StepRemove, Done, fmt.Sprintf("Hive %s has been removed.", name))
	return nil
}

// removeRemote deletes what this queen put on the machine; the id file must name this very hive.
func (h *hive) removeRemote(ctx context.Context, c NetworkConfig, purge bool) error {
	if err := h.lock(ctx); err != nil {
		return fail(h.name, StepRemove, err, "try again")
	}
	defer h.unlock()
	id, err := loadIdentity(h.m.hiveDir(h.name))
	if err != nil {
		return fail(h.name, StepRemove, err, "repair the hive's data directory")
	}
	t, err := h.reach(ctx, c)
	if err != nil {
		return err
	}
	if err := h.preflight(ctx, t, remoteDir(c, id)); err != nil {
		return err
	}
	what := "rm -f id token hive.json hive.out hive.pid"
	if purge {
		what = "cd / && rm -rf " + quote(t.facts.Dir)
	}
	out, exit, err := t.script(ctx, stopUnitScript(id, true)+`cd `+quote(t.facts.Dir)+` || exit 0
[ "$(cat id 2>/dev/null)" = `+quote(id.ID)+` ] || exit 0
`+what, nil)
	if err == nil && exit != 0 {
		err = fmt.Errorf("status %d: %s", exit, brief([]byte(out)))
	}
	if err != nil {
		return h.failed(StepRemove, err, "remove "+t.facts.Dir+" on "+t.target.String()+" by hand")
	}
	return nil
}

// Upgrade replaces a running hive by one from the newest program, in place: its workers go on and are taken over by
// the new hive. A hive that runs the right version already is left alone unless force is set.
func (m *Manager) Upgrade(ctx context.Context, name string, force bool) (Endpoint, error) {
	h, err := m.known(name)
	if err != nil {
		return Endpoint{}, err
	}
	if ep, ok := m.Endpoint(name); ok && !force && m.o.Version != "" && ep.Version == m.o.Version {
		m.event(name, StepStart, Done, fmt.Sprintf("Hive %s has version %s already.", name, ep.Version))
		return ep, nil
	}
	if err := h.stop(ctx, StopOptions{KeepWorkers: true}.withDefaults()); err != nil {
		return Endpoint{}, err
	}
	return h.ensure(ctx, true)
}
