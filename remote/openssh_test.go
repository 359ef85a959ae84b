package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil)
	c := s.client(t, Options{MaxOutput: 1 << 20})
	ctx := t.Context()
	out, errs, exit, err := c.Run(ctx, `cat; echo oops >&2; exit 7`, strings.NewReader("in"))
	if err != nil || string(out) != "in" || string(errs) != "oops\n" || exit != 7 {
		t.Fatalf("%q %q %d %v", out, errs, exit, err)
	}
	evil := "a'b\"c $(touch " + s.dir + "/evil) `id` \\ \n%s !x"
	out, _, _, err = c.Run(ctx, "printf %s "+Quote(evil), nil)
	if err != nil || string(out) != evil {
		t.Fatalf("%q %v", out, err)
	}
	if _, err := os.Stat(s.dir + "/evil"); err == nil {
		t.Fatal("an argument was executed")
	}
	var ee *ExitError
	if _, _, _, err = c.Run(ctx, `kill -9 $$`, nil); !errors.As(err, &ee) || ee.Signal != "KILL" {
		t.Fatalf("killed: %v", err)
	}
	if out, _, _, err = c.Run(ctx, `yes`, nil); !errors.Is(err, ErrOutput) || len(out) != 1<<20 {
		t.Fatalf("endless output: %d bytes, %v", len(out), err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, _, _, err = c.Run(short, `exec sleep 1000`, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("cancelled: %v", err)
	}
}

func TestStreamIsLive(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil)
	c := s.client(t, Options{})
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() {
		exit, err := c.Stream(t.Context(), `echo one; read x; echo got $x; exit 3`, inR, outW, nil)
		if err == nil && exit != 3 {
			err = fmt.Errorf("exit %d", exit)
		}
		_ = outW.Close()
		done <- err
	}()
	buf := make([]byte, 4)
	_, err := io.ReadFull(outR, buf)
	must(t, err)
	_, err = io.WriteString(inW, "two\n")
	must(t, err)
	rest, err := io.ReadAll(outR)
	must(t, err)
	must(t, <-done)
	must(t, inW.Close())
	if string(buf)+string(rest) != "one\ngot two\n" {
		t.Fatalf("%q", string(buf)+string(rest))
	}
	// A writer that fails ends the session.
	_, err = c.Stream(t.Context(), "yes", nil, failing{}, nil)
	if !errors.Is(err, errFull) {
		t.Fatal(err)
	}
}

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestTransfer(t *testing.T) {
	data := make([]byte, 300<<10+17)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	hexsum := hex.EncodeToString(sum[:])
	for name, lines := range map[string][]string{
		"sftp":     {"Subsystem sftp internal-sftp"},
		"no sftp":  nil,
		"broken":   {"Subsystem sftp /bin/false"},
		"rc noise": {"Subsystem sftp internal-sftp", `ForceCommand echo welcome to this machine; eval "$SSH_ORIGINAL_COMMAND"`},
		"sftponly": {"Subsystem sftp internal-sftp", "ForceCommand internal-sftp"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSSHD(t, "127.0.0.1", nil, lines...)
			c := s.client(t, Options{})
			dst := filepath.Join(s.dir, "it's $(here) é")
			var wg sync.WaitGroup
			for i := range 10 { // more than there are sessions: they must not starve each other
				wg.Go(func() {
					d := fmt.Sprint(dst, i)
					if err := c.Upload(t.Context(), bytes.NewReader(data), int64(len(data)), hexsum, d, 0o750); err != nil {
						t.Error(err)
						return
					}
					if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o750 || info.Size() != int64(len(data)) {
						t.Error(info, err)
					}
				})
			}
			wg.Wait()
			var back bytes.Buffer
			n, err := c.Download(t.Context(), dst+"0", &back, hexsum)
			if name == "rc noise" {
				if !errors.Is(err, ErrChecksum) { // noise in the content can't go unseen
					t.Fatal(err)
				}
			} else if err != nil || n != int64(len(data)) || !bytes.Equal(back.Bytes(), data) {
				t.Fatal(n, err)
			}
			// A wrong sum or size leaves the old file and nothing else.
			for _, bad := range []struct {
				size int64
				sum  string
			}{{-1, strings.Repeat("0", 64)}, {5, ""}} {
				err = c.Upload(t.Context(), strings.NewReader("other"), bad.size+1, bad.sum, dst+"0", 0o600)
				if !errors.Is(err, ErrChecksum) {
					t.Fatalf("%+v: %v", bad, err)
				}
			}
			left, err := filepath.Glob(filepath.Join(s.dir, ".*part*"))
			if err != nil || len(left) > 0 {
				t.Fatal(left, err)
			}
			if err := c.Upload(t.Context(), strings.NewReader("x"), 1, "", s.dir+"/absent/x", 0o600); err == nil {
				t.Fatal("upload into a directory that is not there")
			}
		})
	}
}

func TestDialAndListen(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil)
	c := s.client(t, Options{})
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	d, err := c.Dial(t.Context(), "tcp", l.Addr().String())
	must(t, err)
	_, err = io.WriteString(d, "round")
	must(t, err)
	buf := make([]byte, 5)
	_, err = io.ReadFull(d, buf)
	must(t, err)
	must(t, d.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	if _, err := d.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	must(t, l.Close())
	if _, err := c.Dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t))); err == nil {
		t.Fatal("dialled nobody")
	}
}

func TestPoolSharesAndCloses(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil)
	p := s.pool(t, Options{IdleClose: 30 * time.Millisecond})
	var wg sync.WaitGroup
	clients := make([]*Client, 20)
	for i := range clients {
		wg.Go(func() {
			c, err := p.Connect(t.Context(), s.target)
			if err != nil {
				t.Error(err)
				return
			}
			clients[i] = c
		})
	}
	wg.Wait()
	if n := s.logged(t, "Accepted publickey"); n != 1 {
		t.Fatalf("%d logins", n)
	}
	done := clients[0].Done()
	for _, c := range clients {
		must(t, c.Close())
		must(t, c.Close())
	}
	<-done
	if _, _, _, err := clients[0].Run(t.Context(), "true", nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	c, err := p.Connect(t.Context(), s.target)
	must(t, err)
	if _, _, _, err := c.Run(t.Context(), "true", nil); err != nil {
		t.Fatal(err)
	}
	must(t, c.Close())
}

func TestFault15AuthenticationFails(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil, "LogLevel VERBOSE")
	other := filepath.Join(s.dir, "other")
	writeKey(t, other, "")
	target := s.target
	target.Identity = other
	p := s.pool(t, Options{})
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 20 {
		wg.Go(func() {
			<-start
			_, err := p.Connect(t.Context(), target)
			var ae *AuthError
			if !errors.As(err, &ae) || !ae.Permanent() {
				t.Errorf("%v", err)
				return
			}
			for _, want := range []string{"root", "127.0.0.1", other, "authorized_keys"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not name %s", err, want)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	if n := s.logged(t, "Failed publickey"); n != 1 {
		t.Fatalf("%d attempts", n)
	}
}

func TestFault16HostKeyChanged(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil, "LogLevel VERBOSE")
	wrong := writeKey(t, filepath.Join(s.dir, "wrong"), "")
	name := fmt.Sprintf("[127.0.0.1]:%d", s.port)
	known := func(line string) []string {
		f := filepath.Join(t.TempDir(), "known")
		must(t, os.WriteFile(f, []byte(line), 0o600))
		return []string{f}
	}
	for what, c := range map[string]struct {
		files   []string
		target  func(*Target)
		changed bool
	}{
		"changed":            {known(name + " " + wrong + "\n"), nil, true},
		"changed accept-new": {known(name + " " + wrong + "\n"), func(t *Target) { t.KnownHosts = AcceptNew }, true},
		"unknown":            {known(""), nil, false},
		"no file":            {[]string{filepath.Join(s.dir, "absent")}, nil, false},
		"pinned":             {[]string{s.known}, func(t *Target) { t.HostKey = wrong }, true},
		"pinned print":       {[]string{s.known}, func(t *Target) { t.HostKey = "SHA256:AAAA" }, true},
	} {
		t.Run(what, func(t *testing.T) {
			target := s.target
			if c.target != nil {
				c.target(&target)
			}
			_, err := s.pool(t, Options{KnownHosts: c.files}).Connect(t.Context(), target)
			var he *HostKeyError
			if !errors.As(err, &he) || he.Changed != c.changed || !strings.HasPrefix(he.Fingerprint, "SHA256:") || !he.Permanent() {
				t.Fatalf("%v", err)
			}
		})
	}
	if n := s.logged(t, "Accepted") + s.logged(t, "Failed") + s.logged(t, "Starting session"); n != 0 {
		t.Fatal("something was sent after the key was refused")
	}
	line, print, err := s.pool(t, Options{KnownHosts: []string{s.dir + "/none"}}).HostKey(t.Context(), s.target)
	if err != nil || line != s.hostKey || !strings.HasPrefix(print, "SHA256:") {
		t.Fatal(line, print, err)
	}
	if s.logged(t, "Accepted")+s.logged(t, "Failed") != 0 {
		t.Fatal("HostKey tried to log in")
	}
	// What is right goes in, and accept-new notes the key once.
	target := s.target
	target.HostKey = s.hostKey
	c, err := s.pool(t, Options{KnownHosts: []string{s.dir + "/none"}}).Connect(t.Context(), target)
	must(t, err)
	must(t, c.Close())
	fresh := filepath.Join(t.TempDir(), "ssh", "known")
	target = s.target
	target.KnownHosts = AcceptNew
	for range 2 {
		c, err := s.pool(t, Options{KnownHosts: []string{fresh}}).Connect(t.Context(), target)
		must(t, err)
		must(t, c.Close())
	}
	b, err := os.ReadFile(fresh)
	if err != nil || strings.Count(string(b), "\n") != 1 {
		t.Fatalf("%q %v", b, err)
	}
}

func TestFault17ManyCommands(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil, "MaxSessions 10", "MaxStartups 10:100:10")
	p := s.pool(t, Options{})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			c, err := p.Connect(t.Context(), s.target)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			out, _, exit, err := c.Run(t.Context(), fmt.Sprint("echo ", i), nil)
			if err != nil || exit != 0 || string(out) != fmt.Sprintln(i) {
				t.Errorf("%d: %q %d %v", i, out, exit, err)
			}
		})
	}
	wg.Wait()
	// Many connections of different targets to one machine: never more than four handshakes at once.
	var cs []*Client
	var mu sync.Mutex
	n := 12
	if os.Getenv("RBEE_LONG") == "1" {
		n = 50
	}
	for i := range n {
		wg.Go(func() {
			target := s.target
			key := fmt.Sprintf("%s/id%d", s.dir, i)
			b, _ := os.ReadFile(s.key)
			_ = os.WriteFile(key, b, 0o600)
			target.Identity = key
			c, err := p.Connect(t.Context(), target)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			cs = append(cs, c)
			mu.Unlock()
		})
	}
	wg.Wait()
	for _, c := range cs {
		must(t, c.Close())
	}
}

func TestJump(t *testing.T) {
	a, b := startSSHD(t, "127.0.0.1", nil), startSSHD(t, "127.0.0.1", nil)
	known := filepath.Join(t.TempDir(), "known")
	ka, _ := os.ReadFile(a.known)
	kb, _ := os.ReadFile(b.known)
	must(t, os.WriteFile(known, append(ka, kb...), 0o600))
	conf := filepath.Join(t.TempDir(), "config")
	must(t, os.WriteFile(conf, []byte(fmt.Sprintf(`
Host gate
  HostName 127.0.0.1
  Port %d
  User root
  IdentityFile %s
Host inner
  HostName 127.0.0.1
  Port %d
  User root
  IdentityFile %s
  IdentitiesOnly yes
  ProxyJump gate
Host weird
  ProxyCommand nc %%h %%p
`, a.port, a.key, b.port, b.key)), 0o600))
	p := NewPool(Options{ConfigFile: conf, AgentSocket: None, KnownHosts: []string{known}})
	defer func() { must(t, p.Close()) }()
	c, err := p.Connect(t.Context(), Target{Host: "inner"})
	must(t, err)
	out, _, _, err := c.Run(t.Context(), "echo $SSH_CONNECTION", nil)
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), fmt.Sprint(b.port)) {
		t.Fatalf("%q %v", out, err)
	}
	if a.logged(t, "Accepted publickey") != 1 || b.logged(t, "Accepted publickey") != 1 {
		t.Fatal("not through the gate")
	}
	must(t, c.Close())
	var te *TargetError
	if _, err := p.Connect(t.Context(), Target{Host: "weird"}); !errors.As(err, &te) {
		t.Fatal(err)
	}
}

func TestLostConnection(t *testing.T) {
	s := startSSHD(t, "127.0.0.1", nil)
	var mu sync.Mutex
	var raw net.Conn
	c := s.client(t, Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		mu.Lock()
		raw = conn
		mu.Unlock()
		return conn, err
	}})
	ended := make(chan error, 1)
	go func() { _, _, _, err := c.Run(context.Background(), "exec sleep 1000", nil); ended <- err }()
	mu.Lock()
	must(t, raw.Close())
	mu.Unlock()
	if err := <-ended; !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	<-c.Done()
	if _, err := c.Dial(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
}
