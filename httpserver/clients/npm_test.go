package clients

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestNodeClients runs suite.mjs: openai, ai and ollama from npm.
func TestNodeClients(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		missing(t, "node is not installed")
	}
	if _, err := os.Stat("node_modules/openai"); err != nil {
		missing(t, "the node clients are not installed: npm ci --ignore-scripts in httpserver/clients")
	}
	g := newRig(t)
	out, err := exec.CommandContext(t.Context(), node, "suite.mjs", g.url).CombinedOutput()
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.HasPrefix(line, "ok ") {
			t.Log(line)
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for range 2 { // the two aborted streams
		select {
		case <-g.released:
		case <-time.After(10 * time.Second):
			t.Fatal("an aborted stream's job was not told")
		}
	}
	if n := g.busy.Load(); n != 2 {
		t.Errorf("the busy request came %d times, want 2", n)
	}
}
