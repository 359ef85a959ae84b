package engine

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// left is a process in a group of its own, as a dead supervisor would leave it.
func left(t *testing.T, script string) (pid int, start string, done chan struct{}) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done = make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		<-done
	})
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	return pid, start, done
}

// TestFault03Reap: what a dead hive left is ended by pid and start time, a stubborn one too; a process that has only got
// the pid of a worker is not touched.
func TestFault03Reap(t *testing.T) {
	s := &Supervisor{dir: t.TempDir()}
	record := func(id string, pid int, start string) {
		if err := s.save(record{Request: hiveapi.SpawnRequest{WorkerID: id, ModelRef: "sim:x"}, PID: pid, StartTime: start}); err != nil {
			t.Fatal(err)
		}
	}
	worker, start, workerDone := left(t, "exec sleep 600")
	record("w1", worker, start)
	stubborn, start, stubbornDone := left(t, "trap '' TERM; while :; do sleep 1; done")
	record("w2", stubborn, start)
	stranger, _, strangerDone := left(t, "exec sleep 600")
	record("w3", stranger, "1") // the worker had begun at another time
	record("w4", 1<<30-1, "1")  // nobody has this pid
	n, err := Reap(t.Context(), s.dir, 200*time.Millisecond)
	if n != 2 || err != nil {
		t.Errorf("%d processes ended (%v), want 2", n, err)
	}
	<-workerDone
	<-stubbornDone
	select {
	case <-strangerDone:
		t.Error("a recycled pid was ended")
	default:
	}
	if syscall.Kill(stranger, 0) != nil {
		t.Error("a recycled pid was ended")
	}
	if list, err := s.records(); len(list) != 0 || err != nil {
		t.Errorf("records are left: %v %v", list, err)
	}
	if n, err := Reap(t.Context(), s.dir, 0); n != 0 || err != nil {
		t.Errorf("again: %d %v", n, err)
	}
	if n, err := Reap(t.Context(), s.dir+"/none", 0); n != 0 || err != nil {
		t.Errorf("no directory: %d %v", n, err)
	}
}
