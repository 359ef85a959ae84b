package hivelifecycle

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// proc is one incarnation of a local hive: our child, or a process that an earlier queen started.
type proc struct {
	pid    int
	start  string // when the kernel says it began; a recycled pid has another one
	began  time.Time
	exited chan struct{}
	once   sync.Once
	state  string // how it ended, once exited is closed
	// adopted is true when it is not our child: then exited is closed only by follow.
	adopted bool
}

// watchChild reaps cmd and notes how it ended. The goroutine ends with the child.
func watchChild(cmd *exec.Cmd) *proc {
	p := &proc{pid: cmd.Process.Pid, began: time.Now(), exited: make(chan struct{})}
	p.start, _ = procStart(p.pid)
	go func() {
		err := cmd.Wait()
		switch {
		case cmd.ProcessState != nil:
			p.end(cmd.ProcessState.String())
		case err != nil:
			p.end(err.Error())
		default:
			p.end("ended")
		}
	}()
	return p
}

// earlier is a process that is not our child.
func earlier(pid int, start string) *proc {
	return &proc{pid: pid, start: start, began: time.Now(), exited: make(chan struct{}), adopted: true}
}

// follow waits until the process has gone; false when ctx ended first.
func (p *proc) follow(ctx context.Context) bool {
	if !p.adopted {
		select {
		case <-p.exited:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for p.alive() {
		if !sleep(ctx, 500*time.Millisecond) {
			return false
		}
	}
	p.end("ended")
	return true
}

func (p *proc) end(how string) {
	p.once.Do(func() { p.state = how; close(p.exited) })
}

// alive says whether the very process still runs: same pid and same start.
func (p *proc) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
	}
	s, ok := procStart(p.pid)
	return ok && s == p.start
}

// signal sends sig to the hive's process group, and never to anything else: the pid must still be the process that
// was started or adopted.
func (p *proc) signal(sig syscall.Signal) error {
	if !p.alive() {
		return nil
	}
	pgid, err := syscall.Getpgid(p.pid)
	if err != nil {
		return ignoreGone(err)
	}
	if pgid == p.pid {
		return ignoreGone(syscall.Kill(-p.pid, sig))
	}
	return ignoreGone(syscall.Kill(p.pid, sig))
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// wait returns true when the process has gone within d; ctx can end the wait earlier.
func (p *proc) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case <-p.exited:
			return true
		case <-poll.C:
			if !p.alive() {
				return true
			}
		case <-t.C:
			return !p.alive()
		case <-ctx.Done():
			return !p.alive()
		}
	}
}

// belongs says whether the process runs with the hive's id on its command line: a recycled pid does not.
func belongs(pid int, id string) bool {
	args, ok := procArgs(pid)
	if !ok {
		return false
	}
	for i, a := range args {
		if (a == "--id" || a == "-id") && i+1 < len(args) && args[i+1] == id {
			return true
		}
		if v, found := strings.CutPrefix(a, "--id="); found && v == id {
			return true
		}
	}
	return false
}
