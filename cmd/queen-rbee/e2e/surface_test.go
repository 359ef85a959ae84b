package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// walked is one request of TestSurface and what of its answer contract.md fixes.
type walked struct {
	method, path, body string
	status             int
	part               string
}

const hello = `"messages":[{"role":"user","content":"hello"}]`

// TestSurface asks a real queen for what contract.md lists, and wrongly: status, code and the name of what was wrong.
func TestSurface(t *testing.T) {
	q := start(t, `models: {demo: {ref: "sim:demo?slots=4"}, org/slash: {ref: "sim:slash"}, broken: {ref: "sim:broken?fail=x"}}`+"\n")
	walk(t, q, openAIWalk())
	walk(t, q, ollamaWalk())
	walk(t, q, nativeWalk())
	// a model whose loading fails is placed again: its record must still replay
	q.ask("", "POST", "/v1/completions", `{"model":"broken","prompt":"x"}`)
	q.json("POST", "/v2/scheduler/replay", `{}`, nil, 200)
}

func walk(t *testing.T, q *queen, list []walked) {
	t.Helper()
	for _, c := range list {
		status, h, body := q.ask("", c.method, c.path, c.body)
		if status != c.status || !strings.Contains(body, c.part) {
			t.Errorf("%s %s %.80s: %d %.400s", c.method, c.path, c.body, status, body)
		}
		if h.Get("X-Request-Id") == "" || h.Get("X-Correlation-Id") == "" || status >= 400 && (h.Get("X-Rbee-Error") == "" || h.Get("X-Should-Retry") == "") {
			t.Errorf("%s %s: headers %v", c.method, c.path, h)
		}
		if h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s %s allows other origins", c.method, c.path)
		}
	}
}

func openAIWalk() []walked {
	chat, completions := "/v1/chat/completions", "/v1/completions"
	return []walked{
		{"POST", chat, `{"model":"demo",` + hello + `}`, 200, `"object":"chat.completion"`},
		{"POST", chat, `{"model":"demo","n":2,` + hello + `}`, 400, "one answer"},
		{"POST", chat, `{"model":"org/slash","max_tokens":1,` + hello + `}`, 200, `"model":"org/slash"`},
		{"POST", "/v1/chat%2Fcompletions", `{"model":"demo",` + hello + `}`, 400, `"code":"invalid_request"`},
		{"POST", "/v1/chat/completions/", `{"model":"demo",` + hello + `}`, 404, `"code":"not_found"`},
		{"GET", chat, "", 405, `"code":"method_not_allowed"`},
		{"POST", completions, `{"model":"demo","prompt":["x"],"max_tokens":2}`, 200, `"object":"text_completion"`},
		{"POST", completions, `{"model":"demo","prompt":["x","y"]}`, 400, "one text"},
		{"POST", completions, `{"model":"demo","prompt":[1,2]}`, 400, "one text"},
		{"POST", "/v1/embeddings", `{"model":"demo","input":"x","dimensions":4}`, 200, `"object":"embedding"`},
		{"POST", "/v1/embeddings", `{"model":"demo","input":"x","dimensions":400}`, 400, "dimensions"},
		{"GET", "/v1/models", "", 200, `"id":"org/slash"`},
		{"GET", "/v1/models/org%2Fslash", "", 200, `"id":"org/slash"`},
		{"GET", "/v1/models/org/slash", "", 200, `"id":"org/slash"`},
		{"GET", "/v1/models/", "", 404, `"code":"not_found"`},
		{"GET", "/v1/models/none", "", 404, `"code":"model_not_found"`},
		{"OPTIONS", "/v1/models", "", 405, "GET or HEAD"},
		{"POST", "/v1/responses", `{"model":"demo","input":"x"}`, 404, "llama.cpp"},
		{"POST", "/v1/messages", `{"model":"demo",` + hello + `}`, 404, "these would"},
		{"POST", "/v1/rerank", `{"model":"demo","query":"x","documents":["a"]}`, 404, "these would"},
		{"POST", "/v1/images/generations", `{"model":"demo","prompt":"x"}`, 404, "no engine known here would"},
		{"POST", "/v1/moderations", `{"input":"x"}`, 400, `"param":"model"`},
		{"GET", "/v1/files/none", "", 404, `"code":"not_found"`},
		{"POST", "/v1/batches", `{}`, 400, `"param":"input_file_id"`},
	}
}

func ollamaWalk() []walked {
	return []walked{
		{"GET", "/api/tags", "", 200, `"name":"demo"`}, {"GET", "/api/ps", "", 200, `"expires_at"`}, {"GET", "/api/version", "", 200, `"version"`},
		{"POST", "/api/show", `{"model":"demo:latest"}`, 200, `"capabilities":["completion"]`},
		{"POST", "/api/show", `{"model":"none"}`, 404, `{"error":"no model none`},
		{"POST", "/api/chat", `{"model":"demo","options":{"num_predict":2},` + hello + `}`, 200, `"done":true,"done_reason":"length"`},
		{"POST", "/api/chat", `{"model":"demo","options":{"num_predict":"x"},` + hello + `}`, 400, "num_predict"},
		{"POST", "/api/chat", `{"model":"demo","format":"yaml",` + hello + `}`, 400, "format"},
		{"POST", "/api/chat", `{"model":"demo","keep_alive":"abc",` + hello + `}`, 400, "keep_alive"},
		{"POST", "/api/generate", `{"model":"demo","prompt":"x","stream":false}`, 200, `"response":"`},
		{"POST", "/api/generate", `{"model":"demo","keep_alive":-1}`, 200, `"done_reason":"load"`},
		{"POST", "/api/embed", `{"model":"demo","input":["x"]}`, 200, `"embeddings":[[`}, {"POST", "/api/embed", `{"model":"demo","input":[]}`, 400, "input"},
		{"POST", "/api/embeddings", `{"model":"demo","prompt":"x"}`, 200, `"embedding":[`},
		{"POST", "/api/pull", `{"model":"demo"}`, 200, `{"status":"success"}`}, {"POST", "/api/pull", `{"model":"none"}`, 404, `{"error":"`},
		{"POST", "/api/create", `{}`, 404, `{"error":"`}, {"GET", "/api/chat", "", 405, "POST"},
	}
}

func nativeWalk() []walked {
	return []walked{
		{"POST", "/v2/tasks", `{"model":"demo","prompt":"x"}`, 202, `"status":"queued"`},
		{"POST", "/v2/tasks", `{"model":"demo","prompt":"x","foo":1}`, 400, `"param":"foo"`},
		{"POST", "/v2/tasks", `{"model":"demo","prompt":"x","node":"-x"}`, 400, `"param":"node"`},
		{"GET", "/v2/tasks?LIMIT=1", "", 400, "LIMIT"}, {"GET", "/v2/tasks?cursor=!", "", 400, "cursor"},
		{"GET", "/v2/tasks/none", "", 404, "JOB_NOT_FOUND"}, {"GET", "/v2/tasks/a%2Fb", "", 404, "JOB_NOT_FOUND"},
		{"GET", "/v2/workers/list?node=none", "", 404, "NODE_NOT_FOUND"}, {"GET", "/v2/workers/health?node=none", "", 404, "NODE_NOT_FOUND"},
		{"GET", "/v2/models/list?node=none", "", 404, "NODE_NOT_FOUND"}, {"GET", "/v2/logs?node=none", "", 404, "NODE_NOT_FOUND"},
		{"POST", "/v2/workers/spawn", `{"model_ref":"demo","node":"none"}`, 404, "NODE_NOT_FOUND"},
		{"POST", "/v2/workers/spawn", `{"model_ref":"demo","node":"local","device":"none"}`, 400, `no device \"none\"`},
		{"POST", "/v2/workers/spawn", `{"model_ref":"none"}`, 404, "MODEL_NOT_FOUND"},
		{"POST", "/v2/workers/shutdown", `{"worker_id":"none"}`, 404, "WORKER_NOT_FOUND"},
		{"POST", "/v2/hives/guest/heartbeat", `{}`, 400, "epoch"}, {"POST", "/v2/hives/guest/heartbeat", `{"epoch":"x"}`, 400, "epoch can't be a string"},
		{"POST", "/v2/hives/guest/heartbeat", `{"epoch":1,"seq":1}`, 200, "ok"},
		{"POST", "/v2/workers/spawn", `{"model_ref":"demo","node":"guest"}`, 409, "CONFLICT"},
		{"POST", "/v2/registry/beehives/remove", `{"node_name":"guest"}`, 200, "removed"},
		{"POST", "/v2/hives/none/start", "", 404, "NODE_NOT_FOUND"}, {"POST", "/v2/hives/..%2Fx/start", "", 400, `"code":"INVALID_REQUEST"`},
		{"PUT", "/v2/models/added", `{"ref":"sim:added"}`, 200, `"model":"added"`}, {"DELETE", "/v2/models/added", "", 200, "removed"},
		{"DELETE", "/v2/models/added", "", 404, "MODEL_NOT_FOUND"}, {"DELETE", "/v2/models/demo", "", 409, "CONFLICT"},
		{"PUT", "/v2/models/bad", `{"ref":"sim:x","engine":"none"}`, 400, `engine \"none\"`},
		{"PUT", "/v2/models/bad", `{"ref":5}`, 400, "ref can't be a number"}, {"PUT", "/v2/models/bad", `{"ref":"sim:x","foo":1}`, 400, "foo"},
		{"POST", "/v2/models/download", `{"model_ref":"../x"}`, 400, `"param":"model_ref"`},
		{"DELETE", "/v2/models", `{"node":"none","model_ref":"demo"}`, 404, "NODE_NOT_FOUND"},
		{"DELETE", "/v2/operations/none", "", 404, "JOB_NOT_FOUND"}, {"GET", "/v2/operations/none/events", "", 404, "JOB_NOT_FOUND"},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[{"model":"demo"}]}`, 200, `"decisions":[{"action":"`},
		{"POST", "/v2/scheduler/dry-run", `{"jobs":[{"model":"demo"}],"policy":{"foo":1}}`, 400, "policy.foo"},
		{"POST", "/v2/scheduler/replay", `{"x":1}`, 400, `"param":"x"`},
		{"PUT", "/v2/scheduler/policy", `{"source":"def f("}`, 400, "policy.star"}, {"PUT", "/v2/tenants/-a", `{}`, 400, `"param":"id"`},
		{"DELETE", "/v2/keys/none", "", 404, "NOT_FOUND"}, {"POST", "/v2/keys", `{"tenant_id":"a","expires_at":"soon"}`, 400, `"param":"expires_at"`},
		{"GET", "/v2/doctor", "", 200, `"remedy"`}, {"GET", "/ui/", "", 200, "html"}, {"GET", "/docs", "", 200, "/v2/tasks"}, {"GET", "/metrics/targets", "", 200, "queen"},
	}
}

// TestScopes asks for everything that /openapi.json lists with each kind of key.
func TestScopes(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	keys := map[string]string{"none": "", "wrong": strings.Repeat("k", 20)}
	for _, scope := range []string{"infer", "operate", "hive"} {
		keys[scope] = q.makeKey(admin, fmt.Sprintf(`{"tenant_id":"a","scope":%q,"label":"x"}`, scope)).Key
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Scope string `json:"x-rbee-scope"`
		}
	}
	q.json("GET", "/openapi.json", nil, &doc, 200)
	rank := map[string]int{"": 0, "infer": 1, "operate": 2, "admin": 3, "hive": 4}
	n := 0
	for path, methods := range doc.Paths {
		for i := strings.IndexByte(path, '{'); i >= 0; i = strings.IndexByte(path, '{') {
			path = path[:i] + "x" + path[i+strings.IndexByte(path[i:], '}')+1:]
		}
		for method, op := range methods {
			for who, key := range keys {
				if op.Scope == "" || path == "/v2/events" || strings.HasPrefix(path, "/metrics") || who == "wrong" && n > 15*len(keys) { // wrong ones are damped
					continue
				}
				n++
				status, h, body := q.ask(key, strings.ToUpper(method), path, "[]")
				want := 0 // whatever the endpoint says to a body that is no object
				switch {
				case who == "none" || who == "wrong":
					want = 401
				case who == "hive" && op.Scope != "hive", who != "hive" && rank[who] < rank[op.Scope]:
					want = 403
				}
				if want != 0 && status != want || want == 0 && (status == 401 || status == 403) || want == 401 && h.Get("Www-Authenticate") == "" {
					t.Errorf("%s %s (%s) with %s: %d %.200s", method, path, op.Scope, who, status, body)
				}
			}
		}
	}
	if n < 200 {
		t.Errorf("only %d requests were made", n)
	}
	others(t, q, keys)
}

// others: one client that sends a wrong key without end does not shut out the others behind its address.
func others(t *testing.T, q *queen, keys map[string]string) {
	q.until("the wrong key is damped", 5*time.Second, func() bool {
		status, h, body := q.ask(keys["wrong"], "GET", "/v1/models", "")
		if status == http.StatusTooManyRequests && h.Get("Retry-After") == "" {
			t.Errorf("no Retry-After: %v", h)
		}
		var e struct{ Error map[string]any }
		return json.Unmarshal([]byte(body), &e) == nil && status == http.StatusTooManyRequests && e.Error["code"] == "rate_limit_exceeded"
	})
	if status, _, body := q.ask(keys["infer"], "GET", "/v1/models", ""); status != 200 {
		t.Errorf("another client's good key: %d %s", status, body)
	}
}
