package remote

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// maxKeys is how many keys are offered at most: sshd hangs up after six.
const maxKeys = 5

// credentials collects what is offered to one machine and remembers it for the error message.
type credentials struct {
	mu      sync.Mutex
	offered []string
	agent   net.Conn
}

func (c *credentials) close() {
	if c.agent != nil {
		_ = c.agent.Close()
	}
}

func (c *credentials) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.offered...)
}

// signers loads the keys for a target: the named one alone, or the agent's and the default files.
func (o *Options) signers(ctx context.Context, r *resolved) ([]ssh.Signer, *credentials, error) {
	c := &credentials{}
	held := o.agentSigners(ctx, c)
	var out []ssh.Signer
	add := func(s ssh.Signer, name string) {
		for _, have := range out {
			if string(have.PublicKey().Marshal()) == string(s.PublicKey().Marshal()) {
				return
			}
		}
		if len(out) < maxKeys {
			out = append(out, s)
			c.offered = append(c.offered, name)
		}
	}
	named := r.Identity != ""
	for _, path := range r.identities {
		s, err := o.loadKey(ctx, path, named, held)
		if err != nil {
			if named {
				c.close()
				return nil, nil, err
			}
			if !errors.Is(err, fs.ErrNotExist) {
				o.Log.Warn("ssh key left out", "file", path, "err", err)
			}
			continue
		}
		add(s, "key "+path)
	}
	if !r.only {
		for _, s := range held {
			add(s, "agent key "+ssh.FingerprintSHA256(s.PublicKey()))
		}
	}
	return out, c, nil
}

func (o *Options) agentSigners(ctx context.Context, c *credentials) []ssh.Signer {
	if o.AgentSocket == "" || o.AgentSocket == None {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", o.AgentSocket)
	if err != nil {
		o.Log.Warn("ssh agent left out", "err", err)
		return nil
	}
	c.agent = conn
	held, err := agent.NewClient(conn).Signers()
	if err != nil {
		o.Log.Warn("ssh agent left out", "err", err)
		return nil
	}
	return held
}

// loadKey reads a private key file; for an encrypted one it asks the agent first, then for the passphrase.
func (o *Options) loadKey(ctx context.Context, path string, named bool, held []ssh.Signer) (ssh.Signer, error) {
	if named && o.KeyDir != "" {
		if err := inside(o.KeyDir, path); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, &KeyError{path, err, "name a private key file that this program can read"}
	}
	if !info.Mode().IsRegular() || info.Size() > 1<<20 {
		return nil, &KeyError{path, errors.New("it is no key file"), "name a private key file"}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &KeyError{path, fmt.Errorf("others can read it (mode %04o)", info.Mode().Perm()), "run chmod 600 on it"}
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, &KeyError{path, err, "name a private key file that this program can read"}
	}
	s, err := ssh.ParsePrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return s, nil
	case !errors.As(err, &locked):
		return nil, &KeyError{path, errors.New("it is not a private key that can be read"), "make one with ssh-keygen -t ed25519"}
	}
	if locked.PublicKey != nil {
		for _, h := range held {
			if string(h.PublicKey().Marshal()) == string(locked.PublicKey.Marshal()) {
				return h, nil
			}
		}
	}
	return o.unlock(ctx, path, pem)
}

func (o *Options) unlock(ctx context.Context, path string, pem []byte) (ssh.Signer, error) {
	if o.Passphrase == nil {
		return nil, &KeyError{path, errors.New("it has a passphrase"), "add it to the ssh agent (ssh-add), or use a key without one"}
	}
	phrase, err := o.Passphrase(ctx, path)
	if err != nil {
		return nil, &KeyError{path, fmt.Errorf("no passphrase: %w", err), "give its passphrase"}
	}
	s, err := ssh.ParsePrivateKeyWithPassphrase(pem, phrase)
	clear(phrase)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, &KeyError{path, errors.New("the passphrase is wrong"), "give the right one"}
	}
	if err != nil {
		return nil, &KeyError{path, errors.New("it can't be decrypted"), "make one with ssh-keygen -t ed25519"}
	}
	return s, nil
}

// inside makes sure that path, links followed, lies below dir.
func inside(dir, path string) error {
	outside := &KeyError{path, errors.New("it is outside the directory that keys may come from"), "put the key into " + dir}
	d, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return &KeyError{path, fmt.Errorf("the key directory: %w", err), "make " + dir}
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return outside
	}
	p, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return outside // whether it exists elsewhere is nobody's business
	}
	d, err = filepath.Abs(d)
	if err != nil {
		return outside
	}
	rel, err := filepath.Rel(d, p)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return outside
	}
	return nil
}
