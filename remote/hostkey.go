package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknown "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys decides about a machine's key and tells which kinds of key to ask it for.
type hostKeys struct {
	r     *resolved
	write *sync.Mutex // one writer of known_hosts at a time
}

// callback returns what the SSH handshake calls with the machine's key, before any credential is sent, and the key
// algorithms to ask for (nil = the default order).
func (h hostKeys) callback() (ssh.HostKeyCallback, []string, error) {
	if h.r.HostKey != "" {
		return h.pinned()
	}
	var files []string
	for _, f := range h.r.knownHosts {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	name := joinPort(h.r.alias, h.r.Port)
	if len(files) == 0 {
		return func(_ string, remote net.Addr, key ssh.PublicKey) error {
			return h.unknown(name, remote, key)
		}, nil, nil
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("known_hosts: %w; correct that line or remove it", err)
	}
	check := db.HostKeyCallback()
	return func(_ string, remote net.Addr, key ssh.PublicKey) error {
		err := check(name, remote, key)
		switch {
		case err == nil:
			return nil
		case knownhosts.IsHostUnknown(err):
			return h.unknown(name, remote, key)
		case knownhosts.IsHostKeyChanged(err):
			e := h.refusal(key, true)
			var ke *xknown.KeyError
			if errors.As(err, &ke) {
				for _, w := range ke.Want {
					e.Known = append(e.Known, fmt.Sprintf("%s:%d", w.Filename, w.Line))
				}
			}
			return e
		}
		e := h.refusal(key, true) // revoked, or a certificate that does not hold
		e.Known = append(e.Known, err.Error())
		return e
	}, db.HostKeyAlgorithms(name), nil
}

func (h hostKeys) refusal(key ssh.PublicKey, changed bool) *HostKeyError {
	return &HostKeyError{User: h.r.User, Host: joinPort(h.r.alias, h.r.Port), Fingerprint: ssh.FingerprintSHA256(key), KeyType: key.Type(), Changed: changed}
}

// unknown refuses a key that nobody has seen, or notes it when the target says so.
func (h hostKeys) unknown(name string, remote net.Addr, key ssh.PublicKey) error {
	if h.r.KnownHosts != AcceptNew {
		return h.refusal(key, false)
	}
	h.write.Lock()
	defer h.write.Unlock()
	path := h.r.knownHosts[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("known_hosts: %w", err)
	}
	// Another connection may have noted a key in between; the same one is fine, another one is an attack.
	if db, err := knownhosts.NewDB(path); err == nil {
		err := db.HostKeyCallback()(name, remote, key)
		if err == nil {
			return nil
		}
		if knownhosts.IsHostKeyChanged(err) {
			e := h.refusal(key, true)
			e.Known = []string{path}
			return e
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("known_hosts: %w", err)
	}
	_, err = f.WriteString(knownhosts.Line([]string{name}, key) + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("known_hosts: %w", err)
	}
	return nil
}

// pinned accepts one key and nothing else.
func (h hostKeys) pinned() (ssh.HostKeyCallback, []string, error) {
	pin := strings.TrimSpace(h.r.HostKey)
	refuse := func(key ssh.PublicKey) error {
		e := h.refusal(key, true)
		e.Known = []string{"the pinned host key"}
		return e
	}
	if strings.HasPrefix(pin, "SHA256:") {
		return func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if ssh.FingerprintSHA256(key) != pin {
				return refuse(key)
			}
			return nil
		}, nil, nil
	}
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(pin))
	if err != nil {
		return nil, nil, &TargetError{"host key", pin, `is neither "SHA256:..." nor a public key line`}
	}
	algos := []string{want.Type()}
	if want.Type() == ssh.KeyAlgoRSA {
		algos = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		if string(key.Marshal()) != string(want.Marshal()) {
			return refuse(key)
		}
		return nil
	}, algos, nil
}

// errSeen ends a handshake once the key has been seen.
var errSeen = errors.New("host key seen")

// HostKey asks a machine for its key, so that a person can compare it before it is pinned or noted. It proves nothing
// about the machine, logs in nowhere and sends no credential. line can be used as Target.HostKey.
func (p *Pool) HostKey(ctx context.Context, t Target) (line, fingerprint string, err error) {
	r, err := p.o.resolve(t)
	if err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.DialTimeout)
	defer cancel()
	raw, via, err := p.reach(ctx, r)
	if err != nil {
		return "", "", &Error{Op: "connect", User: r.User, Host: r.addr(), Err: err, Remedy: "check that the machine is on, its name and port, and the firewall"}
	}
	defer func() {
		_ = raw.Close()
		for _, v := range via {
			_ = v.Close()
		}
	}()
	var key ssh.PublicKey
	see := func(_ string, _ net.Addr, k ssh.PublicKey) error {
		key = k
		return errSeen
	}
	_, err = p.shake(ctx, raw, r, nil, &credentials{}, see, nil)
	if key == nil {
		return "", "", err
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), ssh.FingerprintSHA256(key), nil
}
