package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestFleetLendsModels: a hive gets a model from a hive that it can't reach, through the queen.
func TestFleetLendsModels(t *testing.T) {
	if prefix := os.Getenv("RBEE_FLEET"); prefix != "" {
		insideLending(t, fleetNet{prefix})
		return
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	n := newFleetNet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", n.queen(), os.Args[0], "-test.run=^TestFleetLendsModels$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), "RBEE_FLEET="+n.prefix, "RBEE_BIN="+bin)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

func insideLending(t *testing.T, n fleetNet) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := &theFleet{n: n, home: home}
	for i := 1; i <= 2; i++ {
		f.hosts[i] = newMachine(t, n, i)
	}
	hub := newHubAt(t, "10.77.0.1:0", "tiny/big", "big-q8_0.gguf", bigModel(3*chunk))
	f.queen = start(t, "hives: []\nssh: {key_dir: "+filepath.Dir(filepath.Dir(f.hosts[1].dir))+"}\nmodels: {big: {ref: \"hf:tiny/big\"}}\n")
	for i := 1; i <= 2; i++ {
		if _, errOut, code := f.add(i, "--host-key", f.hosts[i].fingerprint); code != 0 {
			t.Fatalf("host %d: %d %s", i, code, errOut)
		}
	}
	if _, e, code := f.rbee("pull", "big", "--hive", "gpu1"); code != 0 {
		t.Fatalf("pull from the hub: %d %q", code, e)
	}
	before, _ := hub.downloads(0)
	begun := time.Now()
	if _, e, code := f.rbee("pull", "big", "--hive", "gpu2"); code != 0 {
		t.Fatalf("pull from the other hive: %d %q", code, e)
	}
	t.Logf("24 MiB from hive to hive over two SSH connections in %s", time.Since(begun).Round(time.Millisecond))
	if after, _ := hub.downloads(0); after != before {
		t.Errorf("the hub served content %d times for the first hive and %d more for the second", before, after-before)
	}
	var list struct{ Models []modelRecord }
	f.json("GET", "/v2/models/list?node=gpu2", nil, &list, 200)
	if len(list.Models) != 1 || list.Models[0].State != "ready" || list.Models[0].Size != 3*chunk {
		t.Errorf("models %+v", list.Models)
	}
}
