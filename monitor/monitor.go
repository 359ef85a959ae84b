package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// State is the health of a node.
type State string

// The states of a node. Unknown is before the first beat.
const (
	Unknown State = "unknown"
	Online  State = "online"
	Suspect State = "suspect"
	Offline State = "offline"
)

// The kinds of Alert.
const (
	AlertSelfSuspect   = "self_suspect"   // most of the fleet vanished at once
	AlertSelfRecovered = "self_recovered" // enough of it came back
	AlertPoolExhausted = "pool_exhausted" // a worker fails, but ejecting it would take too much of its pool
)

// Reporter is told what the monitor finds, from the monitor's own goroutine or from the caller of Beat
// and Result, in order, and never with a lock held. It must not block for long.
type Reporter interface {
	NodeState(node string, s State, reason string)
	WorkerEjected(id string, until time.Time)
	WorkerRestored(id string)
	Alert(kind, message string)
}

// Prober asks a node, or a worker, whether it lives. It is one attempt, bounded by ctx.
type Prober interface {
	Probe(ctx context.Context, node string) error
}

// Options tune a Monitor. The zero value is usable.
type Options struct {
	Logger *slog.Logger
	Now    func() time.Time // nil means time.Now; differences are taken between its values only

	Beat    time.Duration // how often a node is expected to beat; 0 means 5 s
	Suspect time.Duration // silence after which a node is suspect; 0 means 15 s
	Offline time.Duration // silence after which it is offline; 0 means 45 s
	// Grace is added to Offline until a node's first beat: after a restart of ours nobody is
	// declared dead before it had time to be heard. 0 means 15 s.
	Grace time.Duration
	// Recover is how many beats in a row bring a suspect or offline node back; 0 means 2.
	Recover int
	// MaxBeats is how many beats a second the fleet should cost at most; beyond it BeatInterval and all
	// the times above stretch together. 0 means 50.
	MaxBeats float64
	// Prober, when given, is asked about a node that is silent for two thirds of Suspect, and again every
	// Beat while it is; an answer counts as a beat. Each node has its own probe: one that hangs delays no other.
	Prober       Prober
	ProbeTimeout time.Duration // 0 means 5 s
	// Failover is called once when a node is offline and the cause is not likely to be our own network:
	// its running jobs may be taken elsewhere. Nil means nobody is told.
	Failover func(node string)

	Failures    int           // results in a row that eject a worker; 0 means 5
	Ejection    time.Duration // times the count of ejections; 0 means 30 s
	MaxEjection time.Duration // 0 means 10 minutes
	// WorkerProber, when given, is asked before an ejected worker is restored.
	WorkerProber Prober
}

func (o *Options) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	def(&o.Beat, 5*time.Second)
	def(&o.Suspect, 15*time.Second)
	def(&o.Offline, 3*o.Suspect)
	def(&o.Grace, 15*time.Second)
	def(&o.ProbeTimeout, 5*time.Second)
	def(&o.Ejection, 30*time.Second)
	def(&o.MaxEjection, 10*time.Minute)
	if o.Recover <= 0 {
		o.Recover = 2
	}
	if o.Failures <= 0 {
		o.Failures = 5
	}
	if o.MaxBeats <= 0 {
		o.MaxBeats = 50
	}
}

// Monitor judges nodes and workers. All methods are safe for concurrent use.
type Monitor struct {
	rep Reporter
	o   Options

	mu      sync.Mutex
	nodes   map[string]*node
	workers map[string]*worker
	pools   map[string]map[string]*worker
	crashes map[string]*crash
	self    bool // we suspect our own network
	news    []func()
	// delivering: a goroutine hands news to the reporter; others leave theirs to it, so that it arrives in order
	delivering bool
	probes     sync.WaitGroup
}

type node struct {
	state   State
	since   time.Time // of watching, or of the last beat
	beaten  bool      // it was heard of since it is watched
	beats   int       // in a row since it was suspect
	lost    time.Time // when it left Online
	pending bool      // offline, and its failover was held back
	probing bool
	probed  time.Time
	failure string // what the last probe said
}

// New returns a Monitor that tells rep what it finds. Run drives it.
func New(rep Reporter, o Options) *Monitor {
	o.defaults()
	return &Monitor{rep: rep, o: o, nodes: map[string]*node{}, workers: map[string]*worker{},
		pools: map[string]map[string]*worker{}, crashes: map[string]*crash{}}
}

// Watch starts to judge a node. It is idempotent: a node that is watched keeps its state.
func (m *Monitor) Watch(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.nodes[name]; !ok {
		m.nodes[name] = &node{state: Unknown, since: m.o.Now()}
	}
}

// Restarted says that a node was started anew on purpose: it is judged as one that was never heard of,
// and its first beat brings it online.
func (m *Monitor) Restarted(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes[name] = &node{state: Unknown, since: m.o.Now()}
}

// Forget stops judging a node. It is idempotent.
func (m *Monitor) Forget(name string) {
	m.mu.Lock()
	delete(m.nodes, name)
	m.checkSelfLocked(m.o.Now())
	m.mu.Unlock()
	m.flush()
}

// Beat records a sign of life of a node. One that is not watched is ignored.
func (m *Monitor) Beat(name string) {
	m.mu.Lock()
	m.beatLocked(name, "heard of")
	m.mu.Unlock()
	m.flush()
}

func (m *Monitor) beatLocked(name, reason string) {
	n, ok := m.nodes[name]
	if !ok {
		return
	}
	now := m.o.Now()
	if now.Sub(n.since) > m.timesLocked().suspect {
		n.beats = 0 // beats in a row: a gap starts again
	}
	n.since, n.beaten, n.failure = now, true, ""
	switch n.state {
	case Online:
	case Unknown:
		m.setLocked(name, n, Online, reason)
	default:
		if n.beats++; n.beats >= m.o.Recover {
			m.setLocked(name, n, Online, fmt.Sprintf("%s %d times in a row", reason, n.beats))
		}
	}
	m.checkSelfLocked(now)
}

func (m *Monitor) setLocked(name string, n *node, s State, reason string) {
	if n.state == Online || n.state == Unknown {
		n.lost = m.o.Now()
	}
	n.state, n.beats = s, 0
	if s == Online {
		n.pending = false
	}
	m.news = append(m.news, func() { m.rep.NodeState(name, s, reason) })
}

// State is what the monitor thinks of a node; Unknown for one that is not watched.
func (m *Monitor) State(name string) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.nodes[name]; ok {
		return n.state
	}
	return Unknown
}

// SelfSuspect says that most of the fleet vanished at once, so that our own network is the likeliest
// culprit. While it is true nothing should be evicted, restarted or rescued.
func (m *Monitor) SelfSuspect() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self
}

// BeatInterval is how often each node should beat, given how many there are: Options.Beat, or longer
// so that the fleet stays under Options.MaxBeats.
func (m *Monitor) BeatInterval() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.timesLocked().beat
}

type times struct{ beat, suspect, offline, grace time.Duration }

// timesLocked are the times of the options, stretched with the size of the fleet.
func (m *Monitor) timesLocked() times {
	k := max(1, float64(len(m.nodes))/(m.o.MaxBeats*m.o.Beat.Seconds()))
	by := func(d time.Duration) time.Duration { return time.Duration(k * float64(d)) }
	return times{by(m.o.Beat), by(m.o.Suspect), by(m.o.Offline), by(m.o.Grace)}
}

// Run judges until ctx ends. It leaves no goroutine behind.
func (m *Monitor) Run(ctx context.Context) error {
	ticker := time.NewTicker(max(time.Millisecond, m.o.Suspect/30))
	defer ticker.Stop()
	defer m.probes.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			m.tick(ctx)
		}
	}
}

func (m *Monitor) tick(ctx context.Context) {
	m.mu.Lock()
	now, t := m.o.Now(), m.timesLocked()
	for name, n := range m.nodes {
		silence, offline := now.Sub(n.since), t.offline
		if !n.beaten {
			offline += t.grace
		}
		switch {
		case silence >= offline && n.state != Offline:
			m.setLocked(name, n, Offline, n.why("silent for", silence))
			n.pending = true
		case silence >= t.suspect && (n.state == Online || n.state == Unknown):
			m.setLocked(name, n, Suspect, n.why("silent for", silence))
		}
		if m.o.Prober != nil && silence >= t.suspect*2/3 && !n.probing && now.Sub(n.probed) >= t.beat {
			n.probing, n.probed = true, now
			m.probes.Go(func() { m.probe(ctx, name, n) })
		}
	}
	m.checkSelfLocked(now)
	m.failoverLocked()
	m.tickWorkersLocked(ctx, now)
	m.mu.Unlock()
	m.flush()
}

func (n *node) why(what string, d time.Duration) string {
	reason := fmt.Sprintf("%s %s", what, d.Round(time.Second))
	if n.failure != "" {
		reason += "; probe: " + n.failure
	}
	return reason
}

// probe asks one node; an answer counts as a beat.
func (m *Monitor) probe(ctx context.Context, name string, n *node) {
	bounded, cancel := context.WithTimeout(ctx, m.o.ProbeTimeout)
	defer cancel()
	err := m.o.Prober.Probe(bounded, name)
	m.mu.Lock()
	n.probing = false
	switch {
	case m.nodes[name] != n: // forgotten, or started anew
	case err == nil:
		m.beatLocked(name, "answered a probe")
	case ctx.Err() == nil:
		n.failure = err.Error()
	}
	m.mu.Unlock()
	m.flush()
}

// checkSelfLocked decides whether the fault is likely to be ours: at least two nodes, and at least half
// of those that were ever heard of, are gone, the last ones within one Offline of each other.
func (m *Monitor) checkSelfLocked(now time.Time) {
	total, gone, recent := 0, 0, 0
	window := m.timesLocked().offline
	for _, n := range m.nodes {
		if !n.beaten {
			continue
		}
		total++
		if n.state == Suspect || n.state == Offline {
			gone++
			if now.Sub(n.lost) < window {
				recent++
			}
		}
	}
	most := func(n int) bool { return n >= 2 && 2*n >= total }
	switch {
	case !m.self && most(recent):
		m.self = true
		message := fmt.Sprintf("%d of %d hives vanished at once: this machine's own network is the likeliest cause; nothing is evicted, restarted or rescued until most are back", gone, total)
		m.news = append(m.news, func() { m.rep.Alert(AlertSelfSuspect, message) })
	case m.self && !most(gone):
		m.self = false
		message := fmt.Sprintf("%d of %d hives are reachable again", total-gone, total)
		m.news = append(m.news, func() { m.rep.Alert(AlertSelfRecovered, message) })
	}
}

// failoverLocked hands over the offline nodes whose turn was held back, unless we suspect ourselves.
func (m *Monitor) failoverLocked() {
	if m.self {
		return
	}
	for name, n := range m.nodes {
		if n.pending && n.state == Offline {
			n.pending = false
			if m.o.Failover != nil {
				m.news = append(m.news, func() { m.o.Failover(name) })
			}
		}
	}
}

// flush hands the news to the reporter, in order and without the lock. A reporter may call the monitor:
// what that causes is handed over by the call that is under way.
func (m *Monitor) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.delivering {
		return
	}
	m.delivering = true
	for len(m.news) > 0 {
		news := m.news
		m.news = nil
		m.mu.Unlock()
		for _, f := range news {
			f()
		}
		m.mu.Lock()
	}
	m.delivering = false
}
