package scriptsched

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/scheduler"
)

// Golden is a decision that every policy must give before it is taken: a job, a fleet, what is wanted.
type Golden struct {
	Name     string             `json:"name"`
	Job      scheduler.Job      `json:"job"`
	Snapshot scheduler.Snapshot `json:"snapshot"`
	Now      time.Time          `json:"now"`
	Action   string             `json:"action"`           // route, provision, queue, reject
	Worker   string             `json:"worker,omitempty"` // "" = any
	Node     string             `json:"node,omitempty"`
}

// Check says what a policy decides differently; a failure of the policy is a difference too.
func (g Golden) Check(p scheduler.Policy) error {
	var failed error
	s := scheduler.New(scheduler.SourceFunc(func() *scheduler.Snapshot { return &g.Snapshot }), scheduler.Options{Policy: p,
		Now: func() time.Time { return g.Now }, Hooks: scheduler.Hooks{PolicyFailed: func(_ string, err error) { failed = err }}})
	d := s.Decide(&g.Job)
	switch {
	case failed != nil:
		return fmt.Errorf("golden job %q: %w", g.Name, failed)
	case d.Action.String() != g.Action, g.Worker != "" && d.Worker != g.Worker, g.Node != "" && d.Node != g.Node:
		return fmt.Errorf("golden job %q: decided %s %s%s, want %s %s%s", g.Name, d.Action, d.Worker, at(d.Node), g.Action, g.Worker, at(g.Node))
	}
	return nil
}

func at(node string) string {
	if node == "" {
		return ""
	}
	return " on " + node
}

// Version is one policy that was in force.
type Version struct {
	Name, Source, Hash string
	At                 time.Time
}

// Store keeps policy versions; compose may put a database behind it. Latest of nothing is a zero Version.
type Store interface {
	Save(ctx context.Context, v Version) error
	Latest(ctx context.Context) (Version, error)
	List(ctx context.Context, limit int) ([]Version, error)
}

// Options tune a Manager.
type Options struct {
	Limits    Limits
	Golden    []Golden      // checked before a policy is taken; a file's own FILE.golden.json is added
	Immutable bool          // platform mode: the first policy stays
	Interval  time.Duration // between looks at the file; 0 = 1 s
	Store     Store         // nil = memory
	Logger    *slog.Logger  // nil = discard
	Now       func() time.Time
	OnChange  func(v Version, err error) // after each attempt to change the policy
}

// Manager keeps a scheduler's policy: it compiles, checks golden jobs, sets, and remembers versions. When
// anything fails the old policy stays.
type Manager struct {
	set  func(scheduler.Policy) error
	o    Options
	mu   sync.Mutex
	path string
	seen string // stamp of the file that was last tried
	cur  Version
	pol  *Policy
	err  error
}

// ErrImmutable means that platform mode refuses a change.
var ErrImmutable = errors.New("scriptsched: the policy is embedded (platform mode); it changes with a new release only")

// NewManager makes a Manager that sets policies with set (scheduler.SetPolicy).
func NewManager(set func(scheduler.Policy) error, o Options) *Manager {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Store == nil {
		o.Store = &memory{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Manager{set: set, o: o}
}

// Apply takes a policy's source into force: PUT /v2/scheduler/policy, or the embedded one at start.
func (m *Manager) Apply(ctx context.Context, name string, src []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.apply(ctx, name, src, m.o.Golden)
}

func (m *Manager) apply(ctx context.Context, name string, src []byte, golden []Golden) error {
	err := m.try(ctx, name, src, golden)
	m.err = err
	if err != nil {
		m.o.Logger.WarnContext(ctx, "policy refused, the old one stays", "policy", name, "err", err)
	} else {
		m.o.Logger.InfoContext(ctx, "policy in force", "policy", name, "hash", m.cur.Hash)
	}
	if m.o.OnChange != nil {
		m.o.OnChange(m.cur, err)
	}
	return err
}

func (m *Manager) try(ctx context.Context, name string, src []byte, golden []Golden) error {
	if m.o.Immutable && m.pol != nil {
		return ErrImmutable
	}
	p, err := Compile(name, src, m.o.Limits)
	if err != nil {
		return err
	}
	for _, g := range golden {
		if err := g.Check(p); err != nil {
			return err
		}
	}
	v := Version{Name: name, Source: string(src), Hash: p.Info().Hash, At: m.o.Now()}
	if err := m.o.Store.Save(ctx, v); err != nil {
		return fmt.Errorf("scriptsched: save the policy: %w", err)
	}
	if err := m.set(p); err != nil {
		return err
	}
	m.cur, m.pol = v, p
	return nil
}

// Check compiles and tries the golden jobs without taking the policy.
func (m *Manager) Check(name string, src []byte) (*Policy, error) {
	p, err := Compile(name, src, m.o.Limits)
	if err != nil {
		return nil, err
	}
	for _, g := range m.o.Golden {
		if err := g.Check(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Open takes the policy of a file, which Run then watches.
func (m *Manager) Open(ctx context.Context, path string) error {
	m.mu.Lock()
	m.path = path
	m.mu.Unlock()
	return m.Reload(ctx)
}

// Reload reads the file again if it has changed since it was last tried; the result of the last try
// otherwise.
func (m *Manager) Reload(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path == "" {
		return nil
	}
	stamp, err := stampOf(m.path)
	if err != nil {
		m.err = fmt.Errorf("scriptsched: %w", err)
		return m.err
	}
	if stamp == m.seen {
		return m.err
	}
	src, err := os.ReadFile(m.path)
	if err != nil {
		m.err = fmt.Errorf("scriptsched: %w", err)
		return m.err
	}
	m.seen = stamp
	golden, err := goldenOf(m.path)
	if err != nil {
		m.err = err
		return err
	}
	return m.apply(ctx, m.path, src, append(golden, m.o.Golden...))
}

// stampOf tells versions of the file and its golden jobs apart.
func stampOf(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if st.Size() > maxSource {
		return "", fmt.Errorf("%s has %d bytes: at most %d", path, st.Size(), maxSource)
	}
	stamp := fmt.Sprint(st.ModTime().UnixNano(), st.Size())
	if g, err := os.Stat(path + ".golden.json"); err == nil {
		stamp += fmt.Sprint(" ", g.ModTime().UnixNano(), g.Size())
	}
	return stamp, nil
}

func goldenOf(path string) ([]Golden, error) {
	data, err := os.ReadFile(path + ".golden.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("scriptsched: %w", err)
	}
	var g []Golden
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		return nil, fmt.Errorf("scriptsched: %s.golden.json: %w", path, err)
	}
	return g, nil
}

// Run watches the file until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	t := time.NewTicker(m.o.Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			if !m.o.Immutable {
				_ = m.Reload(ctx) // kept for Err, and logged
			}
		}
	}
}

// Current is the version in force.
func (m *Manager) Current() Version {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cur
}

// Policy is the compiled policy in force, nil before the first.
func (m *Manager) Policy() *Policy {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pol
}

// Err is why the last change was refused; nil when it wasn't.
func (m *Manager) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// memory is the Store that forgets.
type memory struct {
	mu   sync.Mutex
	list []Version
}

// Save appends, and keeps the last 100.
func (s *memory) Save(_ context.Context, v Version) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, v)
	if len(s.list) > 100 {
		s.list = s.list[1:]
	}
	return nil
}

// Latest is the last one saved.
func (s *memory) Latest(context.Context) (Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return Version{}, nil
	}
	return s.list[len(s.list)-1], nil
}

// List is newest first.
func (s *memory) List(_ context.Context, limit int) ([]Version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Version
	for i := len(s.list) - 1; i >= 0 && len(out) < limit; i-- {
		out = append(out, s.list[i])
	}
	return out, nil
}
