package remote

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"time"
)

// None as a file or socket in Options means that there is none, where "" means the default.
const None = "none"

// Options of a Pool, usable at zero.
type Options struct {
	// ConfigFile is the ssh configuration; default ~/.ssh/config when it exists.
	ConfigFile string
	// KnownHosts are the files to look host keys up in; new ones are added to the first. Default: ~/.ssh/known_hosts
	// and /etc/ssh/ssh_known_hosts.
	KnownHosts []string
	// AgentSocket is the agent's; default $SSH_AUTH_SOCK.
	AgentSocket string
	// KeyDir, when set, is the only directory from which Target.Identity is read.
	KeyDir string
	// Passphrase is asked for the passphrase of an encrypted key; nil = encrypted keys need the agent.
	Passphrase func(ctx context.Context, keyPath string) ([]byte, error)
	// Dial replaces the dialling of machines that are reached directly.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// LookupTimeout bounds finding a host's address; default 4 s. Name servers that do not answer cost no more than that.
	// It is for the built-in Dial.
	LookupTimeout time.Duration
	// DialTimeout bounds connecting and the whole handshake; default 10 s.
	DialTimeout time.Duration
	// SessionTimeout bounds the opening of a session or tunnel on a live connection; default 10 s.
	SessionTimeout time.Duration
	// KeepAlive is the time between probes and the time that one may take; default 2 s. After KeepAliveMisses (3) of
	// them without a sign of life the connection is given up.
	KeepAlive       time.Duration
	KeepAliveMisses int
	// IdleClose is how long an unused connection is kept; default 60 s.
	IdleClose time.Duration
	// MaxSessions bounds commands and transfers at once on one connection; default 8 (sshd allows 10).
	MaxSessions int
	// MaxHandshakes bounds handshakes at once with one machine; default 4 (sshd starts to drop at 10).
	MaxHandshakes int
	// MaxOutput bounds each output of Run; default 8 MiB.
	MaxOutput int
	// Log may be nil.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.LookupTimeout, 4*time.Second)
	def(&o.DialTimeout, 10*time.Second)
	def(&o.SessionTimeout, 10*time.Second)
	def(&o.KeepAlive, 2*time.Second)
	def(&o.IdleClose, time.Minute)
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	num(&o.KeepAliveMisses, 3)
	num(&o.MaxSessions, 8)
	num(&o.MaxHandshakes, 4)
	num(&o.MaxOutput, 8<<20)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		d := &net.Dialer{KeepAlive: 15 * time.Second}
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := lookup(ctx, addr, o.LookupTimeout); err != nil {
				return nil, err
			}
			return d.DialContext(ctx, network, addr)
		}
	}
	if o.AgentSocket == "" {
		o.AgentSocket = os.Getenv("SSH_AUTH_SOCK")
	}
	if len(o.KnownHosts) == 0 {
		o.KnownHosts = []string{inHome(".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	return o
}

// lookup makes sure in time that a host's name can be resolved at all.
func lookup(ctx context.Context, addr string, within time.Duration) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || net.ParseIP(host) != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err = net.DefaultResolver.LookupHost(bounded, host)
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		return fmt.Errorf("no name server has answered for %s within %s", host, within)
	}
	return err
}

// home is the user's home directory, "" when there is none.
func home() string {
	if h, err := os.UserHomeDir(); err == nil {
		return h
	}
	return ""
}

func inHome(p string) string { return filepath.Join(home(), p) }

func localUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return os.Getenv("USER")
}
