package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fleetNet are three network namespaces on one machine: the queen's at 10.77.0.1 and two hosts' at 10.77.0.2 and .3,
// each joined to the queen's by a veth pair.
type fleetNet struct{ prefix string }

func (n fleetNet) queen() string     { return n.prefix + "q" }
func (n fleetNet) host(i int) string { return fmt.Sprintf("%s%d", n.prefix, i) }
func address(i int) string           { return fmt.Sprintf("10.77.0.%d", i+1) }

func command(t *testing.T, line string) string {
	t.Helper()
	f := strings.Fields(line)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// newFleetNet makes the namespaces; what runs in them ends, and they go, when the test ends.
func newFleetNet(t *testing.T) fleetNet {
	t.Helper()
	need(t, os.Getuid() == 0, "root for network namespaces")
	for _, tool := range []string{"ip", "iptables", "nsenter", "ssh-keygen", "/usr/sbin/sshd"} {
		_, err := exec.LookPath(tool)
		need(t, err == nil, tool)
	}
	n := fleetNet{fmt.Sprintf("rbf%d", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", n.queen()).CombinedOutput(); err != nil {
		need(t, false, "network namespaces: "+string(out))
	}
	t.Cleanup(n.remove)
	command(t, "ip -n "+n.queen()+" link set lo up")
	for i := 1; i <= 2; i++ {
		ns, a, b := n.host(i), fmt.Sprintf("ra%d-%d", os.Getpid(), i), fmt.Sprintf("rb%d-%d", os.Getpid(), i)
		for _, line := range []string{
			"ip netns add " + ns,
			"ip link add " + a + " type veth peer name " + b,
			"ip link set " + a + " netns " + n.queen(),
			"ip link set " + b + " netns " + ns,
			"ip -n " + n.queen() + " addr add 10.77.0.1 peer " + address(i) + " dev " + a,
			"ip -n " + ns + " addr add " + address(i) + " peer 10.77.0.1 dev " + b,
			"ip -n " + n.queen() + " link set " + a + " up",
			"ip -n " + ns + " link set " + b + " up",
			"ip -n " + ns + " link set lo up",
		} {
			command(t, line)
		}
	}
	return n
}

// pids are the processes in a namespace of this test.
func (n fleetNet) pids(ns string) []int {
	out, _ := exec.Command("ip", "netns", "pids", ns).Output()
	var list []int
	for _, f := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 {
			list = append(list, pid)
		}
	}
	return list
}

func (n fleetNet) remove() {
	for _, ns := range []string{n.queen(), n.host(1), n.host(2)} {
		for _, pid := range n.pids(ns) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_ = exec.Command("ip", "netns", "del", ns).Run()
	}
}

// cut drops what arrives from the other side, on both sides.
func (n fleetNet) cut(t *testing.T, i int) {
	t.Helper()
	command(t, "ip netns exec "+n.host(i)+" iptables -A INPUT -s 10.77.0.1 -j DROP")
	command(t, "iptables -A INPUT -s "+address(i)+" -j DROP") // the test runs in the queen's namespace
}

func (n fleetNet) heal(t *testing.T, i int) {
	t.Helper()
	command(t, "ip netns exec "+n.host(i)+" iptables -D INPUT -s 10.77.0.1 -j DROP")
	command(t, "iptables -D INPUT -s "+address(i)+" -j DROP")
}

// machine is a host of the fleet: a namespace with an sshd and a home directory of its own.
type machine struct {
	n           fleetNet
	i           int
	dir, home   string
	key         string // private key that may log in
	fingerprint string
	hostKey     string // public line
	cmd         *exec.Cmd
}

// writeKey makes a private key file and returns its public line and fingerprint.
func writeKey(t *testing.T, path string) (line, fingerprint string) {
	t.Helper()
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	data, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data)), strings.Fields(command(t, "ssh-keygen -lf "+path+".pub"))[1]
}

// newMachine sets up a host whose home is a directory of the test, mounted over root's own in its namespace.
func newMachine(t *testing.T, n fleetNet, i int) *machine {
	t.Helper()
	m := &machine{n: n, i: i, dir: t.TempDir()}
	m.home, m.key = filepath.Join(m.dir, "home"), filepath.Join(m.dir, "id")
	for _, d := range []string{m.home, "/run/sshd"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.hostKey, m.fingerprint = writeKey(t, filepath.Join(m.dir, "host"))
	pub, _ := writeKey(t, m.key)
	conf := fmt.Sprintf("ListenAddress %s\nPort 22\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nLogLevel VERBOSE\nPidFile %s/pid\n", address(i), m.dir, m.dir, m.dir)
	noise := ""
	if i == 1 {
		conf += "Subsystem sftp internal-sftp\n"
	} else { // the second host has no sftp, and its rc file talks
		noise = "echo welcome to this machine\necho and to its stderr >&2\n"
	}
	if err := os.WriteFile(filepath.Join(m.home, ".bashrc"), []byte(noise), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"conf": conf, "authorized": pub + "\n"} {
		if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m.sshd(t)
	return m
}

// sshd starts the host's sshd.
func (m *machine) sshd(t *testing.T) {
	t.Helper()
	m.daemon(t, `mount --bind "$2" "$3" && exec /usr/sbin/sshd -D -f "$1/conf" -E "$1/log"`, m.home, rootHome())
}

// daemon starts the host's sshd by a script that is given the machine's directory and more, and waits for its pid file.
func (m *machine) daemon(t *testing.T, script string, args ...string) {
	t.Helper()
	_ = os.Remove(filepath.Join(m.dir, "pid"))
	// ip netns exec gives the process mounts of its own
	m.cmd = exec.Command("ip", append([]string{"netns", "exec", m.n.host(m.i), "sh", "-c", script, "sh", m.dir}, args...)...)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd := m.cmd
	go func() { _ = cmd.Wait() }()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := os.Stat(filepath.Join(m.dir, "pid")); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd did not start: %s", m.log())
		}
		<-time.After(10 * time.Millisecond)
	}
}

// rootHome is the home directory that sshd gives to root.
func rootHome() string {
	data, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(line, ":"); len(f) > 5 && f[2] == "0" {
			return f[5]
		}
	}
	return ""
}

// killSSHD ends the listener and every session of this host.
func (m *machine) killSSHD(t *testing.T) {
	t.Helper()
	for _, pid := range m.n.pids(m.n.host(m.i)) {
		if comm, _ := os.ReadFile("/proc/" + itoa(pid) + "/comm"); strings.HasPrefix(string(comm), "sshd") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (m *machine) log() string {
	data, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	return string(data)
}

// hivePID is the hive on this host.
func (m *machine) hivePID(t *testing.T) int {
	t.Helper()
	list, _ := filepath.Glob(m.home + "/.local/share/rbee/hives/*/hive.json")
	if len(list) != 1 {
		t.Fatalf("%d hives have written their state below %s: %v", len(list), m.home, list)
	}
	data, err := os.ReadFile(list[0])
	if err != nil {
		t.Fatal(err)
	}
	var h struct{ PID int }
	if err := json.Unmarshal(data, &h); err != nil || h.PID == 0 {
		t.Fatalf("%s: %v", data, err)
	}
	return h.PID
}

// workerPIDs are the worker processes on this host, whoever knows of them.
func (m *machine) workerPIDs() []int {
	var out []int
	for _, pid := range m.n.pids(m.n.host(m.i)) {
		line, _ := os.ReadFile("/proc/" + itoa(pid) + "/cmdline")
		if f := strings.Split(string(line), "\x00"); len(f) > 1 && strings.Contains(f[0], "rbee-hive") && f[1] == "sim-worker" {
			out = append(out, pid)
		}
	}
	return out
}
