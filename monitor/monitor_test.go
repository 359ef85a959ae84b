package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/monitor"
)

// log records what the monitor reports.
type log struct {
	mu      sync.Mutex
	lines   []string
	ejected map[string]time.Time
	onNode  func(node string, s monitor.State)
}

func newLog() *log { return &log{ejected: map[string]time.Time{}} }

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.lines
	l.lines = nil
	return out
}

func (l *log) NodeState(node string, s monitor.State, _ string) {
	l.add("%s %s", node, s)
	if l.onNode != nil {
		l.onNode(node, s)
	}
}
func (l *log) WorkerEjected(id string, until time.Time) {
	l.mu.Lock()
	l.ejected[id] = until
	l.mu.Unlock()
	l.add("ejected %s", id)
}
func (l *log) WorkerRestored(id string) {
	l.mu.Lock()
	delete(l.ejected, id)
	l.mu.Unlock()
	l.add("restored %s", id)
}
func (l *log) Alert(kind, _ string) { l.add("alert %s", kind) }

func expect(t *testing.T, l *log, want ...string) {
	t.Helper()
	synctest.Wait()
	got := l.take()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("reported %q, want %q", got, want)
	}
}

// sim runs a monitor under fake time.
func sim(t *testing.T, o monitor.Options, f func(t *testing.T, m *monitor.Monitor, l *log)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLog()
		if o.Failover == nil {
			o.Failover = func(node string) { l.add("failover %s", node) }
		}
		m := monitor.New(l, o)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		f(t, m, l)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func wait(d time.Duration) { <-time.After(d); synctest.Wait() }

func beat(m *monitor.Monitor, d time.Duration, nodes ...string) {
	for range int(d / time.Second) {
		for _, n := range nodes {
			m.Beat(n)
		}
		wait(time.Second)
	}
}

func TestStatesAndHysteresis(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		m.Watch("a")
		m.Watch("a")
		if m.State("a") != monitor.Unknown {
			t.Fatal(m.State("a"))
		}
		m.Beat("a")
		m.Beat("stranger")
		expect(t, l, "a online")
		wait(14 * time.Second)
		expect(t, l)
		wait(2 * time.Second)
		expect(t, l, "a suspect")
		wait(28 * time.Second)
		expect(t, l)
		wait(2 * time.Second)
		expect(t, l, "a offline", "failover a")
		m.Beat("a") // one beat is no recovery
		expect(t, l)
		wait(5 * time.Second)
		m.Beat("a")
		expect(t, l, "a online")
		wait(16 * time.Second)
		expect(t, l, "a suspect")
		m.Beat("a")
		wait(20 * time.Second) // silent again: the next beat is the first of a row
		m.Beat("a")
		expect(t, l)
		m.Beat("a")
		expect(t, l, "a online")
		m.Restarted("a")
		m.Beat("a")
		expect(t, l, "a online")
		m.Forget("a")
		wait(2 * time.Minute)
		expect(t, l)
	})
}

func TestFault09CutHealsInTime(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		m.Watch("a")
		m.Beat("a")
		expect(t, l, "a online")
		for range 5 {
			wait(13 * time.Second)
			beat(m, 5*time.Second, "a")
		}
		expect(t, l)
	})
}

func TestFault02GraceAfterRestart(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		m.Watch("a")
		wait(16 * time.Second)
		expect(t, l, "a suspect")
		wait(42 * time.Second) // 58 s: beyond Offline, within Offline + Grace
		expect(t, l)
		wait(3 * time.Second)
		expect(t, l, "a offline", "failover a")
	})
}

func TestFault10SelfSuspicion(t *testing.T) {
	for _, tc := range []struct {
		fleet, lost int
		self        bool
	}{{1, 1, false}, {2, 1, false}, {2, 2, true}, {3, 1, false}, {3, 2, true}, {4, 2, true}, {5, 2, false}, {10, 10, true}} {
		t.Run(fmt.Sprintf("%d of %d", tc.lost, tc.fleet), func(t *testing.T) {
			sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
				var all []string
				for i := range tc.fleet {
					n := fmt.Sprintf("n%02d", i)
					all = append(all, n)
					m.Watch(n)
					m.Beat(n)
				}
				lost, kept := all[:tc.lost], all[tc.lost:]
				var online, suspect, offline, failover []string
				for _, n := range all {
					online = append(online, n+" online")
				}
				for _, n := range lost {
					suspect, offline, failover = append(suspect, n+" suspect"), append(offline, n+" offline"), append(failover, "failover "+n)
				}
				expect(t, l, online...)
				beat(m, 20*time.Second, kept...)
				if tc.self {
					suspect = append(suspect, "alert "+monitor.AlertSelfSuspect)
				}
				expect(t, l, suspect...)
				if m.SelfSuspect() != tc.self {
					t.Fatalf("self-suspicion %v", m.SelfSuspect())
				}
				beat(m, 40*time.Second, kept...)
				if !tc.self {
					expect(t, l, append(offline, failover...)...)
					return
				}
				expect(t, l, offline...) // the truth is shown, nothing is rescued
				beat(m, 3*time.Second, append(kept, lost[1:]...)...)
				var back []string
				for _, n := range lost[1:] {
					back = append(back, n+" online")
				}
				got := l.take()
				if m.SelfSuspect() && tc.fleet > 2 {
					t.Fatalf("still suspicious when most are back: %v", got)
				}
				for _, b := range back {
					if !slices.Contains(got, b) {
						t.Fatalf("%q is missing in %q", b, got)
					}
				}
				wait(time.Second)
				got = append(got, l.take()...)
				if !slices.Contains(got, "failover "+lost[0]) || !slices.Contains(got, "alert "+monitor.AlertSelfRecovered) {
					t.Fatalf("the one that stayed away must be handed over then: %q", got)
				}
			})
		})
	}
}

// TestSlowLosses: losses far apart are not our network.
func TestSlowLosses(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		for _, n := range []string{"a", "b", "c"} {
			m.Watch(n)
			m.Beat(n)
		}
		beat(m, 2*time.Minute, "b", "c")
		l.take()
		beat(m, 2*time.Minute, "c")
		if got := l.take(); !slices.Contains(got, "failover b") || m.SelfSuspect() {
			t.Fatalf("%q", got)
		}
	})
}

type prober struct {
	mu    sync.Mutex
	err   map[string]error
	hang  map[string]bool
	count map[string]int
}

func (p *prober) Probe(ctx context.Context, node string) error {
	p.mu.Lock()
	p.count[node]++
	hang, err := p.hang[node], p.err[node]
	p.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (p *prober) set(node string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err[node] = err
}

func TestProbes(t *testing.T) {
	p := &prober{err: map[string]error{}, hang: map[string]bool{"hung": true}, count: map[string]int{}}
	sim(t, monitor.Options{Prober: p}, func(t *testing.T, m *monitor.Monitor, l *log) {
		p.set("dead", errors.New("connection refused"))
		for _, n := range []string{"alive", "dead", "hung", "x1", "x2"} {
			m.Watch(n)
			m.Beat(n)
		}
		l.take()
		beat(m, 60*time.Second, "x1", "x2")
		// "alive" sends nothing but answers: online all along, though the others hang and die beside it
		got := l.take()
		for _, want := range []string{"dead suspect", "hung suspect", "dead offline", "hung offline"} {
			if !slices.Contains(got, want) {
				t.Fatalf("%q is missing in %q", want, got)
			}
		}
		if m.State("alive") != monitor.Online || p.count["alive"] < 4 || p.count["alive"] > 12 || p.count["x1"] != 0 {
			t.Fatalf("%s, probes %v", m.State("alive"), p.count)
		}
		p.set("dead", nil)
		beat(m, 15*time.Second, "x1", "x2")
		if m.State("dead") != monitor.Online {
			t.Fatal("answers must bring a node back")
		}
	})
}

func TestBeatsStretch(t *testing.T) {
	l := newLog()
	m := monitor.New(l, monitor.Options{})
	for i := range 1000 {
		m.Watch(fmt.Sprint(i))
	}
	if got := m.BeatInterval(); got != 20*time.Second {
		t.Fatalf("1,000 nodes at 50 beats a second: every %v", got)
	}
	small := monitor.New(l, monitor.Options{})
	small.Watch("a")
	if got := small.BeatInterval(); got != 5*time.Second {
		t.Fatal(got)
	}
}

func fail(m *monitor.Monitor, id, pool string, n int) {
	for range n {
		m.Result(id, pool, false)
	}
}

func TestFault07Ejection(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		m.Pool("p", []string{"w1", "w2", "w3", "w4"})
		fail(m, "w1", "p", 4)
		m.Result("w1", "p", true)
		fail(m, "w1", "p", 4)
		expect(t, l)
		m.Result("w1", "p", false)
		expect(t, l, "ejected w1")
		if until, out := m.Ejected("w1"); !out || !until.Equal(time.Now().Add(30*time.Second)) {
			t.Fatalf("%v %v", until, out)
		}
		fail(m, "w2", "p", 5)
		expect(t, l, "ejected w2")
		fail(m, "w3", "p", 50) // half is out
		expect(t, l, "alert "+monitor.AlertPoolExhausted)
		wait(31 * time.Second)
		expect(t, l, "restored w1", "restored w2")
		m.Result("w1", "p", false) // on trial: one is enough, and it lasts longer
		expect(t, l, "ejected w1")
		if until, _ := m.Ejected("w1"); time.Until(until) != 60*time.Second {
			t.Fatal(time.Until(until))
		}
		m.Result("w2", "p", true)
		fail(m, "w2", "p", 4)
		expect(t, l)
		m.Pool("p", []string{"w1"})
		fail(m, "w2", "other", 5) // the only one of its pool
		expect(t, l, "alert "+monitor.AlertPoolExhausted)
	})
}

func TestFault07LastWorkerStays(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		m.Pool("p", []string{"w1"})
		fail(m, "w1", "p", 100)
		expect(t, l, "alert "+monitor.AlertPoolExhausted)
		m.Pool("p", []string{"w1", "w2"})
		fail(m, "w1", "p", 1)
		expect(t, l, "ejected w1")
		fail(m, "w2", "p", 100)
		expect(t, l, "alert "+monitor.AlertPoolExhausted)
	})
}

func TestWorkerProbe(t *testing.T) {
	p := &prober{err: map[string]error{"w1": errors.New("still broken")}, hang: map[string]bool{}, count: map[string]int{}}
	sim(t, monitor.Options{WorkerProber: p}, func(t *testing.T, m *monitor.Monitor, l *log) {
		m.Pool("p", []string{"w1", "w2"})
		fail(m, "w1", "p", 5)
		expect(t, l, "ejected w1")
		wait(31 * time.Second)
		expect(t, l, "ejected w1") // no client had to find out
		p.set("w1", nil)
		wait(61 * time.Second)
		expect(t, l, "restored w1")
	})
}

// TestEjectionProperty: whatever results come, never more than half of a pool is out, nor the last one.
func TestEjectionProperty(t *testing.T) {
	for seed := range uint64(30) {
		sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
			r := rand.New(rand.NewPCG(seed, 7))
			size := 1 + r.IntN(9)
			var ids []string
			for i := range size {
				ids = append(ids, fmt.Sprint("w", i))
			}
			m.Pool("p", ids)
			for range 400 {
				m.Result(ids[r.IntN(size)], "p", r.IntN(4) == 0)
				if r.IntN(20) == 0 {
					wait(time.Duration(r.IntN(40)) * time.Second)
				}
				out := 0
				for _, id := range ids {
					if _, ejected := m.Ejected(id); ejected {
						out++
					}
				}
				if 2*out > size || out == size {
					t.Fatalf("seed %d: %d of %d are out", seed, out, size)
				}
			}
		})
	}
}

func TestRestartBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := monitor.New(newLog(), monitor.Options{})
		want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute}
		for i, w := range want {
			if got := m.Exit("a", "llama"); got != w {
				t.Fatalf("crash %d: wait %v, want %v", i+1, got, w)
			}
			if at, ok := m.MayStart("a", "llama"); ok != (w == 0) || !ok && time.Until(at) != w {
				t.Fatalf("crash %d: may start %v %v", i+1, at, ok)
			}
			<-time.After(w)
			if _, ok := m.MayStart("a", "llama"); !ok {
				t.Fatal("the wait is over")
			}
		}
		if m.Exit("b", "llama") != 0 || m.Exit("a", "other") != 0 {
			t.Fatal("another hive or model has its own count")
		}
		<-time.After(11 * time.Minute)
		if m.Exit("a", "llama") != 0 {
			t.Fatal("a worker that lived long starts with a clean slate")
		}
	})
}

// TestReporterMayCallBack: a reporter that asks the monitor must not deadlock.
func TestReporterMayCallBack(t *testing.T) {
	sim(t, monitor.Options{}, func(t *testing.T, m *monitor.Monitor, l *log) {
		l.onNode = func(node string, s monitor.State) {
			m.State(node)
			m.Watch("b")
			m.Beat("b")
		}
		m.Watch("a")
		m.Beat("a")
		expect(t, l, "a online", "b online")
	})
}

func TestFault14ClockSteps(t *testing.T) {
	// the clock of the options has no monotonic reading here: the worst that a caller can inject
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLog()
	m := monitor.New(l, monitor.Options{Now: func() time.Time { return now }})
	m.Watch("a")
	m.Beat("a")
	now = now.Add(-24 * time.Hour)
	m.Beat("a")
	if m.State("a") != monitor.Online {
		t.Fatal("a step back took a node away")
	}
}

func TestFault11OneHungNodeDelaysNoOther(t *testing.T) {
	p := &prober{err: map[string]error{}, hang: map[string]bool{}, count: map[string]int{}}
	sim(t, monitor.Options{Prober: p, ProbeTimeout: time.Minute}, func(t *testing.T, m *monitor.Monitor, l *log) {
		p.set("alive", nil)
		for i := range 20 {
			n := fmt.Sprint("hung", i)
			p.mu.Lock()
			p.hang[n] = true
			p.mu.Unlock()
			m.Watch(n)
			m.Beat(n)
		}
		m.Watch("alive")
		m.Beat("alive")
		wait(40 * time.Second)
		if m.State("alive") != monitor.Online || m.State("hung3") != monitor.Suspect {
			t.Fatalf("%s %s", m.State("alive"), m.State("hung3"))
		}
	})
}
