package engine

import (
	"errors"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a running worker: a child, or one that a former supervisor started.
type process struct {
	pid   int
	start string // when it started, as the kernel says, so that a recycled pid is not taken for it
	exit  chan struct{}

	mu     sync.Mutex
	status exitStatus
}

// exitStatus is how a process ended; known is false for one that was not our child.
type exitStatus struct {
	known  bool
	code   int
	signal syscall.Signal
}

func (p *process) exited() bool {
	select {
	case <-p.exit:
		return true
	default:
		return false
	}
}

// signal goes to the whole group; a group that is gone is no error.
func (p *process) signal(sig syscall.Signal) error {
	if p.exited() {
		return nil
	}
	err := syscall.Kill(-p.pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

func (p *process) end() exitStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// startProcess runs a program in a group of its own, with its output appended to out. The process lives on when we
// die; nothing of it leads back to us but the file.
func startProcess(path string, args, env []string, dir string, out *os.File) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, exit: make(chan struct{})}
	p.start, _ = startTime(p.pid)
	go func() {
		// While the leader is dead but not reaped its number can't be another group's: end what it left behind then.
		if awaitExit(p.pid) {
			_ = syscall.Kill(-p.pid, syscall.SIGKILL)
			_ = cmd.Wait()
		} else {
			_ = cmd.Wait()
			_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		}
		p.mu.Lock()
		p.status.known = true
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
			if ws.Signaled() {
				p.status.signal = ws.Signal()
			} else {
				p.status.code = ws.ExitStatus()
			}
		}
		p.mu.Unlock()
		close(p.exit)
	}()
	return p, nil
}

// adoptProcess takes over a process that somebody else started, or returns nil when it is no longer there.
func adoptProcess(pid int, start string, stop <-chan struct{}) *process {
	if !alive(pid, start) {
		return nil
	}
	p := &process{pid: pid, start: start, exit: make(chan struct{})}
	go func() {
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
			case <-stop:
				return
			}
			if !alive(pid, start) {
				_ = syscall.Kill(-pid, syscall.SIGKILL)
				close(p.exit)
				return
			}
		}
	}()
	return p
}

// alive says whether the process that had this pid at that start time still runs.
func alive(pid int, start string) bool {
	if pid <= 1 || start == "" {
		return false
	}
	now, err := startTime(pid)
	return err == nil && now == start
}

// StartTime says when a process began, as text that is equal for the same process only.
func StartTime(pid int) (string, error) { return startTime(pid) }
