package hivelifecycle

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"regexp"
	"time"
)

// Runner is a machine on which a hive can be run, as a Connector made it reachable. Run gives the command to the
// machine's shell; a command that ran and failed has a nil error and its exit status. Upload writes a file
// atomically (dst has the content or is unchanged) and checks sha256, in hexadecimal. Dial connects to an address as
// that machine sees it.
type Runner interface {
	Run(ctx context.Context, cmd string, stdin io.Reader) (stdout, stderr []byte, exit int, err error)
	Upload(ctx context.Context, src io.Reader, size int64, sha256, dst string, mode fs.FileMode) error
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	Close() error
}

// Connector reaches machines. An error that has Permanent() bool returning true is not tried again by itself.
type Connector interface {
	Connect(ctx context.Context, target SSHTarget) (Runner, error)
}

// Registrar is told what becomes of hives. Both methods are called from the Manager's goroutines, one at a time for
// each hive, and must not call back into the Manager for the same hive.
type Registrar interface {
	// HiveStatus reports a status of the contract (StatusStarting, ...) with a sentence.
	HiveStatus(name, status, message string)
	// HiveReady reports a hive that answers and has proved its identity; again after every restart.
	HiveReady(name string, ep Endpoint)
}

// Endpoint is a hive that can be talked to. The token is a secret: String and LogValue leave it out.
type Endpoint struct {
	Node    string // the hive's name in the fleet
	ID      string // its identity, see the data directory
	Address string // host:port as the hive's own machine sees it
	Token   string
	Epoch   uint64 // rises with every start of the hive
	Version string
	PID     int
	Adopted bool // it ran already
	// TLS is the queen's side of mutual TLS with the hive; nil for one that is reached over loopback or through SSH.
	TLS *tls.Config
	// Dial reaches addresses as the hive's machine sees them, over the newest connection to it.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// String names the endpoint without its token.
func (e Endpoint) String() string {
	return fmt.Sprintf("hive %s (id %s, pid %d, version %s) at %s", e.Node, e.ID, e.PID, e.Version, e.Address)
}

// LogValue keeps the token out of logs.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.String()) }

// LocalConfig is a hive on this machine.
type LocalConfig struct {
	Name   string
	Binary string   // path of rbee-hive; "" = Options.Binary, beside this program, PATH
	Addr   string   // listen address; "" = 127.0.0.1:0
	Args   []string // further arguments of the hive
	Env    []string // further environment, KEY=value
}

// SSHTarget is how a machine is reached; the Connector gives it its meaning.
type SSHTarget struct {
	User, Host string
	Port       int
	Identity   string // private key file; "" = the connector's defaults
	KnownHosts string // "strict" (default) or "accept-new"
	HostKey    string // pinned key: "SHA256:..." or an authorized_keys line
	Jump       []SSHTarget
}

// String is user@host:port.
func (t SSHTarget) String() string {
	s := t.Host
	if t.User != "" {
		s = t.User + "@" + s
	}
	if t.Port != 0 && t.Port != 22 {
		s = fmt.Sprintf("%s:%d", s, t.Port)
	}
	return s
}

// NetworkConfig is a hive on another machine.
type NetworkConfig struct {
	Name   string
	Target SSHTarget
	Dir    string // directory on that machine, absolute or relative to its home; "" = .local/share/rbee/hives/NAME-ID
	Addr   string // listen address there; "" = 127.0.0.1:0, reached through the Runner
	// Direct dials Addr straight from here, with mutual TLS, instead of through the Runner. What listens on the machine's
	// loopback, its workers, is reached through the Runner all the same.
	Direct bool
	// Plain leaves out the TLS of Direct: token, commands and states are then readable on the network.
	Plain bool
	Args  []string // further arguments of the hive
	// KeepTrying goes on in the background, ever more slowly, after a start that failed for a passing reason.
	KeepTrying bool
	MAC        string // hardware address for Wake-on-LAN when the machine does not answer; "" = never
}

// StopOptions bound a stop. Zero values mean the defaults.
type StopOptions struct {
	Drain time.Duration // how long its workers may finish what they are doing; 0 = not at all
	Grace time.Duration // from the polite request to TERM; default 10 s
	Term  time.Duration // from TERM to KILL; default 5 s
	// KeepWorkers leaves the hive's workers running for the next hive of the same identity to take over.
	KeepWorkers bool
}

func (o StopOptions) withDefaults() StopOptions {
	if o.Grace <= 0 {
		o.Grace = 10 * time.Second
	}
	if o.Term <= 0 {
		o.Term = 5 * time.Second
	}
	return o
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func checkName(name string) error {
	if !nameRE.MatchString(name) {
		return fail(fmt.Sprintf("%.80q", name), StepStart, ErrName,
			"use 1 to 63 letters, digits, dots, dashes and underscores, beginning with a letter or digit")
	}
	return nil
}
