package httpserver

import (
	"encoding/json"
	"net/http"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

func (c *call) policies() (Policies, error) {
	if c.s.o.Policies == nil {
		return nil, notAvailable("a scheduler")
	}
	return c.s.o.Policies, nil
}

// getPolicy is GET /v2/scheduler/policy.
func (c *call) getPolicy() error {
	ps, err := c.policies()
	if err != nil {
		return err
	}
	p, err := ps.Policy(c.r.Context())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, p)
}

type newPolicy struct {
	Name     string `json:"name"`
	Language string `json:"language"`
	Source   string `json:"source"`
}

func (n newPolicy) policy() Policy {
	return Policy{Name: n.Name, Language: n.Language, Source: n.Source}
}

// putPolicy is PUT /v2/scheduler/policy.
func (c *call) putPolicy() error {
	ps, err := c.policies()
	if err != nil {
		return err
	}
	var req newPolicy
	if err := c.decode(&req); err != nil {
		return err
	}
	if req.Name == "" && req.Source == "" {
		return invalid("source", "give the source of a policy, or the name of a built-in one")
	}
	p, err := ps.SetPolicy(c.r.Context(), req.policy())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, p)
}

type decisionList struct {
	Decisions []Decision `json:"decisions"`
}

// dryRun is POST /v2/scheduler/dry-run.
func (c *call) dryRun() error {
	ps, err := c.policies()
	if err != nil {
		return err
	}
	var req struct {
		Jobs   []json.RawMessage `json:"jobs"`
		Policy json.RawMessage   `json:"policy"`
	}
	if err := c.decode(&req); err != nil {
		return err
	}
	if len(req.Jobs) == 0 || len(req.Jobs) > 1000 {
		return invalid("jobs", "jobs must be a list of 1 to 1000 sample jobs")
	}
	for _, j := range req.Jobs {
		if err := checkSample(j); err != nil {
			return err
		}
	}
	policy, err := samplePolicy(req.Policy)
	if err != nil {
		return err
	}
	ds, err := ps.DryRun(c.r.Context(), policy, req.Jobs)
	if err != nil {
		return err
	}
	for i := range ds {
		ds[i].Evict, ds[i].Candidates = list(ds[i].Evict), list(ds[i].Candidates)
	}
	return writeJSON(c.w, http.StatusOK, decisionList{list(ds)})
}

// checkSample checks one sample job: the fields of a task, and what a recorded job has instead of a prompt.
func checkSample(j json.RawMessage) error {
	model, bad := "", error(nil)
	ok := strict.Members(j, func(k, v []byte) bool {
		switch name := string(k); name {
		case "model":
			bad = modelField(v, &model)
		case "prompt", "messages", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed", "priority",
			"session_id", "deadline", "node", "tenant_id", "labels":
		case "max_tokens", "prompt_tokens":
			bad = wholeField(name, v, 0, 1<<31-1, nil)
		default:
			bad = unknownField(name)
		}
		return bad == nil
	})
	if bad != nil {
		return bad
	}
	if !ok || model == "" {
		return invalid("jobs", "each sample job must be an object with a model")
	}
	return nil
}

func samplePolicy(raw json.RawMessage) (*Policy, error) {
	if len(raw) == 0 || isNull(raw) {
		return nil, nil
	}
	if raw[0] == '"' {
		return &Policy{Source: rawString(raw)}, nil
	}
	var n newPolicy
	if err := known("policy", raw, &n); err != nil {
		return nil, err
	}
	p := n.policy()
	return &p, nil
}

// replay is POST /v2/scheduler/replay.
func (c *call) replay() error {
	ps, err := c.policies()
	if err != nil {
		return err
	}
	b, err := c.object(func(k, _ []byte) error {
		switch string(k) {
		case "policy", "policies", "events":
			return nil
		}
		return unknownField(string(k))
	})
	if err != nil {
		return err
	}
	out, err := ps.Replay(c.r.Context(), b)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, out)
}

type tenantList struct {
	Tenants []Tenant `json:"tenants"`
}

// listTenants is GET /v2/tenants.
func (c *call) listTenants() error {
	if c.s.o.Tenants == nil {
		return notAvailable("tenants")
	}
	ts, err := c.s.o.Tenants.List(c.r.Context())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, tenantList{list(ts)})
}

type newTenant struct {
	RPM          int      `json:"rpm"`
	TPM          int      `json:"tpm"`
	Concurrent   int      `json:"concurrent"`
	TokensPerDay int64    `json:"tokens_per_day"`
	Models       []string `json:"models"`
}

// putTenant is PUT /v2/tenants/{id}.
func (c *call) putTenant() error {
	if c.s.o.Tenants == nil {
		return notAvailable("tenants")
	}
	id, err := c.name("id")
	if err != nil {
		return err
	}
	var req newTenant
	if err := c.decode(&req); err != nil {
		return err
	}
	if req.RPM < 0 || req.TPM < 0 || req.Concurrent < 0 || req.TokensPerDay < 0 {
		return invalid("", "limits are whole numbers from 0, which means no limit")
	}
	t, err := c.s.o.Tenants.Put(c.r.Context(), Tenant{ID: id, RPM: req.RPM, TPM: req.TPM, Concurrent: req.Concurrent,
		TokensPerDay: req.TokensPerDay, Models: req.Models})
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, t)
}

func (c *call) keyring() (Keys, error) {
	if c.s.o.Keys == nil {
		return nil, notAvailable("keys")
	}
	return c.s.o.Keys, nil
}

type keyList struct {
	Keys []Key `json:"keys"`
}

// listKeys is GET /v2/keys.
func (c *call) listKeys() error {
	ks, err := c.keyring()
	if err != nil {
		return err
	}
	all, err := ks.List(c.r.Context())
	if err != nil {
		return err
	}
	for i := range all {
		all[i].Secret = ""
	}
	return writeJSON(c.w, http.StatusOK, keyList{list(all)})
}

// createKey is POST /v2/keys.
func (c *call) createKey() error {
	ks, err := c.keyring()
	if err != nil {
		return err
	}
	var req NewKey
	if err := c.decode(&req); err != nil {
		return err
	}
	switch req.Scope {
	case ScopeInfer, ScopeOperate, ScopeAdmin, ScopeHive:
	case ScopeNone:
		req.Scope = ScopeInfer
	default:
		return invalid("scope", "scope must be infer, operate or admin")
	}
	if req.TenantID != "" {
		if err := checkName("tenant_id", req.TenantID); err != nil {
			return err
		}
	}
	if !req.ExpiresAt.IsZero() && !req.ExpiresAt.After(c.now()) {
		return invalid("expires_at", "expires_at has passed already")
	}
	k, err := ks.Create(c.r.Context(), req)
	if err != nil {
		return err
	}
	c.w.Header().Set("Cache-Control", "no-store")
	return writeJSON(c.w, http.StatusCreated, k)
}

// revokeKey is DELETE /v2/keys/{id}.
func (c *call) revokeKey() error {
	ks, err := c.keyring()
	if err != nil {
		return err
	}
	id, err := c.name("id")
	if err != nil {
		return err
	}
	if err := ks.Revoke(c.r.Context(), id); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"id": id, "status": "revoked"})
}

type checkList struct {
	Checks []Check `json:"checks"`
}

// doctor is GET /v2/doctor.
func (c *call) doctor() error {
	if c.s.o.Doctor == nil {
		return notAvailable("a doctor")
	}
	cs, err := c.s.o.Doctor.Checks(c.r.Context())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, checkList{list(cs)})
}

// shutdown is POST /v2/admin/shutdown; the body may be left out.
func (c *call) shutdown() error {
	if c.s.o.Admin == nil {
		return notAvailable("remote shutdown")
	}
	var req struct {
		Cascade bool `json:"cascade"`
	}
	if c.r.ContentLength != 0 {
		if err := c.decode(&req); err != nil {
			return err
		}
	}
	if err := c.s.o.Admin.Shutdown(c.r.Context(), req.Cascade); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, map[string]any{"status": "draining", "cascade": req.Cascade})
}
