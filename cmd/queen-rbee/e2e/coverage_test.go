package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEveryModuleIsOnThePath runs the main job with binaries built for coverage and wants code of all fifteen modules
// to have been executed.
func TestEveryModuleIsOnThePath(t *testing.T) {
	bin, cover := t.TempDir(), t.TempDir()
	const base = "github.com/queen-rbee/queen-rbee/"
	if err := compile(bin, "-cover", "-coverpkg="+base+"..."); err != nil {
		t.Fatal(err)
	}
	if _, err := build(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOCOVERDIR", cover)
	q := startWith(t, bin, "models: {demo: {ref: \"sim:demo\"}}\nlimits: {default: {rpm: 1000}}\n")
	q.json("POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi"}]}`, nil, 200)
	q.json("POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi again"}]}`, nil, 200)
	q.stop()

	out, err := exec.Command("go", "tool", "covdata", "percent", "-i="+cover).CombinedOutput()
	if err != nil {
		t.Fatalf("covdata: %v\n%s", err, out)
	}
	line := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(base) + `(\S+)\s+coverage: ([0-9.]+)% of statements`)
	best := map[string]float64{}
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		top, _, _ := strings.Cut(m[1], "/")
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		best[top] = max(best[top], v)
	}
	for _, m := range strings.Fields("registry hivelifecycle admission queue scheduler router provisioner eviction retry sserelay httpserver remote monitor metrics auth") {
		if best[m] <= 0 {
			t.Errorf("no code of %s ran in the main job\n", m)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
	if _, err := os.Stat(filepath.Join(bin, "rbee")); err != nil {
		t.Fatal(err)
	}
}
