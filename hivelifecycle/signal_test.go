package hivelifecycle

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestSignalScript: the group of a process that is the hive ends, in every shell that is here; another process does not.
func TestSignalScript(t *testing.T) {
	for _, shell := range []string{"sh", "dash", "bash", "busybox"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			continue
		}
		t.Run(shell, func(t *testing.T) {
			const id = "hive_0123456789abcdef"
			hive := exec.Command("sh", "-c", "sleep 600 & wait", id)
			hive.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := hive.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- hive.Wait() }()
			defer func() { _ = syscall.Kill(-hive.Process.Pid, syscall.SIGKILL) }()
			signal := func(id string) {
				args := []string{"-c", signalScript(hive.Process.Pid, id, "TERM")}
				if shell == "busybox" {
					args = append([]string{"sh"}, args...)
				}
				if out, err := exec.Command(path, args...).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "" {
					t.Fatalf("%v: %s", err, out)
				}
			}
			signal("hive_of_somebody_else")
			if syscall.Kill(hive.Process.Pid, 0) != nil {
				t.Fatal("a process of another hive was ended")
			}
			signal(id)
			if err := <-ended; err == nil {
				t.Error("the hive ended by itself")
			}
		})
	}
}
