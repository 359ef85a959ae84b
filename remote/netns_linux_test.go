package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nets are two network namespaces joined by a veth pair: the test's side and the machine's.
type nets struct{ a, b string }

func newNets(t *testing.T) nets {
	t.Helper()
	need(t, os.Getuid() == 0, "root for network namespaces")
	for _, tool := range []string{"ip", "iptables"} {
		_, err := exec.LookPath(tool)
		need(t, err == nil, tool+" for network namespaces")
	}
	n := nets{a: fmt.Sprintf("rbra%d", os.Getpid()), b: fmt.Sprintf("rbrb%d", os.Getpid())}
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", n.a).Run()
		_ = exec.Command("ip", "netns", "del", n.b).Run()
	})
	va, vb := fmt.Sprintf("ra%d", os.Getpid()), fmt.Sprintf("rb%d", os.Getpid())
	for i, line := range []string{
		"ip netns add " + n.a, "ip netns add " + n.b,
		"ip link add " + va + " type veth peer name " + vb,
		"ip link set " + va + " netns " + n.a, "ip link set " + vb + " netns " + n.b,
		"ip -n " + n.a + " addr add 10.77.0.1/24 dev " + va, "ip -n " + n.b + " addr add 10.77.0.2/24 dev " + vb,
		"ip -n " + n.a + " link set " + va + " up", "ip -n " + n.b + " link set " + vb + " up",
		"ip -n " + n.a + " link set lo up", "ip -n " + n.b + " link set lo up",
	} {
		f := strings.Fields(line)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			need(t, i > 0, "network namespaces: "+string(out))
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	return n
}

func (n nets) cut(t *testing.T) {
	for _, ns := range []string{n.a, n.b} {
		out, err := exec.Command("ip", "netns", "exec", ns, "iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP").CombinedOutput()
		if err != nil {
			t.Fatalf("iptables: %v %s", err, out)
		}
	}
}

func (n nets) heal(t *testing.T) {
	for _, ns := range []string{n.a, n.b} {
		if out, err := exec.Command("ip", "netns", "exec", ns, "iptables", "-F", "INPUT").CombinedOutput(); err != nil {
			t.Fatalf("iptables: %v %s", err, out)
		}
	}
}

// dial opens its socket inside namespace a, on a thread that is thrown away afterwards.
func (n nets) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	got := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f, err := os.Open("/var/run/netns/" + n.a)
		if err != nil {
			got <- result{nil, err}
			return
		}
		defer func() { _ = f.Close() }()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			got <- result{nil, err}
			return
		}
		// One address and no fallback: the socket is made on this thread.
		d := net.Dialer{FallbackDelay: -1}
		c, err := d.DialContext(ctx, network, addr)
		got <- result{c, err}
	}()
	r := <-got
	return r.c, r.err
}

func TestFault08Cut(t *testing.T) {
	if testing.Short() {
		t.Skip("short: waits for a link to be given up")
	}
	n := newNets(t)
	s := startSSHD(t, "10.77.0.2", []string{"ip", "netns", "exec", n.b})
	p := s.pool(t, Options{Dial: n.dial})
	c, err := p.Connect(t.Context(), s.target)
	must(t, err)
	defer func() { must(t, c.Close()) }()
	if _, _, _, err := c.Run(t.Context(), "true", nil); err != nil {
		t.Fatal(err)
	}
	running := make(chan error, 1)
	go func() { _, _, _, err := c.Run(context.Background(), "exec sleep 300", nil); running <- err }()
	tunnelled, err := c.Dial(t.Context(), "tcp", fmt.Sprintf("10.77.0.2:%d", s.port))
	must(t, err)
	// A short cut that heals goes unnoticed.
	n.cut(t)
	short, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	_, _, _, err = c.Run(short, "true", nil)
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("the cut cuts nothing:", err)
	}
	n.heal(t)
	if out, _, _, err := c.Run(t.Context(), "echo healed", nil); err != nil || string(out) != "healed\n" {
		t.Fatal(string(out), err)
	}
	n.cut(t)
	begun := time.Now()
	_, _, _, err = c.Run(t.Context(), "true", nil)
	if !errors.Is(err, ErrLost) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	t.Logf("a new session failed %.1f s after the cut: %v", time.Since(begun).Seconds(), err)
	if err := <-running; !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	<-c.Done()
	buf := make([]byte, 100)
	for {
		if _, err = tunnelled.Read(buf); err != nil {
			break
		}
	}
	took := time.Since(begun)
	t.Logf("command, tunnel and connection were given up %.1f s after the cut", took.Seconds())
	if took > 20*time.Second {
		t.Fatal("the cut was noticed too late")
	}
	begun = time.Now()
	_, err = p.Connect(t.Context(), s.target)
	var timeout net.Error // whichever of the dial's two timers was first
	if !errors.Is(err, context.DeadlineExceeded) && !(errors.As(err, &timeout) && timeout.Timeout()) {
		t.Fatal(err)
	}
	t.Logf("a new connection failed after %.1f s: %v", time.Since(begun).Seconds(), err)
	if time.Since(begun) > 15*time.Second {
		t.Fatal("the dial hung")
	}
	n.heal(t)
	c2, err := p.Connect(t.Context(), s.target)
	must(t, err)
	must(t, c2.Close())
}
