package compose

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/registry"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// policy is the scheduling policy that the configuration names; nil is the native one.
func (q *Queen) policy() (p scheduler.Policy, immutable bool, err error) {
	immutable = q.cfg.Scheduler.Mode == "platform"
	p, err = namedPolicy(q.cfg.Scheduler.Policy)
	return p, immutable, err
}

func namedPolicy(name string) (scheduler.Policy, error) {
	switch name {
	case "", "default":
		return nil, nil
	case "basic":
		return scheduler.Basic{}, nil
	}
	return nil, &codedError{code: "INVALID_REQUEST", msg: "there is no scheduling policy " + name + ": use default or basic"}
}

// policiesAPI shows, changes and tries policies.
type policiesAPI struct{ q *Queen }

var _ httpserver.Policies = (*policiesAPI)(nil)

func (a *policiesAPI) record(i scheduler.PolicyInfo) httpserver.Policy {
	return httpserver.Policy{Name: i.Name, Language: i.Language, Hash: i.Hash, Failures: int64(i.Fails), Mode: a.q.cfg.Scheduler.Mode,
		Available: []string{"default", "basic"}}
}

// Policy implements httpserver.Policies.
func (a *policiesAPI) Policy(context.Context) (httpserver.Policy, error) {
	return a.record(a.q.sched.Policy()), nil
}

// SetPolicy implements httpserver.Policies.
func (a *policiesAPI) SetPolicy(_ context.Context, p httpserver.Policy) (httpserver.Policy, error) {
	np, err := namedPolicy(p.Name)
	if err != nil {
		return httpserver.Policy{}, err
	}
	if err := a.q.sched.SetPolicy(np); err != nil {
		return httpserver.Policy{}, err
	}
	return a.record(a.q.sched.Policy()), nil
}

// DryRun implements httpserver.Policies.
func (a *policiesAPI) DryRun(_ context.Context, policy *httpserver.Policy, sample []json.RawMessage) ([]httpserver.Decision, error) {
	s := a.q.sched
	if policy != nil {
		p, err := namedPolicy(policy.Name)
		if err != nil {
			return nil, err
		}
		s = scheduler.New(a.q.src, scheduler.Options{Policy: p, Seed: 1})
	}
	out := make([]httpserver.Decision, len(sample))
	for i, raw := range sample {
		var t struct {
			Model     string          `json:"model"`
			Prompt    json.RawMessage `json:"prompt"`
			Messages  json.RawMessage `json:"messages"`
			MaxTokens int             `json:"max_tokens"`
			Priority  string          `json:"priority"`
			Session   string          `json:"session_id"`
			Node      string          `json:"node"`
			Deadline  time.Time       `json:"deadline"`
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
		out[i] = explained(s.Explain(&scheduler.Job{Model: e.Name, Priority: t.Priority, Session: t.Session, Node: t.Node, Deadline: t.Deadline,
			PromptTokens: (len(prompt) + 3) / 4, MaxTokens: t.MaxTokens, Blocks: scheduler.Blocks(e.Name, prompt), Submitted: time.Now()}))
	}
	return out, nil
}

// Replay implements httpserver.Policies.
func (a *policiesAPI) Replay(context.Context, json.RawMessage) (json.RawMessage, error) {
	return nil, &codedError{code: "NOT_AVAILABLE", msg: "this queen does not record decisions: replay traces with schedsim"}
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
	return []httpserver.Target{
		{Targets: []string{t.q.cfg.Listen}, Labels: map[string]string{"__metrics_path__": "/metrics", "job": "queen"}},
		{Targets: []string{t.q.cfg.Listen}, Labels: map[string]string{"__metrics_path__": "/metrics/engines", "job": "engines"}},
	}, nil
}

// bundleDir is where rbee-hive for other platforms lies: beside this program.
func bundleDir() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	return filepath.Join(filepath.Dir(exe), "bundle")
}
