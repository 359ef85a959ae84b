package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// need skips a test for want of a tool, except in CI.
func need(t testing.TB, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatalf("CI must have %s", what)
	}
	t.Skipf("needs %s (sshd, root or namespaces are missing)", what)
}

// writeKey makes a private key file and returns its public line.
func writeKey(t testing.TB, path, passphrase string) string {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(priv, "test")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(priv, "test", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.PublicKey())))
}

// server is a real OpenSSH sshd on a loopback port.
type server struct {
	dir, key, known, log string
	port                 int
	hostKey              string // public line
	target               Target
}

// startSSHD runs sshd with further configuration lines until the test ends. prefix is put before its command line.
func startSSHD(t testing.TB, addr string, prefix []string, lines ...string) *server {
	t.Helper()
	bin, err := exec.LookPath("/usr/sbin/sshd")
	need(t, err == nil && os.Getuid() == 0, "sshd and root")
	dir := t.TempDir()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	s := &server{dir: dir, key: filepath.Join(dir, "id"), known: filepath.Join(dir, "known_hosts"), log: filepath.Join(dir, "log")}
	s.hostKey = writeKey(t, filepath.Join(dir, "host"), "")
	pub := writeKey(t, s.key, "")
	s.port = freePort(t)
	must(t, os.WriteFile(filepath.Join(dir, "authorized"), []byte(pub+"\n"), 0o600))
	conf := fmt.Sprintf(`ListenAddress %s
Port %d
HostKey %s/host
AuthorizedKeysFile %s/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
SetEnv SHLVL=9
PidFile %s/pid
%s
`, addr, s.port, dir, dir, dir, strings.Join(lines, "\n"))
	must(t, os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o600))
	logf, err := os.Create(s.log)
	must(t, err)
	defer func() { _ = logf.Close() }()
	args := append(append([]string(nil), prefix...), bin, "-D", "-e", "-f", filepath.Join(dir, "conf"))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = logf, logf
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	waitFile(t, filepath.Join(dir, "pid"), s.log)
	s.target = Target{User: "root", Host: addr, Port: s.port, Identity: s.key}
	must(t, os.WriteFile(s.known, []byte(fmt.Sprintf("[%s]:%d %s\n", addr, s.port, s.hostKey)), 0o600))
	return s
}

func waitFile(t testing.TB, path, log string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			b, _ := os.ReadFile(log)
			t.Fatalf("sshd did not start: %s", b)
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	_, p, _ := net.SplitHostPort(l.Addr().String())
	n, err := strconv.Atoi(p)
	must(t, err)
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pool is a pool that reads nothing of this machine's own SSH set-up.
func (s *server) pool(t testing.TB, o Options) *Pool {
	t.Helper()
	o.ConfigFile, o.AgentSocket = None, None
	if o.KnownHosts == nil {
		o.KnownHosts = []string{s.known}
	}
	p := NewPool(o)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func (s *server) client(t testing.TB, o Options) *Client {
	t.Helper()
	c, err := s.pool(t, o).Connect(context.Background(), s.target)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// accepted counts the logins that sshd has seen.
func (s *server) logged(t testing.TB, what string) int {
	t.Helper()
	b, err := os.ReadFile(s.log)
	must(t, err)
	return strings.Count(string(b), what)
}
