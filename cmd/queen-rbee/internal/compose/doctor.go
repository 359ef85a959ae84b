package compose

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/doctor"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/remote"
	"github.com/queen-rbee/queen-rbee/router"
)

// examiner lets the server ask the doctor.
type examiner struct{ q *Queen }

var _ httpserver.Doctor = (*examiner)(nil)

// Checks implements httpserver.Doctor.
func (e *examiner) Checks(ctx context.Context) ([]httpserver.Check, error) {
	found := doctor.Examine(ctx, e.facts(), doctor.Probes{Login: e.login, HostKey: e.hostKey, Clock: e.clock, Cards: e.cards, Engines: e.engines,
		Port: e.port, Now: time.Now, Store: func(ctx context.Context) error { _, err := e.q.q.Counts(ctx); return err }})
	out := make([]httpserver.Check, len(found))
	for i, c := range found {
		out[i] = httpserver.Check(c)
	}
	return out, nil
}

func (e *examiner) facts() doctor.Facts {
	q := e.q
	f := doctor.Facts{DataDir: q.cfg.DataDir, Listen: q.listening(), Loopback: auth.IsLoopback(q.cfg.Listen), Keys: q.keys.Any(), Failed: map[string]string{}, Engines: map[string]string{}}
	if q.certs != nil {
		f.Until = q.certs.Until()
	}
	var st syscall.Statfs_t
	if f.DiskErr = syscall.Statfs(q.cfg.DataDir, &st); f.DiskErr == nil {
		f.DiskFree = int64(st.Bavail) * int64(st.Bsize)
	}
	snap := q.reg.Snapshot()
	workers := map[string][]string{}
	for _, w := range snap.Workers {
		switch {
		case w.State == registry.WorkerFailed:
			f.Failed[w.ID] = w.Model + ": " + w.Message
		case ready(w) && !w.External:
			workers[w.Node] = append(workers[w.Node], w.ID)
		}
	}
	for _, h := range snap.Hives {
		d := doctor.Hive{Name: h.Name, Network: h.SSH != nil, Online: h.Status == registry.StatusOnline || h.Status == registry.StatusDraining, Draining: h.Status == registry.StatusDraining, Status: string(h.Status), Message: h.Message,
			DiskFree: h.DiskFree, Workers: workers[h.Name]}
		if h.SSH != nil {
			d.Pin = h.SSH.HostKey
		}
		for _, dev := range h.Devices {
			d.Devices = append(d.Devices, doctor.Device{ID: dev.ID, Name: dev.Name, Backend: dev.Backend})
		}
		f.Hives = append(f.Hives, d)
	}
	for _, m := range q.prov.Entries() {
		name := q.fleet.engine(m).Name
		for _, b := range engine.Builtin() { // hives tell of these, not of the operator's own
			if _, own := (*q.fleet.engines.Load())[name]; b.Name == name && !own && !strings.HasPrefix(m.Ref, "external:") {
				f.Engines[name] = m.Name
			}
		}
	}
	return f
}

func (e *examiner) target(hive string) (remote.Target, error) {
	h, ok := e.q.reg.Snapshot().Hive(hive)
	if !ok || h.SSH == nil {
		return remote.Target{}, errNoNode
	}
	return remoteTarget(e.q.networkConfig(h).Target), nil
}

func (e *examiner) login(ctx context.Context, hive string) error {
	_, err := e.ssh(ctx, hive, "true")
	return err
}

func (e *examiner) hostKey(ctx context.Context, hive string) (line, fingerprint string, err error) {
	t, err := e.target(hive)
	if err != nil {
		return "", "", err
	}
	return e.q.pool.HostKey(ctx, t)
}

// ssh runs a command there.
func (e *examiner) ssh(ctx context.Context, hive, cmd string) (string, error) {
	t, err := e.target(hive)
	if err != nil {
		return "", err
	}
	c, err := e.q.pool.Connect(ctx, t)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	out, errOut, exit, err := c.Run(ctx, cmd, nil)
	if err == nil && exit != 0 {
		err = fmt.Errorf("exit status %d: %s", exit, strings.TrimSpace(string(errOut)))
	}
	return string(out), err
}

func (e *examiner) clock(ctx context.Context, hive string) (time.Time, error) {
	out, err := e.ssh(ctx, hive, "date +%s")
	if err != nil {
		return time.Time{}, err
	}
	for _, word := range strings.Fields(out) { // a noisy rc file may talk first
		if n, err := strconv.ParseInt(word, 10, 64); err == nil {
			return time.Unix(n, 0), nil
		}
	}
	return time.Time{}, errors.New("date printed no time")
}

// cards prints the PCI vendors of what draws or computes.
const cards = `for d in /sys/bus/pci/devices/*; do case $(cat "$d/class" 2>/dev/null) in 0x0300*|0x0302*|0x0380*) cat "$d/vendor";; esac; done; true`

func (e *examiner) cards(ctx context.Context, hive string) ([]string, error) {
	h, ok := e.q.reg.Snapshot().Hive(hive)
	if !ok {
		return nil, errNoNode
	}
	if h.SSH != nil {
		out, err := e.ssh(ctx, hive, cards)
		return strings.Fields(out), err
	}
	out, err := exec.CommandContext(ctx, "sh", "-c", cards).Output()
	return strings.Fields(string(out)), err
}

func (e *examiner) engines(ctx context.Context, hive string) ([]string, error) {
	link, ok := e.q.links.link(hive)
	if !ok {
		return nil, fmt.Errorf("hive %s is not connected", hive)
	}
	list, err := link.client.Engines(ctx)
	var out []string
	for _, g := range list {
		if g.Active {
			out = append(out, g.Name)
		}
	}
	return out, err
}

func (e *examiner) port(ctx context.Context, worker string) error {
	w, ok := e.q.fleet.worker(worker)
	if !ok {
		return nil // it has ended meanwhile
	}
	c, err := e.q.fleet.dial(ctx, router.Worker{ID: w.ID, Node: w.Node, Address: w.Address})
	if err != nil {
		return err
	}
	return c.Close()
}
