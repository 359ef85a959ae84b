package remote

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Policy says what happens with a host that is in no known_hosts file.
type Policy string

// The policies. A host whose key has changed is refused under both.
const (
	Strict    Policy = "strict"     // refuse; the zero value means this
	AcceptNew Policy = "accept-new" // note its key and go on
)

// Target is an account on a machine. What is left zero comes from the ssh configuration, then from ssh's defaults.
type Target struct {
	User       string
	Host       string // a name, an address, or an alias of the ssh configuration
	Port       int
	Identity   string   // private key file; then only that key is offered
	KnownHosts Policy   // for hosts that are not known yet
	HostKey    string   // the only right key: "SHA256:..." or a line as in authorized_keys; then known_hosts is not read
	Jump       []Target // machines to go through, the nearest first
}

// String is user@host:port, without what is default.
func (t Target) String() string {
	h := t.Host
	if t.Port != 0 && t.Port != 22 {
		h = net.JoinHostPort(t.Host, strconv.Itoa(t.Port))
	}
	return at(t.User, h)
}

// ParseTarget reads [USER@]HOST[:PORT]; an IPv6 address with a port needs brackets.
func ParseTarget(s string) (Target, error) {
	var t Target
	rest := s
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		t.User, rest = rest[:i], rest[i+1:]
		if t.User == "" {
			return Target{}, &TargetError{"user", t.User, "is empty"}
		}
	}
	t.Host = rest
	if h, p, err := net.SplitHostPort(rest); err == nil {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return Target{}, &TargetError{"port", p, "is not 1 to 65535"}
		}
		t.Host, t.Port = h, n
	} else if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") {
		t.Host = rest[1 : len(rest)-1]
	}
	return t, t.Check()
}

var (
	hostRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,252}$`)
	userRE = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@+-]{0,63}$`)
)

// maxJumps bounds a chain of jumps.
const maxJumps = 8

// Check refuses, with a *TargetError, hosts and users that hold anything but the characters of names.
func (t Target) Check() error {
	if !validHost(t.Host) {
		return &TargetError{"host", t.Host, "is no host name or address"}
	}
	if t.User != "" && !userRE.MatchString(t.User) {
		return &TargetError{"user", t.User, "is no user name"}
	}
	if t.Port < 0 || t.Port > 65535 {
		return &TargetError{"port", strconv.Itoa(t.Port), "is not 1 to 65535"}
	}
	if strings.ContainsAny(t.Identity, "\x00\r\n") || strings.HasPrefix(t.Identity, "-") {
		return &TargetError{"identity", t.Identity, "is no file name"}
	}
	switch t.KnownHosts {
	case "", Strict, AcceptNew:
	default:
		return &TargetError{"known_hosts policy", string(t.KnownHosts), "is neither strict nor accept-new"}
	}
	if len(t.Jump) > maxJumps {
		return &TargetError{"jump", strconv.Itoa(len(t.Jump)), "is too long a chain"}
	}
	for _, j := range t.Jump {
		if len(j.Jump) > 0 {
			return &TargetError{"jump", j.Host, "has jumps of its own; list them all in one chain"}
		}
		if err := j.Check(); err != nil {
			return err
		}
	}
	return nil
}

func validHost(h string) bool {
	if hostRE.MatchString(h) {
		return true
	}
	a, err := netip.ParseAddr(h)
	if err != nil {
		return false
	}
	zone := a.Zone()
	return zone == "" || hostRE.MatchString(zone)
}
