package compose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/httpserver"
)

// openAudit opens the audit log; one that was tampered with is refused, unless the operator wants it put aside.
func (q *Queen) openAudit(ctx context.Context, path string) (err error) {
	if q.o.RestartAudit {
		var aside string
		if q.audit, aside, err = auth.RestartAudit(ctx, path, "operator, --restart-audit", q.stores.auth, nil); aside != "" {
			q.log.Warn("the audit log was put aside and a new one begun", "kept", aside)
		}
		return err
	}
	if q.audit, err = auth.OpenAudit(ctx, path, q.stores.auth, nil); errors.Is(err, auth.ErrTampered) {
		return fmt.Errorf("%w: somebody changed it, or the state database is from another time than the log: put both back "+
			"from one backup, or start once with --restart-audit, which keeps this log as evidence and begins a new one", err)
	}
	return err
}

// trail writes what was done through the API, and by whom, to the audit log.
type trail struct {
	log   *slog.Logger
	audit *auth.Audit
}

// actor is who asked, as the server put it into the context.
func actor(ctx context.Context) string {
	if id, ok := httpserver.IdentityOf(ctx); ok && id.KeyID != "" {
		return "key " + id.KeyID
	}
	return "loopback"
}

func (t *trail) record(ctx context.Context, err error, action, object, detail string) {
	if err != nil {
		return
	}
	// whoever asked may have gone since: what was done is written all the same
	err = t.audit.Record(context.WithoutCancel(ctx), auth.Entry{Actor: actor(ctx), Action: action, Object: object, Detail: detail})
	if err != nil {
		t.log.Error("audit log", "error", err)
	}
}

type auditedTenants struct {
	httpserver.Tenants
	t *trail
}

// Put implements httpserver.Tenants.
func (a *auditedTenants) Put(ctx context.Context, n httpserver.Tenant) (httpserver.Tenant, error) {
	out, err := a.Tenants.Put(ctx, n)
	a.t.record(ctx, err, "tenant.set", n.ID, fmt.Sprintf("rpm=%d tpm=%d concurrent=%d tokens_per_day=%d models=%q",
		n.RPM, n.TPM, n.Concurrent, n.TokensPerDay, n.Models))
	return out, err
}

type auditedPolicies struct {
	httpserver.Policies
	t *trail
}

// SetPolicy implements httpserver.Policies.
func (a *auditedPolicies) SetPolicy(ctx context.Context, p httpserver.Policy) (httpserver.Policy, error) {
	out, err := a.Policies.SetPolicy(ctx, p)
	a.t.record(ctx, err, "policy.set", out.Name, "hash="+out.Hash)
	return out, err
}

type auditedHives struct {
	httpserver.Hives
	t *trail
}

// Add implements httpserver.Hives.
func (a *auditedHives) Add(ctx context.Context, h httpserver.NewHive) (httpserver.Hive, error) {
	out, err := a.Hives.Add(ctx, h)
	a.t.record(ctx, err, "hive.add", out.NodeName, "mode="+out.Mode)
	return out, err
}

// Remove implements httpserver.Hives.
func (a *auditedHives) Remove(ctx context.Context, node string) error {
	err := a.Hives.Remove(ctx, node)
	a.t.record(ctx, err, "hive.remove", node, "")
	return err
}

type auditedModels struct {
	httpserver.Models
	t *trail
}

// Put implements httpserver.Models.
func (a *auditedModels) Put(ctx context.Context, name string, entry json.RawMessage) (httpserver.Model, error) {
	out, err := a.Models.Put(ctx, name, entry)
	a.t.record(ctx, err, "model.put", name, "")
	return out, err
}

// Delete implements httpserver.Models.
func (a *auditedModels) Delete(ctx context.Context, name string) error {
	err := a.Models.Delete(ctx, name)
	a.t.record(ctx, err, "model.delete", name, "")
	return err
}

type auditedAdmin struct {
	httpserver.Admin
	t *trail
}

// Shutdown implements httpserver.Admin. It is written down first, since afterwards the log is closed.
func (a *auditedAdmin) Shutdown(ctx context.Context, cascade bool) error {
	a.t.record(ctx, nil, "admin.shutdown", "", fmt.Sprintf("cascade=%t", cascade))
	return a.Admin.Shutdown(ctx, cascade)
}
