package hivelifecycle

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// recorder is a Registrar and an event sink that tests can wait on.
type recorder struct {
	mu     sync.Mutex
	ready  []Endpoint
	status []string
	events []Event
	wake   chan struct{}
}

func newRecorder() *recorder { return &recorder{wake: make(chan struct{}, 1)} }

func (r *recorder) HiveStatus(_, status, _ string) {
	r.note(func() { r.status = append(r.status, status) })
}
func (r *recorder) HiveReady(_ string, ep Endpoint) {
	r.note(func() { r.ready = append(r.ready, ep) })
}
func (r *recorder) event(e Event) { r.note(func() { r.events = append(r.events, e) }) }

func (r *recorder) note(f func()) {
	r.mu.Lock()
	f()
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// wait blocks until cond, called with the lock held, is true.
func (r *recorder) wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		ok := cond()
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-r.wake:
		case <-limit:
			t.Fatalf("waited in vain for %s; status %v, events %+v", what, r.status, r.events)
		}
	}
}

func self(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newTestManager(t *testing.T, dir string, o Options) (*Manager, *recorder) {
	t.Helper()
	r := newRecorder()
	o.DataDir, o.Events = dir, r.event
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = 5 * time.Second
	}
	m, err := New(r, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, r
}

func startLocal(t *testing.T, m *Manager, c LocalConfig) Endpoint {
	t.Helper()
	c.Binary = self(t)
	if c.Name == "" {
		c.Name = "local"
	}
	ep, err := m.StartLocal(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return ep
}

func TestStartLocal(t *testing.T) {
	dir := t.TempDir()
	m, r := newTestManager(t, dir, Options{})
	ep := startLocal(t, m, LocalConfig{})
	if ep.Adopted || ep.Version != "v1" || ep.Token == "" || ep.Epoch == 0 {
		t.Fatalf("endpoint %v", ep)
	}
	if pgid, err := syscall.Getpgid(ep.PID); err != nil || pgid != ep.PID {
		t.Fatalf("process group %d of %d: %v", pgid, ep.PID, err)
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, "token": 0o600, "id": 0o600} {
		info, err := os.Stat(filepath.Join(dir, "hives", "local", name))
		if err != nil || info.Mode().Perm() != mode {
			t.Fatalf("%q: %v %v", name, info.Mode(), err)
		}
	}
	if args, _ := procArgs(ep.PID); strings.Contains(strings.Join(args, " "), ep.Token) {
		t.Fatal("the token is on the command line")
	}
	if strings.Contains(ep.String(), ep.Token) {
		t.Fatal("String shows the token")
	}
	again, err := m.EnsureRunning(t.Context(), "local")
	if err != nil || again.PID != ep.PID {
		t.Fatalf("%v %v", again, err)
	}
	if err := m.Stop(t.Context(), "local", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, alive := procStart(ep.PID); alive {
		t.Fatal("it still runs")
	}
	if err := m.Stop(t.Context(), "local", StopOptions{}); err != nil {
		t.Fatal("second stop:", err)
	}
	if _, ok := m.Endpoint("local"); ok {
		t.Fatal("endpoint of a stopped hive")
	}
	r.wait(t, "the statuses", func() bool { return strings.Join(r.status, " ") == "starting online offline offline" })
}

func TestConcurrentStartsAreOne(t *testing.T) {
	m, r := newTestManager(t, t.TempDir(), Options{})
	var wg sync.WaitGroup
	pids := make([]int, 20)
	for i := range pids {
		wg.Go(func() { pids[i] = startLocal(t, m, LocalConfig{}).PID })
	}
	wg.Wait()
	for _, p := range pids {
		if p != pids[0] {
			t.Fatalf("several hives: %v", pids)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ready) != 1 {
		t.Fatalf("%d registrations", len(r.ready))
	}
}

func TestFault02Adoption(t *testing.T) {
	dir := t.TempDir()
	m1, _ := newTestManager(t, dir, Options{LeaveRunning: true})
	first := startLocal(t, m1, LocalConfig{})
	if err := m1.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m2, r := newTestManager(t, dir, Options{Version: "v2"})
	second := startLocal(t, m2, LocalConfig{})
	if !second.Adopted || second.PID != first.PID || second.Epoch != first.Epoch {
		t.Fatalf("not adopted: %v then %v", first, second)
	}
	r.wait(t, "a word about the version", func() bool {
		for _, e := range r.events {
			if strings.Contains(e.Message, "runs version v1, this queen is v2") {
				return true
			}
		}
		return false
	})
	if err := m2.Stop(t.Context(), "local", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, alive := procStart(first.PID); alive {
		t.Fatal("an adopted hive was not stopped")
	}
}

// TestFault02KilledQueen: a queen that dies by kill -9 takes no hive with it, and the next one adopts it.
func TestFault02KilledQueen(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		queen := exec.Command(self(t), "--queen", dir)
		out, err := queen.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := queen.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if err := queen.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = queen.Wait()
		m, _ := newTestManager(t, dir, Options{LeaveRunning: true})
		ep := startLocal(t, m, LocalConfig{})
		if !ep.Adopted || strconv.Itoa(ep.PID) != strings.TrimSpace(line) {
			t.Fatalf("%v is not the killed queen's hive %s", ep, line)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m, _ := newTestManager(t, dir, Options{})
	startLocal(t, m, LocalConfig{})
}

func TestFault03HiveCrashRestarts(t *testing.T) {
	m, r := newTestManager(t, t.TempDir(), Options{Backoff: func(n int) time.Duration { return time.Duration(n) * 10 * time.Millisecond }})
	ep := startLocal(t, m, LocalConfig{})
	for range 3 {
		if err := syscall.Kill(ep.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var next Endpoint
		r.wait(t, "another hive", func() bool { next = r.ready[len(r.ready)-1]; return next.PID != ep.PID })
		if next.ID != ep.ID || next.Token != ep.Token || next.Epoch <= ep.Epoch {
			t.Fatalf("%v then %v", ep, next)
		}
		ep = next
	}
}

func TestFailures(t *testing.T) {
	ctx := t.Context()
	t.Run("dies", func(t *testing.T) {
		m, _ := newTestManager(t, t.TempDir(), Options{})
		_, err := m.StartLocal(ctx, LocalConfig{Name: "a", Binary: self(t), Env: []string{"FAKE_HIVE=die"}})
		var e *Error
		if !errors.As(err, &e) || e.Code() != "HIVE_FAILED" || !strings.Contains(err.Error(), "on fire") || e.Remedy == "" {
			t.Fatal(err)
		}
	})
	t.Run("mute", func(t *testing.T) {
		m, _ := newTestManager(t, t.TempDir(), Options{ReadyTimeout: 300 * time.Millisecond})
		_, err := m.StartLocal(ctx, LocalConfig{Name: "a", Binary: self(t), Env: []string{"FAKE_HIVE=mute"}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
	t.Run("no binary", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		m, _ := newTestManager(t, t.TempDir(), Options{})
		_, err := m.StartLocal(ctx, LocalConfig{Name: "a"})
		if !errors.Is(err, ErrBinary) || !permanent(err) {
			t.Fatal(err)
		}
	})
	t.Run("names", func(t *testing.T) {
		m, _ := newTestManager(t, t.TempDir(), Options{})
		for _, n := range []string{"", "..", "-a", "a/b", "a b", "$(x)", strings.Repeat("a", 64), "a\n"} {
			if _, err := m.StartLocal(ctx, LocalConfig{Name: n}); !errors.Is(err, ErrName) {
				t.Errorf("%q: %v", n, err)
			}
		}
	})
	t.Run("open token", func(t *testing.T) {
		dir := t.TempDir()
		m, _ := newTestManager(t, dir, Options{})
		if _, err := loadIdentity(m.hiveDir("a")); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(m.hiveDir("a"), "token"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := m.StartLocal(ctx, LocalConfig{Name: "a", Binary: self(t)}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Fatal(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		m, _ := newTestManager(t, t.TempDir(), Options{})
		if err := m.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := m.StartLocal(ctx, LocalConfig{Name: "a"}); !errors.Is(err, ErrClosed) {
			t.Fatal(err)
		}
	})
}

func TestStopStubborn(t *testing.T) {
	m, _ := newTestManager(t, t.TempDir(), Options{})
	ep := startLocal(t, m, LocalConfig{Env: []string{"FAKE_HIVE=stubborn"}})
	o := StopOptions{Grace: 100 * time.Millisecond, Term: 100 * time.Millisecond}
	if err := m.Stop(t.Context(), "local", o); err != nil {
		t.Fatal(err)
	}
	if _, alive := procStart(ep.PID); alive {
		t.Fatal("it still runs")
	}
}

func TestDrainWaitsForWorkers(t *testing.T) {
	dir := t.TempDir()
	m, r := newTestManager(t, dir, Options{})
	startLocal(t, m, LocalConfig{})
	if err := os.WriteFile(filepath.Join(dir, "hives/local/busy"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context(), "local", StopOptions{Drain: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	r.wait(t, "the end of the drain", func() bool {
		for _, e := range r.events {
			if e.Step == StepDrain && e.State == Done {
				return true
			}
		}
		return false
	})
}

// TestRecycledPID: hive.json names a pid that now belongs to somebody else, at an address where a stranger listens.
func TestRecycledPID(t *testing.T) {
	dir := t.TempDir()
	m, _ := newTestManager(t, dir, Options{})
	if _, err := loadIdentity(m.hiveDir("local")); err != nil {
		t.Fatal(err)
	}
	id, _ := loadIdentity(m.hiveDir("local"))
	st := `{"pid":` + strconv.Itoa(os.Getpid()) + `,"address":"127.0.0.1:1","id":"` + id.ID + `","version":"v0"}`
	if err := os.WriteFile(filepath.Join(m.hiveDir("local"), "hive.json"), []byte(st), 0o600); err != nil {
		t.Fatal(err)
	}
	ep := startLocal(t, m, LocalConfig{})
	if ep.Adopted || ep.PID == os.Getpid() {
		t.Fatalf("%v", ep)
	}
}

// TestHungHiveIsReplaced: the process is ours and alive, but does not answer.
func TestHungHiveIsReplaced(t *testing.T) {
	dir := t.TempDir()
	m1, _ := newTestManager(t, dir, Options{LeaveRunning: true})
	first := startLocal(t, m1, LocalConfig{})
	if err := m1.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	hang := filepath.Join(dir, "hives/local/hang")
	if err := os.WriteFile(hang, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m2, r := newTestManager(t, dir, Options{ProbeTimeout: 300 * time.Millisecond})
	go func() { // the new one is healthy
		for {
			r.mu.Lock()
			for _, e := range r.events {
				if e.Step == StepStart {
					r.mu.Unlock()
					_ = os.Remove(hang)
					return
				}
			}
			r.mu.Unlock()
			<-r.wake
		}
	}()
	ep := startLocal(t, m2, LocalConfig{})
	if ep.Adopted || ep.PID == first.PID {
		t.Fatalf("%v", ep)
	}
	if _, alive := procStart(first.PID); alive {
		t.Fatal("the hung hive still runs")
	}
}

func TestCallerLeaves(t *testing.T) {
	m, _ := newTestManager(t, t.TempDir(), Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := m.StartLocal(ctx, LocalConfig{Name: "local", Binary: self(t), Env: []string{"FAKE_HIVE=mute"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if ep := startLocal(t, m, LocalConfig{}); ep.PID == 0 {
		t.Fatal("no hive after an abandoned start")
	}
}
