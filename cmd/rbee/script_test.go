package main_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

// update rewrites the golden parts of the scripts: go test -run TestScripts . -args -update
var update = flag.Bool("update", false, "rewrite the golden output in the scripts")

// build makes the three programs, once.
var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("RBEE_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.MkdirTemp("", "rbee-cli-bin")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"queen-rbee", "rbee-hive", "rbee"} {
		cmd := exec.Command("go", "build", "-ldflags", "-X main.version=test", "-o", filepath.Join(dir, name), ".")
		cmd.Dir = filepath.Join("..", name)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if os.Getenv("RBEE_BIN") == "" {
		if dir, _ := build(); dir != "" {
			_ = os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// TestScripts runs the scripts of testdata: the whole command line against a real queen with a real hive.
func TestScripts(t *testing.T) {
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("BIN", bin)
			for _, name := range []string{"RBEE_URL", "RBEE_KEY", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "NO_COLOR"} {
				e.Setenv(name, "")
			}
			return os.MkdirAll(filepath.Join(e.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"queen": queen, "exits": exits, "scrub": scrub, "until": until, "type": typed,
		},
	})
}

// queen starts a queen: queen [CONFIG]. RBEE_URL is hers from then on; she ends with the script.
func queen(ts *testscript.TestScript, _ bool, args []string) {
	argv := []string{"--addr", "127.0.0.1:0", "--data-dir", ts.MkAbs("data")}
	if len(args) == 1 {
		argv = append(argv, "--config", ts.MkAbs(args[0]))
	}
	cmd := exec.Command(filepath.Join(ts.Getenv("BIN"), "queen-rbee"), argv...)
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "RBEE_KEY=", "RBEE_URL=")
	log, err := os.Create(ts.MkAbs("queen.log"))
	ts.Check(err)
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		_ = log.Close()
		if err != nil {
			ts.Logf("the queen ended with %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	ts.Setenv("RBEE_URL", strings.TrimSpace(strings.TrimPrefix(line, "ready ")))
	ts.Check(ts.Exec("rbee", "wait", "--timeout", "60s"))
}

// exits runs a command and wants its exit status: exits N COMMAND...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := code(ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func code(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

// scrub writes what a command printed into a file, with what differs from run to run, the widths of columns among it, replaced: scrub stdout|stderr FILE
func scrub(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	for _, r := range []struct{ pattern, by string }{
		{`job_[0-9a-z]{21}`, "JOB_________________ID"}, {`w-[0-9a-f]{12}`, "WORKER______ID"}, {`127\.0\.0\.1:\d+`, "ADDRESS"},
		{`\d{4}-\d\d-\d\dT[0-9:.]+Z`, "TIME"}, {`"(pid|memory_free|memory_total|decode_time_ms|snapshot_version|tokens_per_second)": [0-9.]+`, `"$1": 0`},
		{`"name": "[^"]*"`, `"name": "DEVICE"`}, {`key_[0-9a-z]+|k_[0-9a-z]+`, "KEYID"},
		{regexp.QuoteMeta(ts.Getenv("WORK")), "$$WORK"}, {`[0-9.]+ [KM]iB( +[0-9.]+ [GT]iB)`, "SIZE$1"}, {`[0-9.]+ (GiB|TiB)( free)?`, "SIZE"}, {` +\n`, "\n"}, {`\b(\d+m)?\d+(\.\d+)?s\b|\b\d+m\b`, "AGE"}, {`(\S) {2,}`, "$1  "},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.by)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// until repeats a command until its output matches: until REGEXP COMMAND...
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no %s within a minute", args[0])
		}
		<-time.After(50 * time.Millisecond)
	}
}

// typed runs a command on a terminal and types what a file says, each line after the text before the tab has been seen:
// type FILE TRANSCRIPT COMMAND...
func typed(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command(filepath.Join(ts.Getenv("BIN"), args[2]), args[3:]...)
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "RBEE_URL="+ts.Getenv("RBEE_URL"), "RBEE_KEY=", "XDG_STATE_HOME=", "XDG_CONFIG_HOME=", "TERM=xterm-256color",
		"NO_COLOR="+ts.Getenv("NO_COLOR"))
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	ts.Check(err)
	defer func() { _ = tty.Close() }()
	var seen strings.Builder
	chunks := make(chan string)
	go func() {
		defer close(chunks)
		b := make([]byte, 4096)
		for {
			n, err := tty.Read(b)
			if n > 0 {
				chunks <- string(b[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	limit := time.After(60 * time.Second)
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		wait, keys, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		for from := seen.Len(); !strings.Contains(seen.String()[from:], wait); {
			select {
			case c, ok := <-chunks:
				if !ok {
					ts.Fatalf("the program ended before it showed %q:\n%q", wait, seen.String())
				}
				seen.WriteString(c)
			case <-limit:
				_ = cmd.Process.Kill()
				ts.Fatalf("no %q within a minute:\n%q", wait, seen.String())
			}
		}
		_, err := tty.WriteString(strings.NewReplacer(`\r`, "\r", `\x03`, "\x03", `\x1b`, "\x1b").Replace(keys))
		ts.Check(err)
	}
	for c := range chunks {
		seen.WriteString(c)
	}
	err = cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(seen.String()), 0o600))
	if (err != nil) != neg {
		ts.Fatalf("%v:\n%s", err, seen.String())
	}
}
