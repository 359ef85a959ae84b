package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTour is the first five minutes of a person with two machines, all through rbee: serve, wait, run, hive add over an
// sshd in a namespace, pull, run there, status, top, dashboard, doctor.
func TestTour(t *testing.T) {
	if prefix := os.Getenv("RBEE_FLEET"); prefix != "" {
		insideTour(t, fleetNet{prefix})
		return
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	n := newFleetNet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", n.queen(), os.Args[0], "-test.run=^TestTour$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), "RBEE_FLEET="+n.prefix, "RBEE_BIN="+bin)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// traveller types commands.
type traveller struct {
	t   *testing.T
	bin string
	env []string
}

// types runs rbee and wants it to succeed and its output to hold some words.
func (v *traveller) types(words []string, args ...string) (stdout string) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(v.bin, "rbee"), args...)
	cmd.Env = v.env
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		v.t.Fatalf("rbee %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	v.t.Logf("$ rbee %s\n%s%s", strings.Join(args, " "), errOut.String(), firstLines(out.String(), 12))
	for _, w := range words {
		if !strings.Contains(out.String(), w) {
			v.t.Errorf("rbee %s does not show %q:\n%s", strings.Join(args, " "), w, out.String())
		}
	}
	return out.String()
}

func firstLines(s string, n int) string {
	lines := strings.SplitAfterN(s, "\n", n+1)
	if len(lines) > n {
		lines[n] = "...\n"
	}
	return strings.Join(lines, "")
}

func insideTour(t *testing.T, n fleetNet) {
	home, work := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	gpu := newMachine(t, n, 1)
	hub := newHubAt(t, "10.77.0.1:0", "tiny/stories", "stories-q8_0.gguf", bigModel(chunk/4))
	v := &traveller{t: t, bin: os.Getenv("RBEE_BIN"), env: append(os.Environ(), "HOME="+home, "SSH_AUTH_SOCK=", "RBEE_URL=", "RBEE_KEY=", "XDG_CONFIG_HOME=")}
	config := filepath.Join(work, "queen.yaml")
	v.types(nil, "config", "init", config)
	v.serve(config)
	v.types(nil, "wait", "--timeout", "60s")
	if said := v.types(nil, "run", "demo", "Say hello"); len(strings.Fields(said)) != 16 {
		t.Errorf("the simulator said %q", said)
	}
	v.types([]string{"gpu1", "online"}, "hive", "add", "root@"+address(1), "-i", gpu.key, "--name", "gpu1", "--host-key", gpu.fingerprint)
	v.types(nil, "pull", "hf:tiny/stories", "--as", "stories", "--hive", "gpu1")
	if all, _ := hub.downloads(0); all == 0 {
		t.Error("nothing was asked of the hub")
	}
	v.types([]string{"stories", "ready"}, "ls")
	// the model file is no model, so the simulator answers on that machine
	v.types([]string{"gpu1"}, "worker", "spawn", "demo", "--node", "gpu1")
	v.runThere()
	v.types([]string{"gpu1", "local", "queen", "demo"}, "status")
	v.types([]string{"HIVE", "gpu1", "local", "WORKER", "JOB", "complete"}, "top")
	var board struct{ Panels []any }
	if err := json.Unmarshal([]byte(v.types(nil, "dashboard", "grafana")), &board); err != nil || len(board.Panels) == 0 {
		t.Errorf("the dashboard: %v, %d panels", err, len(board.Panels))
	}
	v.types([]string{"scrape_configs:", "127.0.0.1:7833"}, "dashboard", "prometheus")
	v.types([]string{"ssh gpu1", "host key gpu1", "clock gpu1"}, "doctor")
	v.types(nil, "hive", "rm", "gpu1")
}

// serve becomes the queen at her default address, in a process of its own.
func (v *traveller) serve(config string) {
	cmd := exec.Command(filepath.Join(v.bin, "rbee"), "serve", "--config", config)
	cmd.Env = v.env
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || v.t.Failed() {
			v.t.Errorf("the queen ended with %v:\n%s", err, log.String())
		}
	})
}

// runThere asks until an answer came from the other machine: the line is shared, and the worker there has to be ready.
func (v *traveller) runThere() {
	v.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; {
		v.types(nil, "run", "demo", "Say hello from there")
		var list struct {
			Items []struct{ Node, State string }
		}
		mustUnmarshal(v.t, v.types(nil, "job", "ls", "-o", "json", "--limit", "1"), &list)
		if len(list.Items) == 1 && list.Items[0].Node == "gpu1" && list.Items[0].State == "complete" {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("no answer came from gpu1: %+v", list)
		}
		v.types(nil, "hive", "drain", "local") // only the other machine is left
	}
}
