package hivelifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"time"
)

// check refuses a configuration that can't work before anything is dialled.
func (c NetworkConfig) check() error {
	bad := func(what string) error {
		return fail(c.Name, StepConnect, fmt.Errorf("%w: %s", errConfig, what), "correct the hive's configuration")
	}
	if c.Target.Host == "" {
		return bad("it has no SSH host")
	}
	if strings.ContainsAny(c.Dir, "\x00\r\n") || strings.HasPrefix(c.Dir, "-") || strings.HasPrefix(c.Dir, "~") {
		return bad("its directory must be absolute or relative to the home directory")
	}
	if c.Addr != "" {
		if _, err := hostPort(c.Addr); err != nil {
			return bad("its address " + err.Error())
		}
	} else if c.Direct {
		return bad("it is to be reached directly and has no address")
	}
	if c.MAC != "" {
		if _, err := net.ParseMAC(c.MAC); err != nil {
			return bad("its hardware address is not one")
		}
	}
	return nil
}

type configError struct{}

func (configError) Error() string { return "the hive can't be configured so" }

// Code is the contract's code for a request that can't be carried out as it is.
func (configError) Code() string { return "INVALID_REQUEST" }

// Permanent says that trying again changes nothing.
func (configError) Permanent() bool { return true }

var errConfig = configError{}

// startNetwork goes through all the steps on another machine.
func (h *hive) startNetwork(ctx context.Context, c NetworkConfig) (Endpoint, error) {
	select {
	case h.m.slots <- struct{}{}:
		defer func() { <-h.m.slots }()
	case <-ctx.Done():
		return Endpoint{}, fail(h.name, StepConnect, ctx.Err(), "try again")
	}
	id, err := loadIdentity(h.m.hiveDir(c.Name))
	if err != nil {
		return Endpoint{}, fail(c.Name, StepStart, err, "make the data directory writable for this user")
	}
	t, err := h.reach(ctx, c)
	if err != nil {
		return Endpoint{}, err
	}
	if t.tls, err = h.m.tlsFor(c, id); err != nil {
		return Endpoint{}, h.failed(StepStart, err, "")
	}
	if err := h.preflight(ctx, t, remoteDir(c, id)); err != nil {
		return Endpoint{}, err
	}
	if ep, ok, err := h.adoptNetwork(ctx, t, id); err != nil || ok {
		return ep, err
	}
	bin, err := h.install(ctx, t)
	var ep Endpoint
	if err == nil {
		ep, err = h.launch(ctx, t, c, id, bin)
	}
	if err != nil && ctx.Err() == nil { // no next hive takes over what a former one left
		h.reapRemote(ctx, t)
	}
	return ep, err
}

func remoteDir(c NetworkConfig, id identity) string {
	if c.Dir != "" {
		return c.Dir
	}
	return path.Join(".local/share/rbee/hives", c.Name+"-"+strings.TrimPrefix(id.ID, "hive_")[:8])
}

// reach connects to the machine, waking it when it sleeps and a hardware address is known.
func (h *hive) reach(ctx context.Context, c NetworkConfig) (*host, error) {
	h.mu.Lock()
	t := h.remote
	if t == nil || !sameTarget(t.target, c.Target) || t.direct != c.Direct {
		old := t
		t = &host{conn: h.m.o.Connector, target: c.Target, direct: c.Direct}
		h.remote = t
		if old != nil {
			defer old.close()
		}
	}
	h.mu.Unlock()
	h.m.event(h.name, StepConnect, Begun, fmt.Sprintf("Connecting to %s.", c.Target))
	err := t.connect(ctx)
	if err != nil && c.MAC != "" && !permanent(err) && ctx.Err() == nil {
		err = h.wake(ctx, c, t)
	}
	if err != nil {
		remedy := "check that the machine is on and that `ssh " + c.Target.String() + "` works from here"
		var coded interface{ Code() string }
		if errors.As(err, &coded) {
			remedy = "" // an error with a code says itself what to do
		}
		return nil, h.failed(StepConnect, err, remedy)
	}
	h.m.event(h.name, StepConnect, Done, fmt.Sprintf("Connected to %s.", c.Target))
	return t, nil
}

func sameTarget(a, b SSHTarget) bool { return fmt.Sprintf("%#v", a) == fmt.Sprintf("%#v", b) }

// adoptNetwork takes over the hive that runs on the machine already, after it has proved its identity.
func (h *hive) adoptNetwork(ctx context.Context, t *host, id identity) (Endpoint, bool, error) {
	s, ours, err := h.found(ctx, t, id)
	if err != nil {
		return Endpoint{}, false, h.failed(StepAdopt, err, "check the connection")
	}
	if !ours {
		return Endpoint{}, false, nil
	}
	if s.Address == "" { // an interrupted start left it on its way
		ep, err := h.waitRemote(ctx, t, id)
		if err != nil {
			return Endpoint{}, false, err
		}
		ep.Adopted = true
		return h.upNetwork(ep, t), true, nil
	}
	h.m.event(h.name, StepAdopt, Begun, fmt.Sprintf("Hive %s seems to run there already (pid %d); asking it to prove who it is.", h.name, s.PID))
	ep := Endpoint{Node: h.name, ID: id.ID, Address: s.Address, Token: id.Token, Version: s.Version, PID: s.PID, Adopted: true, Dial: t.dial, TLS: t.tls}
	hl, err := callerOf(ep).shake(ctx, h.m.o.ProbeTimeout)
	if err == nil {
		ep.Version, ep.Epoch = hl.Version, hl.Epoch
		h.noteVersion(ep)
		return h.upNetwork(ep, t), true, nil
	}
	if ctx.Err() != nil {
		return Endpoint{}, false, fail(h.name, StepAdopt, ctx.Err(), "try again")
	}
	h.m.event(h.name, StepAdopt, Failed, fmt.Sprintf("Hive %s (pid %d) does not answer and is ended: %v.", h.name, s.PID, err))
	if err := h.endRemote(ctx, t, s.PID, id.ID, StopOptions{Grace: time.Second, Term: 3 * time.Second}); err != nil {
		return Endpoint{}, false, err
	}
	return Endpoint{}, false, nil
}

// found looks for our process on the machine: the one of hive.json, else the one that was started last and has not
// written that file yet; the state then has a pid and no address.
func (h *hive) found(ctx context.Context, t *host, id identity) (hiveState, bool, error) {
	s, err := parseState([]byte(t.facts.State))
	if err == nil {
		if ours, err := t.runs(ctx, s.PID, id.ID); err != nil || ours {
			return s, ours, err
		}
	} else if !errors.Is(err, errNoState) {
		h.m.o.Log.Warn("hive state unreadable", "node", h.name, "err", err)
	}
	if t.facts.PID == 0 || t.facts.PID == s.PID {
		return hiveState{}, false, nil
	}
	ours, err := t.runs(ctx, t.facts.PID, id.ID)
	return hiveState{PID: t.facts.PID, ID: id.ID}, ours, err
}

// launch gives the machine the token, starts the hive detached and waits until it answers.
func (h *hive) launch(ctx context.Context, t *host, c NetworkConfig, id identity, bin string) (Endpoint, error) {
	how := "setsid and nohup"
	script := nohupScript(t.facts, c, id, bin)
	if t.facts.Systemd && t.facts.Linger {
		how, script = "its systemd user instance", systemdScript(t.facts, c, id, bin)
	}
	h.m.event(h.name, StepStart, Begun, fmt.Sprintf("Starting hive %s on %s with %s.", h.name, t.target, how))
	secret := []byte(id.Token + "\n")
	if t.tls != nil {
		bundle, err := h.m.certificate(id)
		if err != nil {
			return Endpoint{}, h.failed(StepStart, err, "")
		}
		secret = append(secret, bundle...)
	}
	out, exit, err := t.script(ctx, tokenScript(t.facts.Dir, id.ID)+script, bytes.NewReader(secret))
	if err != nil {
		return Endpoint{}, h.failed(StepStart, err, "check the connection")
	}
	if exit != 0 {
		return Endpoint{}, h.failed(StepStart, fmt.Errorf("status %d: %s", exit, brief([]byte(out))), "see "+t.facts.Dir+"/hive.log there")
	}
	ep, err := h.waitRemote(ctx, t, id)
	if err != nil {
		return Endpoint{}, err
	}
	return h.upNetwork(ep, t), nil
}

// waitRemote waits for the state file, then for the handshake over the machine's own network.
func (h *hive) waitRemote(ctx context.Context, t *host, id identity) (Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, h.m.o.ReadyTimeout)
	defer cancel()
	see := "see " + t.facts.Dir + "/hive.log there"
	for {
		out, exit, err := t.script(ctx, readyScript(t.facts.Dir, id.ID), nil)
		if err != nil {
			return Endpoint{}, h.failed(StepReady, err, "check the connection")
		}
		switch exit {
		case 0:
			s, err := parseState([]byte(out))
			if err != nil || s.ID != id.ID {
				return Endpoint{}, h.failed(StepReady, fmt.Errorf("%w: hive.json is not this hive's (%w)", ErrHandshake, err), see)
			}
			ep := Endpoint{Node: h.name, ID: id.ID, Address: s.Address, Token: id.Token, PID: s.PID, Dial: t.dial, TLS: t.tls}
			hl, err := callerOf(ep).shake(ctx, h.m.o.ReadyTimeout)
			if err != nil {
				return Endpoint{}, h.failed(StepReady, err, see)
			}
			ep.Version, ep.Epoch = hl.Version, hl.Epoch
			return ep, nil
		case notYet:
			if !sleep(ctx, 100*time.Millisecond) {
				return Endpoint{}, h.failed(StepReady, fmt.Errorf("it was not ready in time: %w", ctx.Err()), see)
			}
		default:
			return Endpoint{}, h.failed(StepStart, fmt.Errorf("it ended at once: %s", brief([]byte(out))), see)
		}
	}
}

// upNetwork records the hive and watches it. After the first probe without an answer the next ones follow quickly;
// three in a row, and the way to the hive is made anew.
func (h *hive) upNetwork(ep Endpoint, t *host) Endpoint {
	return h.up(ep, nil, func(life context.Context) {
		for misses := 0; misses < 3; {
			wait := h.m.o.CheckEvery
			if misses > 0 {
				wait = min(wait, time.Second)
			}
			if !sleep(life, wait) {
				return
			}
			ctx, cancel := context.WithTimeout(life, h.m.o.ProbeTimeout)
			_, err := callerOf(ep).handshake(ctx)
			cancel()
			switch {
			case life.Err() != nil:
				return
			case err == nil:
				misses = 0
			case errors.Is(err, ErrHandshake):
				misses = 3 // somebody else answers there
			default:
				misses++
				h.m.o.Log.Warn("hive did not answer a probe", "node", h.name, "misses", misses, "err", err)
			}
		}
		h.down(StatusOffline, "the hive does not answer")
		h.restart(life, "does not answer from "+t.target.String())
	})
}

// retryLater keeps trying after a failed start when that was asked for.
func (h *hive) retryLater(err error) {
	h.mu.Lock()
	again := h.network != nil && h.network.KeepTrying && h.want && h.life == nil && !permanent(err) && h.m.ctx.Err() == nil
	var life context.Context
	if again {
		life, h.life = context.WithCancel(h.m.ctx)
		h.fails = max(h.fails, 1)
	}
	h.mu.Unlock()
	if again {
		h.m.spawnGo(func() { h.restart(life, "could not be started") })
	}
}
