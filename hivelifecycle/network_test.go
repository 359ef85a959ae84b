package hivelifecycle

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

func gpu(name string) NetworkConfig {
	return NetworkConfig{Name: name, Target: SSHTarget{User: "ops", Host: name}}
}

func startNetwork(t *testing.T, m *Manager, c NetworkConfig) Endpoint {
	t.Helper()
	ep, err := m.StartNetwork(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return ep
}

func TestStartNetwork(t *testing.T) {
	for name, set := range map[string]func(*machine){
		"nohup":   func(*machine) {},
		"noise":   func(m *machine) { m.noise = "Welcome!\n==rbee-\nstate:\nuname=VMS VAX\n" },
		"systemd": func(m *machine) { m.system = true },
	} {
		t.Run(name, func(t *testing.T) {
			box := newMachine(t)
			set(box)
			m, r := networkManager(t, t.TempDir(), box, Options{})
			ep := startNetwork(t, m, gpu("gpu1"))
			if ep.Adopted || ep.Version != "v1" {
				t.Fatalf("%v", ep)
			}
			if box.ran(ep.Token) {
				t.Fatal("the token was on a command line")
			}
			dirs, _ := filepath.Glob(filepath.Join(box.home, ".local/share/rbee/hives/gpu1-*"))
			if len(dirs) != 1 {
				t.Fatal(dirs)
			}
			for f, mode := range map[string]os.FileMode{"": 0o700, "token": 0o600} {
				if info, err := os.Stat(filepath.Join(dirs[0], f)); err != nil || info.Mode().Perm() != mode {
					t.Fatal(info, err)
				}
			}
			if _, err := os.Stat(filepath.Join(box.home, "systemctl.log")); (err == nil) != box.system {
				t.Fatal("systemd:", err)
			}
			conn, err := ep.Dial(t.Context(), "tcp", ep.Address)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, alive := procStart(ep.PID); alive {
				t.Fatal("it still runs")
			}
			if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
				t.Fatal("second stop:", err)
			}
			again := startNetwork(t, m, gpu("gpu1"))
			if again.ID != ep.ID || box.uploads.Load() != 1 {
				t.Fatalf("%v, %d uploads", again, box.uploads.Load())
			}
			if err := m.Remove(t.Context(), "gpu1", RemoveOptions{Purge: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(dirs[0]); !errors.Is(err, os.ErrNotExist) {
				t.Fatal("its directory is left:", err)
			}
			if _, err := os.Stat(m.hiveDir("gpu1")); !errors.Is(err, os.ErrNotExist) {
				t.Fatal("its identity is left:", err)
			}
			if _, err := m.EnsureRunning(t.Context(), "gpu1"); !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, e := range r.events {
				if !strings.HasSuffix(strings.TrimSpace(e.Message), ".") || e.Node != "gpu1" || e.State == Failed {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

func TestFault02NetworkAdoption(t *testing.T) {
	box, dir := newMachine(t), t.TempDir()
	m1, _ := networkManager(t, dir, box, Options{})
	first := startNetwork(t, m1, gpu("gpu1"))
	if err := m1.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, alive := procStart(first.PID); !alive {
		t.Fatal("Close ended a network hive")
	}
	m2, _ := networkManager(t, dir, box, Options{})
	second := startNetwork(t, m2, gpu("gpu1"))
	if !second.Adopted || second.PID != first.PID || second.Epoch != first.Epoch {
		t.Fatalf("%v then %v", first, second)
	}
	// Another queen on the same machine has its own hive.
	m3, _ := networkManager(t, t.TempDir(), box, Options{})
	third := startNetwork(t, m3, gpu("gpu1"))
	if third.Adopted || third.PID == first.PID || third.ID == first.ID {
		t.Fatalf("%v then %v", first, third)
	}
	for _, m := range []*Manager{m2, m3} {
		if err := m.StopAll(t.Context(), StopOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFault09CutHeals(t *testing.T) {
	box := newMachine(t)
	m, r := networkManager(t, t.TempDir(), box, Options{})
	first := startNetwork(t, m, gpu("gpu1"))
	box.cut.Store(true)
	r.wait(t, "the loss", func() bool { return r.status[len(r.status)-1] == StatusError })
	if _, ok := m.Endpoint("gpu1"); ok {
		t.Fatal("an endpoint without a connection")
	}
	box.cut.Store(false)
	r.wait(t, "the return", func() bool { return len(r.ready) == 2 })
	ep, ok := m.Endpoint("gpu1")
	if !ok || !ep.Adopted || ep.PID != first.PID {
		t.Fatalf("%v %v", ep, ok)
	}
	// first.Dial goes over the new connection.
	conn, err := first.Dial(t.Context(), "tcp", first.Address)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestFault03NetworkHiveCrash(t *testing.T) {
	box := newMachine(t)
	m, r := networkManager(t, t.TempDir(), box, Options{})
	first := startNetwork(t, m, gpu("gpu1"))
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "another hive", func() bool { return len(r.ready) == 2 })
	ep, _ := m.Endpoint("gpu1")
	if ep.Adopted || ep.PID == first.PID || ep.ID != first.ID || box.uploads.Load() != 1 {
		t.Fatalf("%v then %v", first, ep)
	}
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
}

type refusal struct{}

func (refusal) Error() string   { return "user ops was refused by host gpu1 with key k" }
func (refusal) Permanent() bool { return true }

func TestFault15RefusalEndsTheAttempts(t *testing.T) {
	box := newMachine(t)
	box.refuse = refusal{}
	c := gpu("gpu1")
	c.KeepTrying = true
	m, r := networkManager(t, t.TempDir(), box, Options{})
	_, err := m.StartNetwork(t.Context(), c)
	var e *Error
	if !errors.As(err, &e) || !e.Permanent() || e.Step != StepConnect || !strings.Contains(err.Error(), "host gpu1") {
		t.Fatal(err)
	}
	// A hive that is up and then refused is not stormed either.
	box.refuse = nil
	first := startNetwork(t, m, c)
	box.refuse = refusal{}
	before := box.connects.Load()
	box.cut.Store(true)
	r.wait(t, "the end of the attempts", func() bool {
		for _, e := range r.events {
			if e.Step == StepRestart && e.State == Failed {
				return true
			}
		}
		return false
	})
	if n := box.connects.Load() - before; n != 1 {
		t.Fatalf("%d attempts", n)
	}
	box.cut.Store(false)
	box.refuse = nil
	if ep := startNetwork(t, m, c); !ep.Adopted || ep.PID != first.PID {
		t.Fatalf("%v", ep)
	}
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestKeepTrying(t *testing.T) {
	box := newMachine(t)
	box.cut.Store(true)
	c := gpu("gpu1")
	c.KeepTrying = true
	m, r := networkManager(t, t.TempDir(), box, Options{})
	if _, err := m.StartNetwork(t.Context(), c); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	r.wait(t, "a second attempt", func() bool { return box.connects.Load() > 1 })
	box.cut.Store(false)
	r.wait(t, "the hive", func() bool { return len(r.ready) == 1 })
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	n := box.connects.Load()
	if _, ok := m.Endpoint("gpu1"); ok || box.connects.Load() != n {
		t.Fatal("it is tried again after Stop")
	}
}

func TestNetworkFailures(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*testing.T, *machine)
		conf func(*NetworkConfig)
		step Step
		want string
	}{
		"wrong architecture": {func(_ *testing.T, m *machine) { m.uname = "Linux mips64" }, nil, StepPreflight, "mips64"},
		"no program for it":  {func(_ *testing.T, m *machine) { m.uname = "Darwin arm64" }, nil, StepBinary, "make bundle"},
		"does not run there": {func(_ *testing.T, m *machine) { m.broken = "#!/nonexistent/ld.so\n" }, nil, StepBinary, "noexec"},
		"dies at once": {func(_ *testing.T, m *machine) {
			m.broken = "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho the GPU is gone >&2; exit 1\n"
		}, nil, StepStart, "the GPU is gone"},
		"no shell": {func(_ *testing.T, m *machine) {}, func(c *NetworkConfig) { c.Dir = "/proc/nowhere" }, StepPreflight, "name another directory"},
		"bad dir":  {nil, func(c *NetworkConfig) { c.Dir = "a\nb" }, StepConnect, "directory"},
		"bad addr": {nil, func(c *NetworkConfig) { c.Addr = "x" }, StepConnect, "host:port"},
		"bad mac":  {nil, func(c *NetworkConfig) { c.MAC = "x" }, StepConnect, "hardware"},
		"no host":  {nil, func(c *NetworkConfig) { c.Target.Host = "" }, StepConnect, "host"},
	} {
		t.Run(name, func(t *testing.T) {
			box := newMachine(t)
			if c.set != nil {
				c.set(t, box)
			}
			conf := gpu("gpu1")
			if c.conf != nil {
				c.conf(&conf)
			}
			m, r := networkManager(t, t.TempDir(), box, Options{})
			_, err := m.StartNetwork(t.Context(), conf)
			var e *Error
			if !errors.As(err, &e) || e.Step != c.step || e.Remedy == "" || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v", err)
			}
			if c.set != nil {
				r.wait(t, "the failed step", func() bool {
					last := r.events[len(r.events)-1]
					return last.Step == c.step && last.State == Failed
				})
			}
		})
	}
}

func TestUpgradeInPlace(t *testing.T) {
	box := newMachine(t)
	m, _ := networkManager(t, t.TempDir(), box, Options{Version: "v1"})
	first := startNetwork(t, m, gpu("gpu1"))
	same, err := m.Upgrade(t.Context(), "gpu1", false)
	if err != nil || same.PID != first.PID {
		t.Fatal(same, err)
	}
	next, err := m.Upgrade(t.Context(), "gpu1", true)
	if err != nil || next.PID == first.PID || next.ID != first.ID {
		t.Fatal(next, err)
	}
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestWakeOnLAN(t *testing.T) {
	box := newMachine(t)
	box.cut.Store(true)
	var woken atomic.Value
	m, _ := networkManager(t, t.TempDir(), box, Options{Wake: func(_ context.Context, mac net.HardwareAddr) error {
		woken.Store(mac.String())
		box.cut.Store(false)
		return nil
	}})
	c := gpu("gpu1")
	c.MAC = "00:11:22:33:44:55"
	startNetwork(t, m, c)
	if woken.Load() != c.MAC {
		t.Fatal(woken.Load())
	}
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	mac, _ := net.ParseMAC(c.MAC)
	if p := magicPacket(mac); len(p) != 102 || p[5] != 0xff || p[6] != 0 || p[101] != 0x55 {
		t.Fatal(p)
	}
}

func TestStopDuringStart(t *testing.T) {
	box := newMachine(t)
	m, r := networkManager(t, t.TempDir(), box, Options{})
	started := make(chan error, 1)
	go func() { _, err := m.StartNetwork(t.Context(), gpu("gpu1")); started <- err }()
	r.wait(t, "the start", func() bool { return len(r.events) > 0 })
	if err := m.Stop(t.Context(), "gpu1", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	err := <-started
	if ep, ok := m.Endpoint("gpu1"); ok {
		t.Fatalf("it runs after Stop: %v (%v)", ep, err)
	}
}
