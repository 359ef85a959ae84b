package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"
)

// fake is an in-process SSH server that can misbehave.
type fake struct {
	target Target
	key    string
}

func startFake(t *testing.T, srv *gssh.Server) *fake {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := ssh.NewSignerFromKey(priv)
	must(t, err)
	srv.AddHostKey(signer)
	srv.PublicKeyHandler = func(gssh.Context, gssh.PublicKey) bool { return true }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	f := &fake{key: filepath.Join(t.TempDir(), "id")}
	writeKey(t, f.key, "")
	f.target = Target{User: "u", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Identity: f.key, HostKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))}
	return f
}

func quietPool(t *testing.T, o Options) *Pool {
	t.Helper()
	o.ConfigFile, o.AgentSocket = None, None
	p := NewPool(o)
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func TestFault16NoByteOfACommand(t *testing.T) {
	var opened, asked atomic.Int64
	f := startFake(t, &gssh.Server{
		Handler: func(s gssh.Session) { opened.Add(1) },
		ServerConfigCallback: func(gssh.Context) *ssh.ServerConfig {
			return &ssh.ServerConfig{AuthLogCallback: func(ssh.ConnMetadata, string, error) { asked.Add(1) }}
		},
	})
	f.target.HostKey = "SHA256:" + strings.Repeat("A", 43)
	_, err := quietPool(t, Options{}).Connect(t.Context(), f.target)
	var he *HostKeyError
	if !errors.As(err, &he) || opened.Load() != 0 || asked.Load() != 0 {
		t.Fatal(err, opened.Load(), asked.Load())
	}
}

func TestHandshakeFaults(t *testing.T) {
	for name, speak := range map[string]func(net.Conn){
		"endless banner": func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, strings.Repeat("x", 100)+"\r\n"); err != nil {
					return
				}
			}
		},
		"endless line": func(c net.Conn) { _, _ = io.Copy(c, zeros{}) },
		"silence":      func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"http":         func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"hangs up":     func(net.Conn) {},
		"slow after version": func(c net.Conn) {
			_, _ = io.WriteString(c, "SSH-2.0-x\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer func() { _ = l.Close() }()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				c, err := l.Accept()
				if err == nil {
					speak(c)
					_ = c.Close()
				}
			}()
			key := filepath.Join(t.TempDir(), "id")
			writeKey(t, key, "")
			limit := 300 * time.Millisecond
			if strings.HasPrefix(name, "endless") {
				limit = 20 * time.Second
			}
			p := quietPool(t, Options{DialTimeout: limit})
			_, err = p.Connect(t.Context(), Target{User: "u", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Identity: key, HostKey: "SHA256:x"})
			var e *Error
			if !errors.As(err, &e) || e.Remedy == "" || e.Code() == "" {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, "endless") && !errors.Is(err, ErrBanner) || (name == "silence" || name == "slow after version") && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			<-ended
		})
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestCommandFaults(t *testing.T) {
	f := startFake(t, &gssh.Server{Handler: func(s gssh.Session) {
		switch s.RawCommand() {
		case "vanish": // no exit status
			_ = s.Close()
		case "noise":
			_, _ = io.WriteString(s.Stderr(), "e")
			_, _ = io.WriteString(s, "o")
			_ = s.Exit(255)
		case "both endless":
			go func() { _, _ = io.Copy(s.Stderr(), zeros{}) }()
			_, _ = io.Copy(s, zeros{})
		case "stuck":
			<-s.Context().Done()
		}
	}})
	c, err := quietPool(t, Options{MaxOutput: 1 << 16}).Connect(t.Context(), f.target)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	var ee *ExitError
	if _, _, _, err := c.Run(t.Context(), "vanish", nil); !errors.As(err, &ee) || ee.Signal != "" {
		t.Fatal(err)
	}
	if out, errs, exit, err := c.Run(t.Context(), "noise", nil); string(out) != "o" || string(errs) != "e" || exit != 255 || err != nil {
		t.Fatal(out, errs, exit, err)
	}
	if _, _, _, err := c.Run(t.Context(), "both endless", nil); !errors.Is(err, ErrOutput) {
		t.Fatal(err)
	}
	for range 20 { // more than there are places: an abandoned command gives its place back
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, _, _, err := c.Run(ctx, "stuck", nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if _, _, exit, err := c.Run(t.Context(), "noise", nil); exit != 255 || err != nil {
		t.Fatal(exit, err)
	}
}

func TestKeys(t *testing.T) {
	f := startFake(t, &gssh.Server{Handler: func(gssh.Session) {}})
	dir := t.TempDir()
	locked, open, junk := filepath.Join(dir, "locked"), filepath.Join(dir, "open"), filepath.Join(dir, "junk")
	writeKey(t, locked, "secret words")
	writeKey(t, open, "")
	must(t, os.Chmod(open, 0o644))
	must(t, os.WriteFile(junk, []byte("-----BEGIN NOTHING-----\n"), 0o600))
	phrase := func(s string) func(context.Context, string) ([]byte, error) {
		return func(context.Context, string) ([]byte, error) { return []byte(s), nil }
	}
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(f.key, link))
	for name, c := range map[string]struct {
		key  string
		o    Options
		want string // "" = works
	}{
		"locked":           {locked, Options{}, "passphrase"},
		"wrong":            {locked, Options{Passphrase: phrase("x")}, "wrong"},
		"unlocked":         {locked, Options{Passphrase: phrase("secret words")}, ""},
		"open to others":   {open, Options{}, "chmod 600"},
		"absent":           {filepath.Join(dir, "absent"), Options{}, "no such file"},
		"junk":             {junk, Options{}, "ssh-keygen"},
		"a directory":      {dir, Options{}, "no key file"},
		"inside":           {f.key, Options{KeyDir: filepath.Dir(f.key)}, ""},
		"outside":          {f.key, Options{KeyDir: dir}, "outside"},
		"out by dots":      {dir + "/../" + filepath.Base(filepath.Dir(f.key)) + "/id", Options{KeyDir: dir}, "outside"},
		"out by a link":    {link, Options{KeyDir: dir}, "outside"},
		"absent elsewhere": {"/etc/ssh/none", Options{KeyDir: dir}, "outside"},
	} {
		t.Run(name, func(t *testing.T) {
			target := f.target
			target.Identity = c.key
			cl, err := quietPool(t, c.o).Connect(t.Context(), target)
			if c.want == "" {
				must(t, err)
				must(t, cl.Close())
				return
			}
			var ke *KeyError
			if !errors.As(err, &ke) || !strings.Contains(err.Error(), c.want) || !ke.Permanent() {
				t.Fatal(err)
			}
		})
	}
}
