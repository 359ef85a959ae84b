package compose

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/remote"
)

// names are hives that somebody is adding or removing at the moment.
type names struct {
	mu   sync.Mutex
	busy map[string]bool
}

// take reserves a name until release is called.
func (n *names) take(name string) (release func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.busy[name] {
		return nil, &codedError{code: "CONFLICT", msg: "hive " + name + " is being added or removed at this moment: try again when that has ended"}
	}
	if n.busy == nil {
		n.busy = map[string]bool{}
	}
	n.busy[name] = true
	return func() {
		n.mu.Lock()
		delete(n.busy, name)
		n.mu.Unlock()
	}, nil
}

// Add implements httpserver.Hives: it returns when the hive was heard, and keeps nothing of one that can't be reached.
func (a *hivesAPI) Add(ctx context.Context, n httpserver.NewHive) (httpserver.Hive, error) {
	h := registry.Hive{Name: n.NodeName, Mode: n.Mode, Labels: n.Labels, Status: registry.StatusStarting}
	if n.Mode == registry.ModeNetwork {
		t := remote.Target{User: n.SSHUser, Host: n.SSHHost, Port: n.SSHPort, Identity: n.SSHKeyPath, HostKey: n.HostKey}
		if err := t.Check(); err != nil {
			return httpserver.Hive{}, err
		}
		h.SSH = &registry.SSHTarget{User: n.SSHUser, Host: n.SSHHost, Port: n.SSHPort, Identity: n.SSHKeyPath, HostKey: n.HostKey}
	}
	release, err := a.names.take(n.NodeName)
	if err != nil {
		return httpserver.Hive{}, err
	}
	defer release()
	if _, ok := a.f.reg.Snapshot().Hive(n.NodeName); ok {
		return httpserver.Hive{}, &codedError{code: "CONFLICT", msg: "there is a hive " + n.NodeName + " already: choose another name, or remove it first with rbee hive rm " + n.NodeName}
	}
	if err := a.f.reg.Put(ctx, h); err != nil {
		return httpserver.Hive{}, err
	}
	if err := a.start(ctx, n.NodeName); err != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if _, up := a.f.manager.Endpoint(n.NodeName); up { // it came up too late to be heard
			if err := a.f.manager.Remove(last, n.NodeName, hivelifecycle.RemoveOptions{}); err != nil {
				a.f.log.Warn("a hive that was not added may still run", "node", n.NodeName, "error", err)
			}
		}
		a.f.manager.Forget(n.NodeName)
		a.f.links.forget(n.NodeName)
		return httpserver.Hive{}, errors.Join(err, a.f.reg.Remove(last, n.NodeName))
	}
	snap := a.f.reg.Snapshot()
	rec, ok := snap.Hive(n.NodeName)
	if !ok {
		return httpserver.Hive{}, errNoNode
	}
	return hiveRecord(snap, rec), nil
}

// Remove implements httpserver.Hives. A machine that can't be reached keeps what runs there.
func (a *hivesAPI) Remove(ctx context.Context, node string) error {
	release, err := a.names.take(node)
	if err != nil {
		return err
	}
	defer release()
	if _, ok := a.f.reg.Snapshot().Hive(node); !ok {
		return errNoNode
	}
	bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err = a.f.manager.Remove(bounded, node, hivelifecycle.RemoveOptions{})
	if err != nil && !errors.Is(err, hivelifecycle.ErrNotFound) {
		a.f.log.Warn("a hive is removed without being stopped", "node", node, "error", err)
		a.bus.publish("", "hive_step", hivelifecycle.Event{Node: node, Step: hivelifecycle.StepRemove, State: hivelifecycle.Failed, At: time.Now(),
			Message: fmt.Sprintf("Hive %s is forgotten, but it could not be stopped on its machine: %v.", node, err)}, false)
	}
	a.f.manager.Forget(node)
	a.f.links.forget(node)
	return a.f.reg.Remove(context.WithoutCancel(ctx), node)
}

// Start implements httpserver.Hives; it ends a drain too.
func (a *hivesAPI) Start(_ context.Context, node string) (string, error) {
	return a.operate("start-"+node, node, func(ctx context.Context) error {
		if err := a.f.reg.SetDraining(ctx, node, false); err != nil {
			return err
		}
		a.f.src.refresh() // whoever waits for the end finds it open
		return a.start(ctx, node)
	})
}

// Stop implements httpserver.Hives.
func (a *hivesAPI) Stop(_ context.Context, node string) (string, error) {
	return a.operate("stop-"+node, node, func(ctx context.Context) error {
		if err := a.f.manager.Stop(ctx, node, hivelifecycle.StopOptions{Drain: 30 * time.Second}); err != nil {
			return err
		}
		a.f.links.forget(node) // or the monitor would call it suspect
		for _, w := range a.f.reg.Snapshot().Workers {
			if w.Node == node && !w.External {
				_ = a.f.reg.RemoveWorker(w.ID) // gone with it, and maybe removed already
			}
		}
		return a.f.reg.SetStatus(node, registry.StatusOffline, "stopped")
	})
}

// Drain implements httpserver.Hives.
func (a *hivesAPI) Drain(_ context.Context, node string) (string, error) {
	return a.operate("drain-"+node, node, func(ctx context.Context) error {
		if err := a.f.reg.SetDraining(ctx, node, true); err != nil {
			return err
		}
		a.f.src.refresh()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := -1; ; {
			n := a.jobs(node)
			if n == 0 {
				return nil
			}
			if n != last {
				a.step(node, hivelifecycle.StepDrain, fmt.Sprintf("Hive %s gets nothing new; %d of its requests still run.", node, n))
				last = n
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return &codedError{code: "HIVE_FAILED", msg: fmt.Sprintf("hive %s gets nothing new, but %d of its requests still run: cancel them or stop the hive", node, n)}
			}
		}
	})
}

// Upgrade implements httpserver.Hives.
func (a *hivesAPI) Upgrade(_ context.Context, node string) (string, error) {
	return a.operate("upgrade-"+node, node, func(ctx context.Context) error {
		ep, _ := a.f.manager.Endpoint(node)
		force := strings.Contains(ep.Version, "dev") // such a version says nothing
		if _, err := a.f.manager.Upgrade(ctx, node, force); err != nil {
			return err
		}
		_, err := a.f.hive(ctx, node)
		return err
	})
}

// jobs counts what runs on a hive.
func (a *hivesAPI) jobs(node string) int {
	n := 0
	for _, w := range a.f.reg.Snapshot().Workers {
		if w.Node == node {
			n += a.f.inFlight(w.ID)
		}
	}
	return n
}

// step shows what the joints themselves do among the steps of a hive.
func (a *hivesAPI) step(node string, step hivelifecycle.Step, message string) {
	e := hivelifecycle.Event{Node: node, Step: step, State: hivelifecycle.Begun, Message: message, At: time.Now()}
	a.bus.publish("", "hive_step", e, false)
	if op := a.bus.aliased(node); op != "" {
		a.bus.publish(op, "step", e, false)
	}
}
