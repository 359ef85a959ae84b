package httpserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

// fleet is one fake for every optional interface; it writes down what was asked.
type fleet struct {
	mu    sync.Mutex
	asked []string
	jobs  *httpservertest.Submitter
	epoch int
}

func (f *fleet) note(parts ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, strings.Join(parts, " "))
}

func (f *fleet) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		return ""
	}
	return f.asked[len(f.asked)-1]
}

type jobsAPI struct{ *fleet }

func (j jobsAPI) List(_ context, who httpserver.Identity, q httpserver.JobQuery) ([]httpserver.JobRecord, string, error) {
	j.note("jobs", who.Tenant, q.State, q.Model, q.Priority, q.Cursor)
	return []httpserver.JobRecord{{JobID: "j1", State: "cancelled", SubmittedAt: httpserver.Time{Time: time.UnixMilli(1700000000123)},
		Error: &httpserver.JobError{Code: "CANCELLED", Message: "cancelled"}}}, "next", nil
}

func (j jobsAPI) Get(_ context, _ httpserver.Identity, id string) (httpserver.JobRecord, error) {
	if id != "j1" {
		return httpserver.JobRecord{}, &coded{code: "JOB_NOT_FOUND"}
	}
	return httpserver.JobRecord{JobID: id, State: "running"}, nil
}

func (j jobsAPI) Explain(context, httpserver.Identity, string) (*httpserver.Decision, error) {
	return &httpserver.Decision{Action: "route", WorkerID: "w1"}, nil
}

func (j jobsAPI) Cancel(ctx context, who httpserver.Identity, id string) (httpserver.JobRecord, error) {
	return j.Get(ctx, who, id)
}

func (j jobsAPI) Attach(ctx context, who httpserver.Identity, id string) (httpserver.Job, error) {
	if _, err := j.Get(ctx, who, id); err != nil {
		return nil, err
	}
	return j.jobs.Submit(ctx, &httpserver.Request{Model: "stories"})
}

type workersAPI struct{ *fleet }

func (w workersAPI) List(_ context, node string) ([]httpserver.Worker, error) {
	w.note("workers", node)
	return []httpserver.Worker{{WorkerID: "w1", Model: "stories", State: "idle", Device: "gpu0", MemoryBytes: 7}}, nil
}

func (w workersAPI) Health(context, string) ([]httpserver.WorkerHealth, error) {
	return []httpserver.WorkerHealth{{WorkerID: "w1", Healthy: true}}, nil
}

func (w workersAPI) Spawn(_ context, r httpserver.SpawnRequest) (httpserver.Spawned, error) {
	w.note("spawn", r.Node, r.ModelRef, r.Device)
	return httpserver.Spawned{WorkerID: "w2", Node: "local", State: "loading"}, nil
}

func (w workersAPI) Shutdown(_ context, id string, drain bool) error {
	if !drain {
		id += " at once"
	}
	w.note("shutdown", id)
	return nil
}

func (w workersAPI) Register(_ context, node string, r httpserver.Worker) error {
	w.note("register", node, r.WorkerID)
	if w.epoch > 0 {
		return &coded{code: "CONFLICT"}
	}
	return nil
}

type hivesAPI struct{ *fleet }

func (h hivesAPI) List(context) ([]httpserver.Hive, error) {
	return []httpserver.Hive{{NodeName: "local", Status: "online"}}, nil
}

func (h hivesAPI) Add(_ context, n httpserver.NewHive) (httpserver.Hive, error) {
	h.note("add", n.NodeName, n.Mode, n.SSHHost)
	return httpserver.Hive{NodeName: n.NodeName}, nil
}

func (h hivesAPI) Remove(_ context, node string) error { h.note("remove", node); return nil }
func (h hivesAPI) Start(_ context, node string) (string, error) {
	h.note("start", node)
	return "op-1", nil
}
func (h hivesAPI) Stop(_ context, node string) (string, error) {
	h.note("stop", node)
	return "op-2", nil
}
func (h hivesAPI) Drain(_ context, node string) (string, error) {
	h.note("drain", node)
	return "op-3", nil
}
func (h hivesAPI) Upgrade(_ context, node string) (string, error) {
	h.note("upgrade", node)
	return "op-4", nil
}
func (h hivesAPI) Heartbeat(_ context, node string, report json.RawMessage) error {
	h.note("heartbeat", node, string(report))
	if h.epoch > 0 {
		return &coded{code: "CONFLICT"}
	}
	return nil
}

type modelsAPI struct{ *fleet }

func (m modelsAPI) Put(_ context, name string, entry json.RawMessage) (httpserver.Model, error) {
	m.note("put", name, string(entry))
	return httpserver.Model{Model: name}, nil
}
func (m modelsAPI) Delete(_ context, name string) error { m.note("delete", name); return nil }
func (m modelsAPI) Download(_ context, node, ref string) (string, error) {
	m.note("download", node, ref)
	return "d-1", nil
}
func (m modelsAPI) CancelDownload(_ context, id string) error { m.note("cancel", id); return nil }
func (m modelsAPI) Evict(_ context, node, ref string) error   { m.note("evict", node, ref); return nil }

type adminAPI struct{ *fleet }

func (a adminAPI) Policy(context) (httpserver.Policy, error) {
	return httpserver.Policy{Name: "default"}, nil
}
func (a adminAPI) SetPolicy(_ context, p httpserver.Policy) (httpserver.Policy, error) {
	a.note("policy", p.Name, p.Source)
	return p, nil
}
func (a adminAPI) DryRun(_ context, p *httpserver.Policy, jobs []json.RawMessage) ([]httpserver.Decision, error) {
	a.note("dry-run", string(jobs[0]))
	return []httpserver.Decision{{Action: "queue"}}, nil
}
func (a adminAPI) Replay(_ context, r json.RawMessage) (json.RawMessage, error) {
	a.note("replay", string(r))
	return json.RawMessage(`{"same":3}`), nil
}
func (a adminAPI) Checks(context) ([]httpserver.Check, error) {
	return []httpserver.Check{{Name: "disk", Status: "ok"}}, nil
}
func (a adminAPI) Shutdown(_ context, cascade bool) error {
	if cascade {
		a.note("shutdown cascade")
	} else {
		a.note("shutdown")
	}
	return nil
}
func (a adminAPI) Targets(context) ([]httpserver.Target, error) { return nil, nil }
func (a adminAPI) Load(_ context, model, keep string) error     { a.note("load", model, keep); return nil }
func (a adminAPI) Unload(_ context, model string) error         { a.note("unload", model); return nil }
func (a adminAPI) Logs(_ context, q httpserver.LogQuery) (io.ReadCloser, error) {
	a.note("logs", q.Node, q.WorkerID)
	return io.NopCloser(strings.NewReader("one\ntwo\r\nthree")), nil
}

type tenantsAPI struct{ *fleet }

func (a tenantsAPI) List(context) ([]httpserver.Tenant, error) { return nil, nil }
func (a tenantsAPI) Put(_ context, t httpserver.Tenant) (httpserver.Tenant, error) {
	a.note("tenant", t.ID)
	return t, nil
}

type keysAPI struct{ *fleet }

func (a keysAPI) List(context) ([]httpserver.Key, error) {
	return []httpserver.Key{{ID: "k1", Secret: "must not show"}}, nil
}
func (a keysAPI) Create(_ context, k httpserver.NewKey) (httpserver.Key, error) {
	a.note("key", k.TenantID, string(k.Scope))
	return httpserver.Key{ID: "k2", Secret: "rbee_k2_x", Scope: k.Scope}, nil
}
func (a keysAPI) Revoke(_ context, id string) error { a.note("revoke", id); return nil }

// fakeFeed sends what it is given; an operation's feed ends.
type fakeFeed struct {
	mu     sync.Mutex
	events []httpserver.Event
	opened chan struct{}
}

func (f *fakeFeed) signal() chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened == nil {
		f.opened = make(chan struct{}, 16)
	}
	return f.opened
}

func (f *fakeFeed) wait(t *testing.T) {
	t.Helper()
	select {
	case <-f.signal():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody followed the feed")
	}
}

func (f *fakeFeed) Events(ctx context, topic string, after uint64) (<-chan httpserver.Event, error) {
	if topic == "nothing" {
		return nil, &coded{code: "JOB_NOT_FOUND"}
	}
	ch := make(chan httpserver.Event, len(f.events))
	for _, e := range f.events {
		if e.ID > after {
			ch <- e
		}
	}
	if topic != "" {
		close(ch)
	}
	select {
	case f.signal() <- struct{}{}:
	default: // nobody waits for so many
	}
	return ch, nil
}

func fullRig(t testing.TB, strict bool) (*rig, *fleet, *fakeFeed) {
	t.Helper()
	f, feed := &fleet{jobs: &httpservertest.Submitter{}}, &fakeFeed{}
	admin := adminAPI{f}
	g := newRig(t, strict, httpserver.Options{Jobs: jobsAPI{f}, Workers: workersAPI{f}, Hives: hivesAPI{f}, Models: modelsAPI{f}, Catalog: slashModels{},
		Policies: admin, Doctor: admin, Admin: admin, Targets: admin, Loader: admin, Logs: admin, Tenants: tenantsAPI{f}, Keys: keysAPI{f}, Feed: feed,
		Metrics:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") }),
		PingEvery: time.Hour, Version: "1.2.3"})
	return g, f, feed
}
