package hivelifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// maxReply bounds what one of our own scripts may print.
const maxReply = 256 << 10

// host is a machine behind a Runner, and what was learnt about it.
type host struct {
	conn   Connector
	target SSHTarget
	direct bool
	tls    *tls.Config // nil: the hive's API is plain
	facts  facts

	mu     sync.Mutex
	runner Runner
	closed bool
}

// dial reaches an address as the machine sees it, over the newest connection.
func (t *host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if host, _, err := net.SplitHostPort(addr); t.direct && err == nil && !isLoopback(host) {
		return localDial(ctx, network, addr)
	}
	r, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	return r.Dial(ctx, network, addr)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// get returns the connection. It does not make one: that is the business of a start, which reports it.
func (t *host) get(context.Context) (Runner, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runner == nil {
		return nil, fmt.Errorf("no connection to %s at the moment", t.target)
	}
	return t.runner, nil
}

func (t *host) connect(ctx context.Context) error {
	r, err := t.conn.Connect(ctx, t.target)
	if err != nil {
		return err
	}
	t.mu.Lock()
	old, closed := t.runner, t.closed
	if !closed {
		t.runner = r
	}
	t.mu.Unlock()
	if closed {
		return errors.Join(ErrClosed, r.Close())
	}
	if old != nil {
		_ = old.Close()
	}
	return nil
}

func (t *host) close() {
	t.mu.Lock()
	r := t.runner
	t.runner, t.closed = nil, true
	t.mu.Unlock()
	if r != nil {
		_ = r.Close()
	}
}

// script runs a shell script and returns what it printed between the marks, so that the noise of rc files before and
// after it does no harm. exit is the script's own status.
func (t *host) script(ctx context.Context, body string, stdin io.Reader) (out string, exit int, err error) {
	r, err := t.get(ctx)
	if err != nil {
		return "", 0, err
	}
	const begin, end = "==rbee-begin==", "==rbee-end=="
	cmd := "sh -c " + quote("printf '\\n%s\\n' "+begin+"\n(\n"+body+"\n)\nrc=$?\nprintf '\\n%s %s\\n' "+end+" $rc\nexit 0")
	stdout, stderr, exit, err := r.Run(ctx, cmd, stdin)
	if err != nil {
		return "", 0, err
	}
	if len(stdout) > maxReply {
		return "", 0, errors.New("the machine's answer is too long")
	}
	_, rest, ok := bytes.Cut(stdout, []byte("\n"+begin+"\n"))
	if !ok {
		return "", 0, fmt.Errorf("the machine's shell did not run the command (status %d): %s", exit, brief(stderr, stdout))
	}
	i := bytes.LastIndex(rest, []byte("\n"+end+" "))
	if i < 0 {
		return "", 0, fmt.Errorf("the machine's answer was cut short (status %d): %s", exit, brief(stderr, rest))
	}
	if _, err := fmt.Sscanf(string(rest[i:]), "\n"+end+" %d", &exit); err != nil {
		return "", 0, fmt.Errorf("the machine's answer has no status: %w", err)
	}
	out = strings.TrimSpace(string(rest[:i]))
	if exit != 0 && len(bytes.TrimSpace(stderr)) > 0 {
		out = strings.TrimSpace(out + "\n" + brief(stderr, nil))
	}
	return out, exit, nil
}

// brief is the end of the first non-empty text, on one line.
func brief(texts ...[]byte) string {
	for _, b := range texts {
		s := strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
		if s == "" {
			continue
		}
		if len(s) > 300 {
			s = "..." + s[len(s)-300:]
		}
		return fmt.Sprintf("%q", s)
	}
	return "it said nothing"
}

// quote makes one word for a POSIX shell of any text without NUL.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
