package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Reap ends the workers that a supervisor of this directory left behind when it died, and no other process: a worker is
// the one that had its pid at its start time, or that has its mark in its environment. It is for a directory whose
// supervisor does not come back; one that does takes them over with Adopt. grace is what they get between TERM and KILL.
// It returns how many it ended.
func Reap(ctx context.Context, dir string, grace time.Duration) (ended int, err error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	s := &Supervisor{dir: filepath.Clean(dir)}
	list, err := s.records()
	var left []record
	for _, r := range list {
		if alive(r.PID, r.StartTime) {
			ended++
			err = errors.Join(err, signalGroup(r.PID, syscall.SIGTERM))
			left = append(left, r)
		}
	}
	end := time.Now().Add(grace)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for anyAlive(left) && time.Now().Before(end) && ctx.Err() == nil {
		<-tick.C
	}
	for _, r := range left {
		if alive(r.PID, r.StartTime) {
			err = errors.Join(err, signalGroup(r.PID, syscall.SIGKILL))
		}
	}
	for _, r := range list {
		if n := sweep(r.Mark); !alive(r.PID, r.StartTime) {
			ended += n
		}
		s.forget(r.Request.WorkerID)
	}
	return ended, err
}

func anyAlive(list []record) bool {
	for _, r := range list {
		if alive(r.PID, r.StartTime) {
			return true
		}
	}
	return false
}

// signalGroup signals a worker's process group; one that is gone is no error.
func signalGroup(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(-pid, sig); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
