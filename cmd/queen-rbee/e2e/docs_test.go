package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// norun lists the blocks that no test can run, by page, with the reason; their fence says `sh norun`.
var norun = map[string]string{
	"README.md":            "make test would run this test again",
	"CONTRIBUTING.md":      "make test would run this test again",
	"docs/cli.md":          "the install script of a release is fetched from the internet (cmd/rbee tests it over loopback)",
	"docs/embed/README.md": "a released module is fetched from the internet (make consumer-test does it from a file:// proxy)",
	"docs/engines.md":      "engines are fetched from the internet for a machine called gpu1 (engines_test.go does it over loopback)",
}

// TestDocs runs every command block of the README and of docs/. The blocks of a page are one shell's, in an empty home and
// folder, with the three programs on PATH and a queen with the simulator behind RBEE_URL; a page may start its own.
func TestDocs(t *testing.T) {
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(root(), "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(root(), "docs", "*", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	pages = append(append(pages, more...), filepath.Join(root(), "README.md"), filepath.Join(root(), "CONTRIBUTING.md"))
	ran := 0
	for _, page := range pages {
		name, err := filepath.Rel(root(), page)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		run, skipped := shellBlocks(string(text))
		if skipped > 0 && norun[name] == "" || skipped == 0 && norun[name] != "" {
			t.Errorf("%s has %d blocks that are not run; the test's list says %q", name, skipped, norun[name])
		}
		if len(run) == 0 {
			continue
		}
		ran += len(run)
		t.Run(name, func(t *testing.T) { runPage(t, bin, run) })
	}
	if ran < 15 {
		t.Errorf("only %d blocks were found", ran)
	}
}

// shellBlocks returns the blocks to run and the number of those that can't be.
func shellBlocks(text string) (run []string, skipped int) {
	var block []string
	in := ""
	for line := range strings.Lines(text) {
		fence := strings.HasPrefix(line, "```")
		switch {
		case fence && in == "":
			in = strings.TrimSpace(strings.TrimPrefix(line, "```"))
			if in == "" {
				in = "text"
			}
			block = nil
		case fence:
			switch in {
			case "sh":
				run = append(run, strings.Join(block, ""))
			case "sh norun":
				skipped++
			}
			in = ""
		default:
			block = append(block, line)
		}
	}
	return run, skipped
}

// runPage runs the blocks of one page as one script, which ends with everything that it started.
func runPage(t *testing.T, bin string, blocks []string) {
	home := t.TempDir()
	env := []string{"HOME=" + home, "PATH=" + bin + ":" + os.Getenv("PATH"), "TMPDIR=" + home, "TERM=dumb", "LANG=C.UTF-8"}
	for _, name := range []string{"GOPATH", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GONOSUMDB", "GONOSUMCHECK", "GOSUMDB", "GOTOOLCHAIN"} {
		if out, err := exec.Command("go", "env", name).Output(); err == nil && strings.TrimSpace(string(out)) != "" {
			env = append(env, name+"="+strings.TrimSpace(string(out)))
		}
	}
	dir := home
	script := strings.Join(blocks, "")
	if strings.Contains(script, "make ") {
		dir = root()
	} else {
		q := start(t, "models: {demo: {ref: \"sim:demo?ttft=5ms&itl=1ms\"}}\n")
		env = append(env, "RBEE_URL="+q.url)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever the page left running
	if err != nil {
		t.Errorf("%v\n%s\nthe script:\n%s", err, out, script)
	}
}
