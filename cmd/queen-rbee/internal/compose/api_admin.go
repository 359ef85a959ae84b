package compose

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/scheduler"
)

// authDoor lets the server ask who sent a request.
type authDoor struct {
	g   *auth.Guard
	adm *admission.Controller
}

var _ httpserver.Authenticator = (*authDoor)(nil)

// Authenticate implements httpserver.Authenticator.
func (a *authDoor) Authenticate(ctx context.Context, r *http.Request) (httpserver.Identity, error) {
	id, err := a.g.Authenticate(ctx, r)
	if err != nil {
		return httpserver.Identity{}, plain(err)
	}
	if r.Method != http.MethodPost { // admission itself checks jobs; lists show what the tenant may use
		if t, ok := a.adm.Tenant(id.Tenant); ok {
			id = id.Narrow(t.Limits.Models)
		}
	}
	return httpserver.Identity{Tenant: id.Tenant, KeyID: id.KeyID, Scope: httpserver.Scope(id.Scope), Models: id.Models, Node: id.Node}, nil
}

// keysAPI makes and revokes API keys.
type keysAPI struct{ k *auth.Keys }

var _ httpserver.Keys = (*keysAPI)(nil)

// Create implements httpserver.Keys.
func (a *keysAPI) Create(ctx context.Context, n httpserver.NewKey) (httpserver.Key, error) {
	k, secret, err := a.k.Create(ctx, actor(ctx), auth.Request{Tenant: n.TenantID, Label: n.Label, Scope: auth.Scope(n.Scope), Models: n.Models, ExpiresAt: n.ExpiresAt})
	if err != nil {
		return httpserver.Key{}, plain(err)
	}
	out := keyRecord(k)
	out.Secret = secret
	return out, nil
}

// List implements httpserver.Keys.
func (a *keysAPI) List(context.Context) ([]httpserver.Key, error) {
	out := []httpserver.Key{}
	for _, k := range a.k.List() {
		out = append(out, keyRecord(k))
	}
	return out, nil
}

// Revoke implements httpserver.Keys.
func (a *keysAPI) Revoke(ctx context.Context, id string) error {
	return plain(a.k.Revoke(ctx, actor(ctx), id))
}

// spoken is a refusal of auth without the module's name: clients read it.
type spoken struct{ refusal *auth.Error }

func (e spoken) Error() string             { return e.refusal.Message }
func (e spoken) Unwrap() error             { return e.refusal }
func (e spoken) Code() string              { return e.refusal.Code() }
func (e spoken) RetryAfter() time.Duration { return e.refusal.RetryAfter() }

func plain(err error) error {
	if e := (*auth.Error)(nil); errors.As(err, &e) {
		return spoken{e}
	}
	return err
}

func keyRecord(k auth.Key) httpserver.Key {
	return httpserver.Key{ID: k.ID, TenantID: k.Tenant, Scope: httpserver.Scope(k.Scope), Models: k.Models, Label: k.Label,
		CreatedAt: httpserver.Time{Time: k.CreatedAt}, ExpiresAt: httpserver.Time{Time: k.ExpiresAt}, RevokedAt: httpserver.Time{Time: k.RevokedAt}}
}

// tenantsAPI shows and changes limits.
type tenantsAPI struct{ c *admission.Controller }

var _ httpserver.Tenants = (*tenantsAPI)(nil)

func tenantRecord(r admission.Report) httpserver.Tenant {
	usage, _ := json.Marshal(map[string]int64{"running": r.Running, "reserved_tokens": r.Reserved, "tokens_today": r.TokensToday, "jobs_today": r.JobsToday})
	return httpserver.Tenant{ID: r.ID, RPM: int(r.Limits.RPM), TPM: int(r.Limits.TPM), Concurrent: int(r.Limits.Concurrent),
		TokensPerDay: r.Limits.TokensPerDay, Models: r.Limits.Models, Usage: usage}
}

// List implements httpserver.Tenants.
func (a *tenantsAPI) List(context.Context) ([]httpserver.Tenant, error) {
	out := []httpserver.Tenant{}
	for _, r := range a.c.Tenants() {
		out = append(out, tenantRecord(r))
	}
	return out, nil
}

// Put implements httpserver.Tenants.
func (a *tenantsAPI) Put(ctx context.Context, t httpserver.Tenant) (httpserver.Tenant, error) {
	err := a.c.SetTenant(ctx, admission.Tenant{ID: t.ID, Limits: admission.Limits{RPM: int64(t.RPM), TPM: int64(t.TPM),
		Concurrent: int64(t.Concurrent), TokensPerDay: t.TokensPerDay, Models: t.Models}})
	if err != nil {
		return httpserver.Tenant{}, err
	}
	r, _ := a.c.Tenant(t.ID)
	return tenantRecord(r), nil
}

// adminAPI ends the program.
type adminAPI struct{ stop func(cascade bool) }

var _ httpserver.Admin = (*adminAPI)(nil)

// Shutdown implements httpserver.Admin.
func (a *adminAPI) Shutdown(_ context.Context, cascade bool) error {
	a.stop(cascade)
	return nil
}

// explained is a decision with its candidates as the API shows it.
func explained(e scheduler.Explanation) httpserver.Decision {
	d := httpserver.Decision{Action: e.Decision.Action.String(), WorkerID: e.Decision.Worker, Node: e.Decision.Node, Evict: e.Decision.Evict,
		Code: e.Decision.Code, Reason: e.Decision.Reason, Policy: e.Policy.Name, PolicyHash: e.Policy.Hash, SnapshotVersion: e.Decision.Snapshot,
		Candidates: []httpserver.Candidate{}}
	if d.Evict == nil {
		d.Evict = []string{}
	}
	for _, c := range e.Candidates {
		d.Candidates = append(d.Candidates, httpserver.Candidate{WorkerID: c.Worker, Node: c.Node, Kept: c.Kept, Reason: c.Reason, Rank: c.Rank,
			Cost: map[string]float64{"wait_s": c.Cost.Wait.Seconds(), "prefill_s": c.Cost.Prefill.Seconds(), "total_s": c.Cost.Total.Seconds(),
				"cached_tokens": float64(c.Cost.Cached), "pending_tokens": float64(c.Cost.Pending), "in_flight": float64(c.Cost.InFlight)}})
	}
	return d
}
