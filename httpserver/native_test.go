package httpserver_test

import (
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// TestNativeEndpoints asks each endpoint once: status, what the backend was asked, and a part of the answer.
func TestNativeEndpoints(t *testing.T) {
	g, f, _ := fullRig(t, false)
	for _, c := range []struct {
		method, path, body string
		status             int
		asked, part        string
	}{
		{"GET", "/v2/tasks?state=failed&model=m&priority=batch&limit=5&cursor=c", "", 200, "jobs default failed m batch c", `"submitted_at":"2023-11-14T22:13:20.123Z","started_at":null`},
		{"GET", "/v2/tasks", "", 200, "jobs default    ", `"error":{"code":"CANCELLED","message":"cancelled","status":499}`},
		{"GET", "/v2/tasks?state=x", "", 400, "", "state must be"},
		{"GET", "/v2/tasks?limit=0", "", 400, "", "limit"},
		{"GET", "/v2/tasks?LIMIT=5", "", 400, "", `unknown query parameter \"LIMIT\"`},
		{"GET", "/v2/tasks/j1", "", 200, "", `"job_id":"j1"`},
		{"GET", "/v2/tasks/j1?explain=true", "", 200, "", `"decision":{"action":"route"`},
		{"GET", "/v2/tasks/nope", "", 404, "", "JOB_NOT_FOUND"},
		{"DELETE", "/v2/tasks/j1", "", 202, "", `{"job_id":"j1","status":"cancelled"}`},
		{"DELETE", "/v2/tasks/j1", "", 202, "", `{"job_id":"j1","status":"cancelled"}`},
		{"GET", "/v2/workers/list?node=local", "", 200, "workers local", `"workers":[{"worker_id":"w1"`},
		{"GET", "/v2/workers/health", "", 200, "", `"healthy":true`},
		{"POST", "/v2/workers/spawn", `{"node":"local","model_ref":"sim:x","device":"cpu"}`, 202, "spawn local sim:x cpu", `"worker_id":"w2"`},
		{"POST", "/v2/workers/spawn", `{"node":"local"}`, 400, "", "model_ref is missing"},
		{"POST", "/v2/workers/spawn", `{"model_ref":"file:/a/../b"}`, 400, "", `"param":"model_ref"`},
		{"POST", "/v2/workers/spawn", `{"model_ref":5}`, 400, "", "model_ref"},
		{"POST", "/v2/workers/spawn", `{"model_ref":"sim:x","count":5}`, 400, "", `unknown field`},
		{"POST", "/v2/workers/shutdown", `{"worker_id":"w1","drain":false}`, 202, "shutdown w1 at once", ""},
		{"POST", "/v2/workers/shutdown", `{"worker_id":"w1"}`, 202, "shutdown w1", ""},
		{"POST", "/v2/workers/register", `{"worker_id":"x","url":"http://10.0.0.1:1","model":"m"}`, 200, "register  x", ""},
		{"POST", "/v2/workers/register", `{"worker_id":"x","url":"file:///etc","model":"m"}`, 400, "", "url"},
		{"GET", "/v2/registry/beehives/list", "", 200, "", `"devices":[],"workers":[],"models":[]`},
		{"POST", "/v2/registry/beehives/add", `{"node_name":"gpu1","ssh_host":"gpu1","ssh_port":22}`, 201, "add gpu1 network gpu1", `"node_name":"gpu1"`},
		{"POST", "/v2/registry/beehives/add", `{"node_name":"gpu1","mode":"network","ssh_host":"-oProxyCommand=x"}`, 400, "", "ssh_host"},
		{"POST", "/v2/registry/beehives/add", `{"node_name":"a b","mode":"local"}`, 400, "", "node_name"},
		{"POST", "/v2/registry/beehives/remove", `{"node_name":"gpu1"}`, 200, "remove gpu1", ""},
		{"POST", "/v2/hives/gpu1/start", "", 202, "start gpu1", `"events_url":"/v2/operations/op-1/events"`},
		{"POST", "/v2/hives/gpu1/stop", "", 202, "stop gpu1", `op-2`},
		{"POST", "/v2/hives/gpu1/drain", "", 202, "drain gpu1", `op-3`},
		{"POST", "/v2/hives/gpu1/upgrade", "", 202, "upgrade gpu1", `op-4`},
		{"POST", "/v2/hives/gpu1/heartbeat", `{"epoch":1}`, 200, `heartbeat gpu1 {"epoch":1}`, ""},
		{"GET", "/v2/models/list?node=local", "", 200, "", `"models":[{"model":"stories"`},
		{"GET", "/v2/models/list?node=gone", "", 404, "", "NODE_NOT_FOUND"},
		{"GET", "/v2/models/catalog", "", 200, "", `"models":[`},
		{"POST", "/v2/models/download", `{"node":"local","model_ref":"hf:a/b"}`, 202, "download local hf:a/b", `{"download_id":"d-1","events_url":"/v2/operations/d-1/events"}`},
		{"DELETE", "/v2/models", `{"node":"local","model_ref":"hf:a/b"}`, 200, "evict local hf:a/b", ""},
		{"PUT", "/v2/models/org%2Fm", `{"ref":"sim:x"}`, 200, `put org/m {"ref":"sim:x"}`, `"model":"org/m"`},
		{"DELETE", "/v2/models/m", "", 200, "delete m", ""},
		{"GET", "/v2/scheduler/policy", "", 200, "", `"name":"default"`},
		{"PUT", "/v2/scheduler/policy", `{"source":"def f(): pass"}`, 200, "policy  def f(): pass", ""},
		{"PUT", "/v2/scheduler/policy", `{}`, 400, "", "source"},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[{"model":"m","max_tokens":5}]}`, 200, `dry-run {"model":"m","max_tokens":5}`, `"evict":[]`},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[{"model":"m","bogus":5}]}`, 400, "", "bogus"},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[]}`, 400, "", "jobs"},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[{"model":"m"}],"policy":5}`, 400, "", "policy must be an object"},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[{"model":"m"}],"policy":{"sauce":"x"}}`, 400, "", `policy.sauce`},
		{"POST", "/v2/scheduler/replay", `{"policie":"x"}`, 400, "", `unknown field \"policie\"`},
		{"POST", "/v2/scheduler/replay", `{"policy":"x"}`, 200, `replay {"policy":"x"}`, `{"same":3}`},
		{"GET", "/v2/tenants", "", 200, "", `{"tenants":[]}`},
		{"PUT", "/v2/tenants/acme", `{"rpm":5,"models":["a"]}`, 200, "tenant acme", `"rpm":5`},
		{"PUT", "/v2/tenants/acme", `{"rpm":-5}`, 400, "", "limits"},
		{"PUT", "/v2/tenants/-acme", `{"rpm":5}`, 400, "", `"param":"id"`},
		{"POST", "/v2/hives/..%2Fx/start", "", 400, "", `"code":"INVALID_REQUEST","message":"node has`},
		{"POST", "/v2/keys", `{"tenant_id":"acme","scope":"operate"}`, 201, "key acme operate", `"key":"rbee_k2_x"`},
		{"POST", "/v2/keys", `{"scope":"root"}`, 400, "", "scope"},
		{"POST", "/v2/keys", `{"tenant_id":"acme","expires_at":"soon"}`, 400, "", `"param":"expires_at"`},
		{"POST", "/v2/keys", `{"expires_at":"2001-01-01T00:00:00Z"}`, 400, "", "expires_at"},
		{"GET", "/v2/keys", "", 200, "", `"id":"k1"`},
		{"DELETE", "/v2/keys/k1", "", 200, "revoke k1", ""},
		{"GET", "/v2/doctor", "", 200, "", `"checks":[{"name":"disk"`},
		{"POST", "/v2/admin/shutdown", "", 202, "shutdown", ""},
		{"POST", "/v2/admin/shutdown", `{"cascade":true}`, 202, "shutdown cascade", ""},
		{"GET", "/metrics", "", 200, "", "up 1"},
		{"GET", "/metrics/engines", "", 501, "", "NOT_AVAILABLE"},
		{"GET", "/metrics/targets", "", 200, "", "[]"},
		{"GET", "/health", "", 200, "", "1.2.3"},
		{"GET", "/docs", "", 200, "", "/v1/chat/completions"},
		{"GET", "/ui/", "", 200, "", "no console"},
		{"GET", "/", "", 200, "", "running"},
		{"GET", "/openapi.json", "", 200, "", `"openapi":"3.1.0"`},
		{"POST", "/v1/files", "", 501, "", "not_available"},
	} {
		resp, body := g.do(t, c.method, c.path, c.body)
		if resp.StatusCode != c.status || !strings.Contains(body, c.part) || strings.Contains(body, "must not show") {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
		if c.asked != "" && f.last() != c.asked {
			t.Errorf("%s %s: the backend was asked %q, want %q", c.method, c.path, f.last(), c.asked)
		}
	}
}

func TestTaskEvents(t *testing.T) {
	g, f, _ := fullRig(t, false)
	var view httpserver.View
	f.jobs.OnServe = nil
	resp, body := g.do(t, "GET", "/v2/tasks/j1/events", "", "Last-Event-ID", "7")
	if resp.StatusCode != 200 || !strings.Contains(body, "event: token") || resp.Header.Get("X-Rbee-Job-Id") != "j1" {
		t.Errorf("%d %s %+v", resp.StatusCode, body, view)
	}
	if _, body = g.do(t, "GET", "/v2/tasks/j1/events?format=openai", ""); !strings.Contains(body, "chat.completion.chunk") {
		t.Error(body)
	}
	for _, bad := range [][]string{{"/v2/tasks/j1/events?format=xml", ""}, {"/v2/tasks/j1/events", "abc"}, {"/v2/tasks/j1/events", "-1"}, {"/v2/tasks/j1/events", "99999999999999999999"}} {
		if resp, _ := g.do(t, "GET", bad[0], "", "Last-Event-ID", bad[1]); resp.StatusCode != 400 {
			t.Errorf("%v: %d", bad, resp.StatusCode)
		}
	}
	if resp, _ := g.do(t, "GET", "/v2/tasks/none/events", ""); resp.StatusCode != 404 {
		t.Errorf("%d", resp.StatusCode)
	}
	if resp, _ := g.do(t, "HEAD", "/v2/tasks/j1/events", ""); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %d", resp.StatusCode)
	}
}

func TestFeedsAndLogs(t *testing.T) {
	g, _, feed := fullRig(t, false)
	feed.events = []httpserver.Event{{ID: 1, Type: "progress", Data: []byte(`{"state":"downloading","bytes_done":1,"bytes_total":2}`)}, {ID: 2, Type: "end", Data: []byte(`{"state":"ready"}`)}}
	_, body := g.do(t, "GET", "/v2/operations/d-1/events", "")
	if want := "id: 1\nevent: progress\ndata: {\"state\":\"downloading\",\"bytes_done\":1,\"bytes_total\":2}\n\nid: 2\nevent: end\ndata: {\"state\":\"ready\"}\n\n"; body != want {
		t.Errorf("%q", body)
	}
	if _, body = g.do(t, "GET", "/v2/operations/d-1/events", "", "Last-Event-ID", "1"); strings.Contains(body, "id: 1\n") || !strings.Contains(body, "id: 2\n") {
		t.Errorf("%q", body)
	}
	if resp, _ := g.do(t, "GET", "/v2/operations/nothing/events", ""); resp.StatusCode != 404 {
		t.Errorf("%d", resp.StatusCode)
	}
	if _, body = g.do(t, "GET", "/v2/logs?node=local&tail=5", ""); body != "one\ntwo\nthree\n" {
		t.Errorf("%q", body)
	}
	if _, body = g.do(t, "GET", "/v2/logs", "", "Accept", "text/event-stream"); body != "data: one\n\ndata: two\n\ndata: three\n\n" {
		t.Errorf("%q", body)
	}
	if resp, _ := g.do(t, "GET", "/v2/logs?follow=maybe", ""); resp.StatusCode != 400 {
		t.Errorf("%d", resp.StatusCode)
	}
}

// TestFault22StaleRegistration passes a conflict on as 409.
func TestFault22StaleRegistration(t *testing.T) {
	g, f, _ := fullRig(t, false)
	for range 2 { // idempotent
		if resp, _ := g.do(t, "POST", "/v2/hives/gpu1/heartbeat", `{"epoch":1}`, "Authorization", "Bearer hive"); resp.StatusCode != 200 {
			t.Errorf("%d", resp.StatusCode)
		}
	}
	f.epoch = 9
	for path, body := range map[string]string{"/v2/hives/gpu1/heartbeat": `{"epoch":1}`, "/v2/workers/register": `{"worker_id":"x","url":"http://h:1","model":"m"}`} {
		resp, got := g.do(t, "POST", path, body, "Authorization", "Bearer hive")
		if resp.StatusCode != 409 || !strings.Contains(got, "CONFLICT") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, got)
		}
	}
	if resp, _ := g.do(t, "POST", "/v2/hives/other/heartbeat", `{"epoch":1}`, "Authorization", "Bearer hive"); resp.StatusCode != 403 {
		t.Errorf("another hive's name: %d", resp.StatusCode)
	}
}

// TestScopesOverHTTP tries keys of every scope on endpoints of every kind, those that don't exist included.
func TestScopesOverHTTP(t *testing.T) {
	g, _, _ := fullRig(t, true)
	order := []string{"", "infer", "operate", "admin"}
	for _, c := range []struct {
		method, path string
		from         int // first index in order that is let in
	}{
		{"GET", "/health", 0}, {"GET", "/metrics", 0}, {"GET", "/v1/models", 1}, {"GET", "/api/tags", 1}, {"GET", "/v2/tasks", 1}, {"GET", "/v2/workers/list", 2},
		{"PUT", "/v2/models/m", 2}, {"GET", "/v2/keys", 3}, {"POST", "/v2/workers/spawn", 3}, {"GET", "/nothing", 3}, {"GET", "/v2/nothing", 2}, {"DELETE", "/v1/nothing", 1},
	} {
		for i, key := range order {
			header := []string{}
			if key != "" {
				header = []string{"Authorization", "Bearer " + key}
			}
			resp, _ := g.do(t, c.method, c.path, "{}", header...)
			refused := resp.StatusCode == 401 || resp.StatusCode == 403
			if refused != (i < c.from) {
				t.Errorf("%s %s with key %q: %d", c.method, c.path, key, resp.StatusCode)
			}
			if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
		}
	}
	if resp, _ := g.do(t, "POST", "/v2/hives/gpu1/heartbeat", "{}", "Authorization", "Bearer operate"); resp.StatusCode != 403 {
		t.Errorf("an operator's key as a hive's token: %d", resp.StatusCode)
	}
	if resp, _ := g.do(t, "GET", "/v1/models", "", "Authorization", "Bearer hive"); resp.StatusCode != 403 {
		t.Errorf("a hive's token for models: %d", resp.StatusCode)
	}
	if resp, _ := g.do(t, "GET", "/metrics", "", "X-Forwarded-For", "1.2.3.4"); resp.StatusCode != 401 {
		t.Errorf("metrics through a proxy: %d", resp.StatusCode)
	}
	_, body := g.do(t, "GET", "/v1/models", "", "Authorization", "Bearer infer")
	if strings.Contains(body, "org/model") || !strings.Contains(body, "stories") {
		t.Errorf("a key sees models that it may not use: %s", body)
	}
}
