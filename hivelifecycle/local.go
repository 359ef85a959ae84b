package hivelifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxLog is the size at which a hive's log is set aside when the hive is started.
const maxLog = 8 << 20

// startLocal adopts the hive of this data directory or starts it.
func (h *hive) startLocal(ctx context.Context, c LocalConfig) (Endpoint, error) {
	dir := h.m.hiveDir(c.Name)
	id, err := loadIdentity(dir)
	if err != nil {
		return Endpoint{}, fail(c.Name, StepStart, err, "make the data directory writable for this user")
	}
	if ep, ok, err := h.adoptLocal(ctx, dir, id, h.m.o.ProbeTimeout); err != nil || ok {
		return ep, err
	}
	bin, err := h.m.findBinary(c.Binary)
	if err != nil {
		h.m.event(c.Name, StepBinary, Failed, "rbee-hive was not found.")
		return Endpoint{}, fail(c.Name, StepBinary, err, "put rbee-hive beside queen-rbee or on PATH (make build makes both)")
	}
	ep, err := h.spawn(ctx, c, dir, bin, id)
	if err != nil && ctx.Err() == nil {
		// Another process may have started it in the same moment.
		if ep, ok, aerr := h.adoptLocal(ctx, dir, id, h.m.o.ProbeTimeout); aerr == nil && ok {
			return ep, nil
		}
		h.m.event(c.Name, StepStart, Failed, sentence(err))
	}
	return ep, err
}

// adoptLocal takes over a running hive after it has proved its identity. ok is false when none runs. A process that
// is certainly ours and does not answer is ended, so that the next start finds the place free.
func (h *hive) adoptLocal(ctx context.Context, dir string, id identity, patience time.Duration) (Endpoint, bool, error) {
	s, err := readState(dir)
	if errors.Is(err, errNoState) {
		return Endpoint{}, false, nil
	}
	if err != nil {
		h.m.o.Log.Warn("hive state unreadable", "node", h.name, "err", err)
		return Endpoint{}, false, nil
	}
	start, alive := procStart(s.PID)
	if !alive || !belongs(s.PID, id.ID) {
		return Endpoint{}, false, nil
	}
	if s.ID != id.ID {
		return Endpoint{}, false, fail(h.name, StepAdopt, fmt.Errorf("%w: hive.json names %.40q", ErrHandshake, s.ID),
			"give each queen its own data directory")
	}
	h.m.event(h.name, StepAdopt, Begun, fmt.Sprintf("Hive %s seems to run already (pid %d); asking it to prove who it is.", h.name, s.PID))
	ep := Endpoint{Node: h.name, ID: id.ID, Address: s.Address, Token: id.Token, Version: s.Version, PID: s.PID, Adopted: true, Dial: localDial}
	hl, err := callerOf(ep).shake(ctx, patience)
	if err == nil {
		ep.Version, ep.Epoch = hl.Version, hl.Epoch
		h.noteVersion(ep)
		return h.upLocal(ep, earlier(s.PID, start)), true, nil
	}
	if ctx.Err() != nil {
		return Endpoint{}, false, fail(h.name, StepAdopt, ctx.Err(), "try again")
	}
	h.m.event(h.name, StepAdopt, Failed, fmt.Sprintf("Hive %s (pid %d) does not answer and is ended: %v.", h.name, s.PID, err))
	h.end(ctx, earlier(s.PID, start), StopOptions{Grace: time.Second, Term: 3 * time.Second})
	return Endpoint{}, false, nil
}

func (h *hive) noteVersion(ep Endpoint) {
	if v := h.m.o.Version; v != "" && ep.Version != v {
		h.m.event(h.name, StepAdopt, Begun, fmt.Sprintf("Hive %s runs version %s, this queen is %s; upgrade it when convenient.", h.name, ep.Version, v))
	}
}

func (h *hive) upLocal(ep Endpoint, p *proc) Endpoint {
	return h.up(ep, p, func(life context.Context) {
		if !p.follow(life) {
			return
		}
		h.down(StatusOffline, "the hive ended: "+p.state)
		h.restart(life, "ended ("+p.state+")")
	})
}

// spawn starts the hive as a child in its own process group, gives it the token through stdin and waits until it
// answers. Its output goes to files, never to a pipe, so that it outlives this process.
func (h *hive) spawn(ctx context.Context, c LocalConfig, dir, bin string, id identity) (Endpoint, error) {
	addr := c.Addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	outPath := filepath.Join(dir, "hive.out")
	out, err := os.OpenFile(outPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return Endpoint{}, fail(c.Name, StepStart, err, "make the data directory writable for this user")
	}
	defer func() { _ = out.Close() }()
	log, err := openLog(filepath.Join(dir, "hive.log"))
	if err != nil {
		return Endpoint{}, fail(c.Name, StepStart, err, "make the data directory writable for this user")
	}
	defer func() { _ = log.Close() }()
	args := append([]string{"--data-dir", dir, "--id", id.ID, "--name", c.Name, "--token-stdin", "--addr", addr}, c.Args...)
	cmd := exec.Command(bin, args...)
	cmd.Env = append(childEnv(os.Environ()), c.Env...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(id.Token + "\n")
	cmd.Stdout, cmd.Stderr = out, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	h.m.event(c.Name, StepStart, Begun, fmt.Sprintf("Starting hive %s from %s.", c.Name, bin))
	if err := cmd.Start(); err != nil {
		return Endpoint{}, fail(c.Name, StepStart, err, "check that "+bin+" is a program for this machine")
	}
	p := watchChild(cmd)
	ep, err := h.waitReady(ctx, p, dir, outPath, id)
	if err != nil {
		h.end(context.WithoutCancel(ctx), p, StopOptions{Grace: time.Millisecond, Term: 2 * time.Second})
		return Endpoint{}, err
	}
	return h.upLocal(ep, p), nil
}

// waitReady waits for the ready line or the state file of this very process, then for the handshake.
func (h *hive) waitReady(ctx context.Context, p *proc, dir, outPath string, id identity) (Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, h.m.o.ReadyTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.exited:
			return Endpoint{}, fail(h.name, StepStart, fmt.Errorf("it ended at once (%s)%s", p.state, logTail(dir)), "see "+filepath.Join(dir, "hive.log"))
		case <-ctx.Done():
			return Endpoint{}, fail(h.name, StepReady, fmt.Errorf("it was not ready in time: %w%s", ctx.Err(), logTail(dir)), "see "+filepath.Join(dir, "hive.log"))
		case <-tick.C:
		}
		addr, ok := "", false
		if s, err := readState(dir); err == nil && s.PID == p.pid && s.ID == id.ID {
			addr, ok = s.Address, true
		} else if b, err := os.ReadFile(outPath); err == nil {
			addr, ok = readyLine(b)
		}
		if !ok {
			continue
		}
		ep := Endpoint{Node: h.name, ID: id.ID, Address: addr, Token: id.Token, PID: p.pid, Dial: localDial}
		hl, err := callerOf(ep).shake(ctx, h.m.o.ReadyTimeout)
		if err != nil {
			return Endpoint{}, fail(h.name, StepReady, fmt.Errorf("%w%s", err, logTail(dir)), "see "+filepath.Join(dir, "hive.log"))
		}
		ep.Version, ep.Epoch = hl.Version, hl.Epoch
		return ep, nil
	}
}

func localDial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// childEnv leaves the queen's own secrets out of the hive's environment.
func childEnv(env []string) []string {
	kept := make([]string, 0, len(env))
	for _, kv := range env {
		if !strings.HasPrefix(kv, "RBEE_KEY=") && !strings.HasPrefix(kv, "RBEE_STORE=") {
			kept = append(kept, kv)
		}
	}
	return kept
}

func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// logTail is the last line that the hive wrote, for an error message.
func logTail(dir string) string {
	f, err := os.Open(filepath.Join(dir, "hive.log"))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(-1024, io.SeekEnd); err != nil {
		_, _ = f.Seek(0, io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return ""
	}
	return fmt.Sprintf(": its last words were %.300q", last)
}
