package hivelifecycle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// machine plays another computer: commands run in this one's shell with another home directory.
type machine struct {
	home   string
	uname  string // what its uname -sm says; "" = the truth
	noise  string // what its rc files print
	broken string // Upload leaves this instead of the program
	system bool   // a (fake) systemd user instance with linger

	cut      atomic.Bool
	connects atomic.Int64
	uploads  atomic.Int64
	refuse   error
	mu       sync.Mutex
	commands []string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{home: t.TempDir()}
	t.Cleanup(func() { // whatever is left there ends with the test
		files, _ := filepath.Glob(filepath.Join(m.home, "*/*/*/*/*/hive.json"))
		for _, f := range files {
			if s, err := readState(filepath.Dir(f)); err == nil {
				if start, ok := procStart(s.PID); ok {
					p := earlier(s.PID, start)
					_ = p.signal(9)
					p.wait(context.Background(), 5*time.Second)
				}
			}
		}
	})
	return m
}

var errCut = errors.New("no route to host")

// Connect is the Connector.
func (m *machine) Connect(context.Context, SSHTarget) (Runner, error) {
	m.connects.Add(1)
	if m.refuse != nil {
		return nil, m.refuse
	}
	if m.cut.Load() {
		return nil, errCut
	}
	return &session{m}, nil
}

type session struct{ m *machine }

func (s *session) Close() error { return nil }

func (s *session) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if s.m.cut.Load() {
		return nil, errCut
	}
	return localDial(ctx, network, addr)
}

func (s *session) Run(ctx context.Context, cmd string, stdin io.Reader) ([]byte, []byte, int, error) {
	if s.m.cut.Load() {
		return nil, nil, -1, errCut
	}
	s.m.mu.Lock()
	s.m.commands = append(s.m.commands, cmd)
	s.m.mu.Unlock()
	path := os.Getenv("PATH")
	bin := filepath.Join(s.m.home, "fakebin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, nil, -1, err
	}
	if s.m.uname != "" {
		if err := os.WriteFile(filepath.Join(bin, "uname"), []byte("#!/bin/sh\necho "+s.m.uname+"\n"), 0o755); err != nil {
			return nil, nil, -1, err
		}
	}
	if s.m.system {
		if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(fakeSystemctl), 0o755); err != nil {
			return nil, nil, -1, err
		}
		cmd = strings.ReplaceAll(cmd, "/var/lib/systemd/linger", s.m.home)
		u, err := exec.Command("id", "-un").Output()
		if err != nil {
			return nil, nil, -1, err
		}
		if err := os.WriteFile(filepath.Join(s.m.home, strings.TrimSpace(string(u))), nil, 0o600); err != nil {
			return nil, nil, -1, err
		}
	}
	c := exec.CommandContext(ctx, "sh", "-c", cmd)
	c.Dir = s.m.home
	c.Env = []string{"HOME=" + s.m.home, "PATH=" + bin + ":" + path, "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}
	c.Stdin = stdin
	var out, errs bytes.Buffer
	out.WriteString(s.m.noise)
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		err = nil
	}
	out.WriteString(s.m.noise)
	return out.Bytes(), errs.Bytes(), c.ProcessState.ExitCode(), err
}

// fakeSystemctl understands as much of a unit as ours has.
const fakeSystemctl = `#!/bin/sh
[ "$1" = --user ] || exit 1
echo "$*" >> "$HOME/systemctl.log"
f="$HOME/.config/systemd/user/$3"
case "$2" in
show-environment|daemon-reload|enable|disable) exit 0;;
restart) cmd=$(sed -n 's/^ExecStart=//p' "$f"); out=$(sed -n 's/^StandardError=append://p' "$f")
  setsid nohup sh -c "exec $cmd" >/dev/null 2>>"$out" </dev/null & exit 0;;
stop) exit 0;;
esac
exit 1
`

func (s *session) Upload(_ context.Context, src io.Reader, _ int64, sum, dst string, mode fs.FileMode) error {
	if s.m.cut.Load() {
		return errCut
	}
	s.m.uploads.Add(1)
	b, err := io.ReadAll(src)
	if err != nil {
		return err
	}
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != sum {
		return errors.New("wrong sum")
	}
	if s.m.broken != "" {
		b = []byte(s.m.broken)
	}
	if err := os.WriteFile(dst+".part", b, mode); err != nil {
		return err
	}
	return os.Rename(dst+".part", dst)
}

// ran says whether any command held the text.
func (m *machine) ran(text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.commands {
		if strings.Contains(c, text) {
			return true
		}
	}
	return false
}

// networkManager is a Manager whose bundle holds this test binary as rbee-hive.
func networkManager(t *testing.T, dir string, c Connector, o Options) (*Manager, *recorder) {
	t.Helper()
	if o.BundleDir == "" {
		o.BundleDir = t.TempDir()
		for _, kind := range []string{runtime.GOOS + "-" + runtime.GOARCH} {
			if err := os.Symlink(self(t), filepath.Join(o.BundleDir, BinaryName+"-"+kind)); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.Connector = c
	if o.CheckEvery == 0 {
		o.CheckEvery = 50 * time.Millisecond
	}
	if o.Backoff == nil {
		o.Backoff = func(int) time.Duration { return 20 * time.Millisecond }
	}
	return newTestManager(t, dir, o)
}
