package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDocs runs every command block of the README, SECURITY, CONTRIBUTING and of docs/. The blocks of a page are one shell's, in an
// empty home and folder, with the three programs on PATH and a queen with the simulator behind RBEE_URL; a page may start
// its own. Where the machine allows it all of this happens in a network namespace: the addresses are those that the reader
// types, nothing of this machine can be met, and nothing of the internet.
func TestDocs(t *testing.T) {
	pages := readPages(t)
	n := fleetNet{os.Getenv("RBEE_FLEET")}
	if n.prefix == "" {
		t.Run("Rules", func(t *testing.T) { checkPages(t, pages) })
		if os.Getuid() == 0 {
			t.Run("Blocks", docsInNamespace)
			return
		}
		t.Setenv("RBEE_PACKED", packModules(t))
	}
	for _, p := range pages {
		if len(p.run) > 0 {
			t.Run(p.name, func(t *testing.T) {
				need(t, n.prefix != "" || !p.ownQueen(), "root for network namespaces: the page starts a queen at her usual address")
				runPage(t, n, p)
			})
		}
	}
}

// ownQueen says whether a page starts a queen at her usual address, where a queen of this machine's user may be.
func (p page) ownQueen() bool {
	return strings.Contains(p.script(), "rbee serve") && !strings.Contains(p.script(), "listen: ")
}

// docsInNamespace runs this test again in the queen's namespace of a small fleet.
func docsInNamespace(t *testing.T) {
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	n := newFleetNet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	run := "^TestDocs$"
	if one := os.Getenv("RBEE_PAGE"); one != "" { // one page, for who writes it
		run += "/^" + regexp.QuoteMeta(one) + "$"
	}
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", n.queen(), os.Args[0], "-test.run="+run, "-test.v", "-test.timeout=6m")
	cmd.Env = append(os.Environ(), "RBEE_FLEET="+n.prefix, "RBEE_BIN="+bin, "RBEE_PACKED="+packModules(t))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// runPage runs the blocks of one page as one script, and ends everything that it started.
func runPage(t *testing.T, n fleetNet, p page) {
	t.Cleanup(func() {
		if n.prefix == "" {
			return
		}
		for _, pid := range n.pids(n.queen()) {
			if pid != os.Getpid() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	w := newWorld(t, n, p)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", p.script())
	cmd.Dir, cmd.Env = w.dir, w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second // what the page left running may hold the output
	path := filepath.Join(t.TempDir(), "output")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	_ = out.Close()
	said, readErr := os.ReadFile(path)
	if err != nil || readErr != nil {
		last := p.run[max(0, strings.Count(string(said), "\n@block ")-1)]
		t.Fatalf("%v %v\n%s\nin the block at line %d:\n%s", err, readErr, said, last.line, last.text)
	}
	p.compare(t, string(said))
	if w.after != nil {
		w.after()
	}
}

// script is the page's blocks one after another, each behind a line that says which it is.
func (p page) script() string {
	var b strings.Builder
	for i, f := range p.run {
		fmt.Fprintf(&b, "printf '\\n@block %d\\n'\n%s", i, f.text)
	}
	return b.String()
}

// compare wants every line that the page shows below a block in that block's output, in that order. Figures and ids differ
// from run to run, and so does the width of a column; a line of dots stands for any number of lines.
func (p page) compare(t *testing.T, said string) {
	t.Helper()
	parts := strings.Split(said, "\n@block ")
	for i, f := range p.run {
		if f.shows == "" {
			continue
		}
		if i+1 >= len(parts) {
			t.Fatalf("the output of block %d is missing:\n%s", i, said)
		}
		rest := plain(parts[i+1])
		for line := range strings.Lines(f.shows) {
			want := strings.TrimSpace(plain(line))
			if want == "" || want == "..." {
				continue
			}
			_, after, ok := strings.Cut(rest, want)
			if !ok {
				t.Errorf("%s:%d shows a line that its block does not print any more: %q\nit prints:\n%s", p.name, f.line, line, parts[i+1])
				break
			}
			rest = after
		}
	}
}

var (
	variable = regexp.MustCompile(`\b[0-9]+\.[0-9]+\b|\b(?:w-|job_)?[0-9a-z]*[0-9][0-9a-zA-Z]*\b|[KMG]iB|[0-9]+`)
	spaces   = regexp.MustCompile(`[ \t]+`)
)

// plain takes out of a text what differs from run to run.
func plain(s string) string {
	return spaces.ReplaceAllString(variable.ReplaceAllString(s, "#"), " ")
}
