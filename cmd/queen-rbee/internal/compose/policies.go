package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/scheduler/schedsim"
	"github.com/queen-rbee/queen-rbee/scheduler/scriptsched"
)

// policies keeps the scheduling policy: a built-in one by name, or a script that is checked, versioned and reloaded.
type policies struct {
	q       *Queen
	manager *scriptsched.Manager
	store   *policyStore
	ring    *scheduler.Ring
}

var _ httpserver.Policies = (*policies)(nil)

// builtin gives a policy by name; ok is false for a script.
func builtin(name string) (p scheduler.Policy, ok bool) {
	switch name {
	case "", "default":
		return nil, true
	case "basic":
		return scheduler.Basic{}, true
	}
	return nil, false
}

// open puts the configured policy in force, or the one that an administrator has set since.
func (a *policies) open(ctx context.Context) error {
	if err := a.openConfigured(ctx); err != nil || a.q.cfg.Scheduler.Mode == "platform" {
		return err
	}
	v, ok, err := a.store.kept(ctx)
	if err != nil || !ok {
		return err
	}
	if v.Source == "" {
		p, known := builtin(v.Name)
		if !known {
			a.q.log.Warn("the policy that was set last is not built in any more; the configured one is in force", "policy", v.Name)
			return nil
		}
		return a.q.sched.SetPolicy(p)
	}
	if err := a.manager.Apply(context.WithValue(ctx, setByHand{}, true), v.Name, []byte(v.Source)); err != nil {
		a.q.log.Warn("the policy that was set last can't be taken any more; the configured one is in force", "policy", v.Name, "error", err)
	}
	return nil
}

func (a *policies) openConfigured(ctx context.Context) error {
	name := a.q.cfg.Scheduler.Policy
	if p, ok := builtin(name); ok {
		if p == nil {
			return nil
		}
		return a.q.sched.SetPolicy(p)
	}
	if err := a.manager.Open(ctx, name); err != nil {
		return fmt.Errorf("scheduler.policy: %w", err)
	}
	return nil
}

// compile makes a policy of what a caller sent: a name, or a source.
func (a *policies) compile(p httpserver.Policy) (scheduler.Policy, error) {
	if p.Source == "" {
		if b, ok := builtin(p.Name); ok {
			return b, nil
		}
		return nil, &codedError{code: "INVALID_REQUEST", msg: "there is no built-in policy " + p.Name + ": use default or basic, or send a source"}
	}
	return a.manager.Check(scriptName(p), []byte(p.Source))
}

// scriptName carries the language in the name's ending, as files do.
func scriptName(p httpserver.Policy) string {
	name := p.Name
	if name == "" {
		name = "policy"
	}
	ending := ".star"
	if p.Language == "yaml" {
		ending = ".yaml"
	}
	if strings.HasSuffix(name, ".star") || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		return name
	}
	return name + ending
}

func (a *policies) record() httpserver.Policy {
	i := a.q.sched.Policy()
	out := httpserver.Policy{Name: i.Name, Language: i.Language, Hash: i.Hash, Failures: int64(i.Fails), Mode: a.q.cfg.Scheduler.Mode,
		Available: []string{"default", "basic"}}
	if v := a.manager.Current(); v.Hash == i.Hash {
		out.Source = v.Source
	}
	return out
}

// Policy implements httpserver.Policies.
func (a *policies) Policy(context.Context) (httpserver.Policy, error) { return a.record(), nil }

// SetPolicy implements httpserver.Policies.
func (a *policies) SetPolicy(ctx context.Context, p httpserver.Policy) (httpserver.Policy, error) {
	if a.q.cfg.Scheduler.Mode == "platform" {
		return httpserver.Policy{}, &codedError{code: "FORBIDDEN", msg: "scheduler.mode is platform: the policy changes with the configuration and a restart only"}
	}
	ctx = context.WithValue(ctx, setByHand{}, true)
	if p.Source != "" {
		if err := a.manager.Apply(ctx, scriptName(p), []byte(p.Source)); err != nil {
			return httpserver.Policy{}, invalidPolicy(err)
		}
		return a.record(), nil
	}
	np, err := a.compile(p)
	if err != nil {
		return httpserver.Policy{}, err
	}
	if err := a.store.Save(ctx, scriptsched.Version{Name: p.Name, At: time.Now()}); err != nil {
		return httpserver.Policy{}, err
	}
	if err := a.q.sched.SetPolicy(np); err != nil {
		return httpserver.Policy{}, err
	}
	return a.record(), nil
}

func invalidPolicy(err error) error {
	if codeOf(err) != "INTERNAL" {
		return err
	}
	return &codedError{code: "INVALID_REQUEST", msg: err.Error()}
}

// DryRun implements httpserver.Policies.
func (a *policies) DryRun(_ context.Context, policy *httpserver.Policy, sample []json.RawMessage) ([]httpserver.Decision, error) {
	s := a.q.sched
	if policy != nil {
		p, err := a.compile(*policy)
		if err != nil {
			return nil, invalidPolicy(err)
		}
		s = scheduler.New(a.q.src, scheduler.Options{Policy: p, Seed: 1})
	}
	out := make([]httpserver.Decision, len(sample))
	for i, raw := range sample {
		j, err := a.sample(raw)
		if err != nil {
			return nil, err
		}
		out[i] = explained(s.Explain(j))
	}
	return out, nil
}

// sample reads a sample job: an object with the fields of a task.
func (a *policies) sample(raw json.RawMessage) (*scheduler.Job, error) {
	var t struct {
		Model     string            `json:"model"`
		Prompt    json.RawMessage   `json:"prompt"`
		Messages  json.RawMessage   `json:"messages"`
		MaxTokens int               `json:"max_tokens"`
		Priority  string            `json:"priority"`
		Session   string            `json:"session_id"`
		Node      string            `json:"node"`
		Tenant    string            `json:"tenant_id"`
		Labels    map[string]string `json:"labels"`
		Deadline  time.Time         `json:"deadline"`
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, &codedError{code: "INVALID_REQUEST", msg: "a sample job has the fields of a task: " + err.Error()}
	}
	prompt := t.Prompt
	if prompt == nil {
		prompt = t.Messages
	}
	e, err := a.q.catalog.resolve(t.Model)
	if err != nil {
		return nil, err
	}
	return &scheduler.Job{Model: e.Name, Priority: t.Priority, Session: t.Session, Node: t.Node, Deadline: t.Deadline, Tenant: t.Tenant, Labels: t.Labels,
		PromptTokens: (len(prompt) + 3) / 4, MaxTokens: t.MaxTokens, Blocks: scheduler.Blocks(e.Name, prompt), Submitted: time.Now()}, nil
}

// Replay implements httpserver.Policies: the recorded traffic runs again under the policy in force and under others.
func (a *policies) Replay(_ context.Context, request json.RawMessage) (json.RawMessage, error) {
	var r struct {
		Policies []httpserver.Policy `json:"policies"`
		Policy   *httpserver.Policy  `json:"policy"`
		Events   []scheduler.Event   `json:"events"` // another recording than this queen's own
	}
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, &codedError{code: "INVALID_REQUEST", msg: `a replay request is {"policies": [{"name": ...} or {"source": ...}]}: ` + err.Error()}
	}
	if r.Policy != nil {
		r.Policies = append(r.Policies, *r.Policy)
	}
	contenders := []schedsim.Contender{{Name: "default"}}
	for _, p := range r.Policies {
		np, err := a.compile(p)
		if err != nil {
			return nil, invalidPolicy(err)
		}
		contenders = append(contenders, schedsim.Contender{Name: scriptName(p), Policy: np})
	}
	if len(r.Events) == 0 {
		r.Events = a.ring.Events()
	}
	c, err := schedsim.Replay(r.Events, 1, contenders...)
	if err != nil {
		return nil, invalidPolicy(err)
	}
	return json.Marshal(c)
}

// engineMetrics relays the engines' own series from every hive.
func (q *Queen) engineMetrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	for _, h := range q.reg.Snapshot().Hives {
		link, ok := q.links.link(h.Name)
		if !ok || h.Status != registry.StatusOnline {
			continue
		}
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		text, err := link.client.Metrics(ctx)
		cancel()
		if err != nil {
			q.log.Debug("engine metrics", "node", h.Name, "error", err)
			continue
		}
		_, _ = w.Write(text)
	}
}

// targets lists the queen for Prometheus' http_sd.
type targets struct{ q *Queen }

var _ httpserver.Targets = (*targets)(nil)

// Targets implements httpserver.Targets.
func (t *targets) Targets(context.Context) ([]httpserver.Target, error) {
	address := t.q.listening()
	var out []httpserver.Target
	for _, it := range [][2]string{{"/metrics", "queen"}, {"/metrics/engines", "engines"}} {
		labels := map[string]string{"__metrics_path__": it[0], "job": it[1]}
		if t.q.cfg.TLS.On() {
			labels["__scheme__"] = "https"
		}
		out = append(out, httpserver.Target{Targets: []string{address}, Labels: labels})
	}
	return out, nil
}

// listening is the address that the queen is reached at: before she serves, the configured one.
func (q *Queen) listening() string {
	if a := q.address.Load(); a != nil {
		return *a
	}
	return q.cfg.Listen
}

// reachable is the address under which others find a listener: this machine's name where it listens everywhere.
func reachable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok || !t.IP.IsUnspecified() {
		return a.String()
	}
	name, err := os.Hostname()
	if err != nil {
		return a.String()
	}
	return net.JoinHostPort(name, strconv.Itoa(t.Port))
}

// bundleDir is where rbee-hive for other platforms lies: beside this program.
func bundleDir() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(exe), "bundle")
}
