package httpserver

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"
)

type nobody struct{}

func (nobody) Authenticate(context.Context, *http.Request) (Identity, error) {
	return Identity{Tenant: "t", Scope: ScopeAdmin}, nil
}

func (nobody) Submit(context.Context, *Request) (Job, error) {
	return nil, refuse(CodeNoHiveAvailable, "nobody works here")
}

// TestDocumentMatchesRoutes walks the mux and the document that is served: each has exactly what the other has.
func TestDocumentMatchesRoutes(t *testing.T) {
	s, err := New(nobody{}, nobody{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`\{(\w+):[^}]*\}`)
	routed := map[string]bool{}
	err = s.mux.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := r.GetMethods()
		if err != nil {
			return err
		}
		for _, m := range methods {
			if m != http.MethodHead {
				routed[m+" "+pattern.ReplaceAllString(path, "{$1}")] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Summary   string
			Responses map[string]any
		}
	}
	if err := json.Unmarshal(s.document, &doc); err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for path, ops := range doc.Paths {
		for m, op := range ops {
			described[strings.ToUpper(m)+" "+path] = true
			if op.Summary == "" || len(op.Responses) < 2 {
				t.Errorf("%s %s is described without a summary or without its errors", m, path)
			}
		}
	}
	if diff := cmp.Diff(routed, described); diff != "" {
		t.Fatalf("routes and document differ (-routes +document):\n%s", diff)
	}
	if len(routed) < 60 {
		t.Fatalf("only %d routes", len(routed))
	}
}

// TestDocumentReferences resolves every reference in the document.
func TestDocumentReferences(t *testing.T) {
	s, err := New(nobody{}, nobody{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(s.document, &doc); err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"#/components/schemas/(\w+)"`).FindAllStringSubmatch(string(s.document), -1) {
		if doc.Components.Schemas[m[1]] == nil {
			t.Errorf("schema %s is used and not described", m[1])
		}
	}
}

// TestContractEndpoints names what the contract promises.
func TestContractEndpoints(t *testing.T) {
	s, err := New(nobody{}, nobody{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, rt := range s.routes {
		have[rt.method+" "+rt.shown()] = true
	}
	for _, want := range strings.Split(strings.TrimSpace(`
POST /v1/chat/completions|POST /v1/completions|POST /v1/embeddings|GET /v1/models|GET /v1/models/{id}|POST /v1/files|GET /v1/files|POST /v1/batches
GET /v1/batches|POST /v1/batches/{batch_id}/cancel|GET /api/tags|POST /api/chat|POST /api/generate|POST /api/embed|GET /api/ps|POST /api/show|POST /api/pull
GET /api/version|POST /v2/tasks|GET /v2/tasks|GET /v2/tasks/{job_id}|GET /v2/tasks/{job_id}/events|DELETE /v2/tasks/{job_id}|POST /v2/models/download
GET /v2/models/list|GET /v2/models/catalog|DELETE /v2/models|POST /v2/workers/spawn|GET /v2/workers/list|GET /v2/workers/health|POST /v2/workers/shutdown
PUT /v2/models/{name}|DELETE /v2/models/{name}|POST /v2/registry/beehives/add|GET /v2/registry/beehives/list|POST /v2/registry/beehives/remove
POST /v2/hives/{node}/start|POST /v2/hives/{node}/stop|POST /v2/workers/register|POST /v2/hives/{node}/heartbeat|GET /v2/doctor|GET /v2/logs|GET /v2/events
GET /v2/scheduler/policy|PUT /v2/scheduler/policy|POST /v2/scheduler/dry-run|POST /v2/scheduler/replay|GET /v2/tenants|PUT /v2/tenants/{id}
POST /v2/keys|GET /v2/keys|DELETE /v2/keys/{id}|POST /v2/admin/shutdown|GET /health|GET /ready|GET /metrics|GET /metrics/engines|GET /metrics/targets|GET /openapi.json`), "\n") {
		for _, w := range strings.Split(want, "|") {
			if !have[w] {
				t.Errorf("no route for %s", w)
			}
		}
	}
}

// TestScopes pins who may do what.
func TestScopes(t *testing.T) {
	for line, want := range map[string]Scope{
		"GET /health": ScopeNone, "GET /ready": ScopeNone, "GET /openapi.json": ScopeNone, "GET /ui/": ScopeNone,
		"POST /v1/chat/completions": ScopeInfer, "GET /v1/models": ScopeInfer, "POST /api/chat": ScopeInfer, "GET /v1/nothing": ScopeInfer,
		"POST /v2/tasks": ScopeInfer, "DELETE /v2/tasks/j": ScopeInfer, "GET /v2/workers/list": ScopeOperate, "GET /v2/events": ScopeOperate,
		"PUT /v2/models/x": ScopeOperate, "POST /v2/models/download": ScopeOperate, "POST /api/pull": ScopeOperate, "GET /metrics": ScopeOperate,
		"POST /v2/workers/spawn": ScopeAdmin, "POST /v2/registry/beehives/add": ScopeAdmin, "PUT /v2/scheduler/policy": ScopeAdmin,
		"GET /v2/keys": ScopeAdmin, "GET /v2/tenants": ScopeAdmin, "POST /v2/admin/shutdown": ScopeAdmin, "DELETE /v2/models": ScopeAdmin,
		"POST /v2/hives/a/heartbeat": ScopeHive, "POST /v2/workers/register": ScopeHive, "GET /v1xyz": ScopeAdmin, "POST /anything": ScopeAdmin,
	} {
		method, path, _ := strings.Cut(line, " ")
		if got := need(method, path); got != want {
			t.Errorf("%s wants scope %q, not %q", line, got, want)
		}
	}
}
