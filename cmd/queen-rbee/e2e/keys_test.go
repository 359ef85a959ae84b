package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

type newKey struct {
	ID, Key, Scope string
	TenantID       string `json:"tenant_id"`
}

// ask sends a request with a key ("" for none) and returns status, headers and body.
func (q *queen) ask(key, method, path string, body any) (int, http.Header, string) {
	q.t.Helper()
	var header []string
	if key != "" {
		header = []string{"Authorization", "Bearer " + key}
	}
	res, err := q.do(q.t.Context(), method, path, body, header...)
	if err != nil {
		q.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		q.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, res.Header, string(data)
}

// makeKey makes a key with the admin's ("" while there is none).
func (q *queen) makeKey(admin, body string) newKey {
	q.t.Helper()
	status, _, data := q.ask(admin, "POST", "/v2/keys", body)
	if status != 201 {
		q.t.Fatalf("POST /v2/keys %s: %d %s", body, status, data)
	}
	var k newKey
	mustUnmarshal(q.t, data, &k)
	return k
}

// refused checks the body of a refusal on the face that the path has, and the headers that go with it.
func (q *queen) refused(what, key, method, path, body string, status int, code string) http.Header {
	q.t.Helper()
	got, h, data := q.ask(key, method, path, body)
	var e struct {
		Error map[string]any `json:"error"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil || got != status || e.Error["code"] != code || e.Error["message"] == "" {
		q.t.Errorf("%s: %s %s: %d %s, want %d %s", what, method, path, got, data, status, code)
	}
	if strings.HasPrefix(path, "/v1/") {
		for _, k := range []string{"message", "type", "param", "code"} {
			if _, ok := e.Error[k]; !ok {
				q.t.Errorf("%s: the OpenAI error has no %s: %s", what, k, data)
			}
		}
		if h.Get("X-Rbee-Error") == "" {
			q.t.Errorf("%s: no X-Rbee-Error", what)
		}
	} else if e.Error["correlation_id"] == "" || e.Error["correlation_id"] == nil {
		q.t.Errorf("%s: no correlation_id: %s", what, data)
	}
	if status == 401 && !strings.HasPrefix(h.Get("WWW-Authenticate"), "Bearer") {
		q.t.Errorf("%s: no WWW-Authenticate", what)
	}
	if key != "" && strings.Contains(data, key) {
		q.t.Errorf("%s: the refusal repeats the key: %s", what, data)
	}
	return h
}

const completionBody = `{"model":"demo","prompt":"hello there","max_tokens":2}`

func TestKeysAtRunTime(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}, other: {ref: \"sim:other\"}}\nauth: {mode: auto}\n")
	q.json("GET", "/v1/models", nil, nil, 200) // loopback, no key yet: everybody
	if _, stderr, code := q.rbee("key", "create", "--scope", "infer"); code == 0 || !strings.Contains(stderr, "--scope admin") {
		t.Fatalf("a first key that cannot make others: exit %d, %s", code, stderr)
	}
	stdout, stderr, code := q.rbee("key", "create", "--scope", "admin", "--tenant", "ops")
	admin := strings.TrimSpace(stdout)
	if code != 0 || !strings.HasPrefix(admin, "rbee_") {
		t.Fatalf("rbee key create: exit %d, %q, %s", code, stdout, stderr)
	}
	wrong := admin[:len(admin)-4] + "0000"
	for what, key := range map[string]string{"no key": "", "a wrong key": wrong, "an odd key": "sk-1234"} {
		q.refused(what, key, "GET", "/v1/models", "", 401, "invalid_api_key")
		q.refused(what, key, "POST", "/v1/completions", completionBody, 401, "invalid_api_key")
		q.refused(what, key, "GET", "/v2/workers/list", "", 401, "UNAUTHENTICATED")
		q.refused(what, key, "GET", "/v2/no/such/path", "", 401, "UNAUTHENTICATED")
	}
	if _, _, code := q.rbee("ps"); code != 4 {
		t.Errorf("rbee ps without a key: exit %d, want 4", code)
	}

	user := q.makeKey(admin, `{"tenant_id":"acme","scope":"infer","models":["demo"],"label":"laptop"}`)
	if status, _, list := q.ask(user.Key, "GET", "/v1/models", nil); status != 200 || !strings.Contains(list, `"demo"`) || strings.Contains(list, `"other"`) {
		t.Errorf("models of a key that may use demo: %d %s", status, list)
	}
	if status, _, data := q.ask(user.Key, "POST", "/v1/completions", completionBody); status != 200 {
		t.Errorf("a good key: %d %s", status, data)
	}
	q.refused("another model", user.Key, "POST", "/v1/completions", strings.Replace(completionBody, "demo", "other", 1), 403, "forbidden")
	q.refused("another model", user.Key, "POST", "/v2/tasks", strings.Replace(completionBody, "demo", "other", 1), 403, "FORBIDDEN")
	q.refused("infer reads /v2", user.Key, "GET", "/v2/workers/list", "", 403, "FORBIDDEN")
	q.refused("infer makes keys", user.Key, "POST", "/v2/keys", `{"tenant_id":"acme","scope":"admin"}`, 403, "FORBIDDEN")

	// rotation: two active, a third refused, the old one ends at once
	second := q.makeKey(admin, `{"tenant_id":"acme","scope":"infer","label":"laptop"}`)
	q.refused("a third active key", admin, "POST", "/v2/keys", `{"tenant_id":"acme","scope":"infer","label":"laptop"}`, 409, "CONFLICT")
	t.Setenv("RBEE_KEY", admin)
	if out, stderr, code := q.rbee("key", "ls"); code != 0 || !strings.Contains(out, user.ID) || strings.Contains(out, user.Key) {
		t.Errorf("rbee key ls: exit %d %s %s", code, out, stderr)
	}
	if _, stderr, code := q.rbee("key", "revoke", user.ID); code != 0 {
		t.Errorf("rbee key revoke: %s", stderr)
	}
	q.refused("a revoked key", user.Key, "GET", "/v1/models", "", 401, "invalid_api_key")
	if status, _, _ := q.ask(second.Key, "GET", "/v1/models", nil); status != 200 {
		t.Errorf("the new key of a rotation: %d", status)
	}
	expires := time.Now().Add(2 * time.Second)
	short := q.makeKey(admin, fmt.Sprintf(`{"tenant_id":"acme","scope":"infer","label":"short","expires_at":%q}`, expires.UTC().Format(time.RFC3339Nano)))
	if status, _, data := q.ask(short.Key, "GET", "/v1/models", nil); status != 200 && time.Now().Before(expires) {
		t.Errorf("a key before it expires: %d %s", status, data)
	}
	q.until("the key has expired", 10*time.Second, func() bool { status, _, _ := q.ask(short.Key, "GET", "/v1/models", nil); return status == 401 })
	q.refused("the last admin key", admin, "DELETE", "/v2/keys/"+admin[5:18], "", 409, "CONFLICT")

	tenantLimits(t, q, admin, second.Key)
	hiveTokens(t, q, admin, second.Key)
}

func tenantLimits(t *testing.T, q *queen, admin, user string) {
	t.Helper()
	if out, stderr, code := q.rbee("tenant", "set", "acme", "--rpm", "2", "--model", "demo"); code != 0 {
		t.Fatalf("rbee tenant set: %s %s", out, stderr)
	}
	if out, stderr, code := q.rbee("tenant", "show", "acme"); code != 0 || !strings.Contains(out, "acme") || !strings.Contains(out, "demo") {
		t.Errorf("rbee tenant show: %s %s", out, stderr)
	}
	if _, _, list := q.ask(user, "GET", "/v1/models", nil); strings.Contains(list, `"other"`) {
		t.Errorf("models of a tenant that may use demo: %s", list)
	}
	q.refused("a model the tenant may not use", user, "POST", "/v1/completions", strings.Replace(completionBody, "demo", "other", 1), 403, "forbidden")
	var h http.Header
	for range 2 {
		var status int
		var data string
		if status, h, data = q.ask(user, "POST", "/v1/completions", completionBody); status == 429 {
			break
		} else if status != 200 {
			t.Fatalf("within the limit: %d %s", status, data)
		}
		if h.Get("X-Ratelimit-Limit-Requests") != "2" || h.Get("X-Ratelimit-Remaining-Requests") == "" || h.Get("X-Ratelimit-Reset-Requests") == "" {
			t.Errorf("x-ratelimit headers of an answer: %v", h)
		}
	}
	for path, code := range map[string]string{"/v1/completions": "rate_limit_exceeded", "/v2/tasks": "RATE_LIMITED"} {
		h := q.refused("over the rate", user, "POST", path, completionBody, 429, code)
		secs, _ := strconv.Atoi(h.Get("Retry-After"))
		if secs < 1 || secs > 60 || h.Get("Retry-After-Ms") == "" || h.Get("X-Should-Retry") != "true" || h.Get("X-Ratelimit-Remaining-Requests") != "0" {
			t.Errorf("%s: headers of a rate refusal: %v", path, h)
		}
	}
	if out, stderr, code := q.rbee("tenant", "set", "acme", "--rpm", "0", "--tokens-per-day", "1"); code != 0 {
		t.Fatalf("rbee tenant set: %s %s", out, stderr)
	}
	for path, code := range map[string]string{"/v1/completions": "insufficient_quota", "/v2/tasks": "QUOTA_EXCEEDED"} {
		if h := q.refused("over the quota", user, "POST", path, completionBody, 429, code); h.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: headers of a quota refusal: %v", path, h)
		}
	}
	if out, _, code := q.rbee("tenant", "ls", "-o", "json"); code != 0 || !strings.Contains(out, `"demo"`) || !strings.Contains(out, `"acme"`) {
		t.Errorf("tenant set must keep what it does not name: %s", out)
	}
	q.refused("infer reads tenants", user, "GET", "/v2/tenants", "", 403, "FORBIDDEN")
	if status, _, data := q.ask(admin, "PUT", "/v2/tenants/acme", `{"rpm":0,"tpm":0,"concurrent":0,"tokens_per_day":0}`); status != 200 {
		t.Errorf("PUT /v2/tenants: %d %s", status, data)
	}
	if status, _, data := q.ask(user, "POST", "/v1/completions", completionBody); status != 200 {
		t.Errorf("without limits again: %d %s", status, data)
	}
}

func hiveTokens(t *testing.T, q *queen, admin, user string) {
	t.Helper()
	token := q.makeKey(admin, `{"scope":"hive","label":"gpu1"}`)
	q.refused("a token without a node", admin, "POST", "/v2/keys", `{"scope":"hive"}`, 400, "INVALID_REQUEST")
	const beat = `{"epoch":1,"seq":1}`
	q.refused("no token", "", "POST", "/v2/hives/gpu1/heartbeat", beat, 401, "UNAUTHENTICATED")
	q.refused("a user's key", user, "POST", "/v2/hives/gpu1/heartbeat", beat, 403, "FORBIDDEN")
	q.refused("another node", token.Key, "POST", "/v2/hives/gpu2/heartbeat", beat, 403, "FORBIDDEN")
	if status, _, data := q.ask(token.Key, "POST", "/v2/hives/gpu1/heartbeat", beat); status != 200 { // its first report registers it
		t.Errorf("the token's own node: %d %s", status, data)
	}
	q.refused("a hive infers", token.Key, "POST", "/v1/completions", completionBody, 403, "forbidden")
	q.refused("a hive reads", token.Key, "GET", "/v2/workers/list", "", 403, "FORBIDDEN")
	worker := `{"worker_id":"w-ext","node":"gpu2","model":"demo","url":"http://127.0.0.1:1"}`
	q.refused("a worker of another node", token.Key, "POST", "/v2/workers/register", worker, 403, "FORBIDDEN")
	q.refused("a user registers a worker", user, "POST", "/v2/workers/register", worker, 403, "FORBIDDEN")
}

type auditEntry struct{ Actor, Action, Object, Detail string }

func readAudit(t *testing.T, path string) (out []auditEntry) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		var e auditEntry
		mustUnmarshal(t, lines.Text(), &e)
		out = append(out, e)
	}
	return out
}

// TestAudit does one of everything that is written down, finds it with its actor, and tampers with it.
func TestAudit(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`)
	other := q.makeKey(admin.Key, `{"tenant_id":"ops","scope":"infer"}`)
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"DELETE", "/v2/keys/" + other.ID, "", 200},
		{"PUT", "/v2/tenants/acme", `{"rpm":5}`, 200},
		{"PUT", "/v2/scheduler/policy", `{"name":"basic"}`, 200},
		{"PUT", "/v2/models/extra", `{"ref":"sim:extra"}`, 200},
		{"DELETE", "/v2/models/extra", "", 200},
		{"POST", "/v2/registry/beehives/add", `{"node_name":"second","mode":"local"}`, 201},
		{"POST", "/v2/registry/beehives/remove", `{"node_name":"second"}`, 200},
		{"POST", "/v2/admin/shutdown", `{"cascade":true}`, 202},
	} {
		if status, _, data := q.ask(admin.Key, c.method, c.path, c.body); status/100 != 2 {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, status, data, c.want)
		}
	}
	if err := <-q.done; err != nil {
		t.Fatalf("the queen ended with %v after POST /v2/admin/shutdown", err)
	}
	q.cmd = nil
	log := filepath.Join(q.dir, "audit.jsonl")
	entries := readAudit(t, log)
	want := []auditEntry{{"loopback", "key.create", admin.ID, ""}, {"", "key.create", other.ID, ""}, {"", "key.revoke", other.ID, ""}, {"", "tenant.set", "acme", ""},
		{"", "policy.set", "basic", ""}, {"", "model.put", "extra", ""}, {"", "model.delete", "extra", ""}, {"", "hive.add", "second", ""},
		{"", "hive.remove", "second", ""}, {"", "admin.shutdown", "", ""}}
	if len(entries) != len(want) {
		t.Fatalf("audit log: %+v", entries)
	}
	for i, w := range want {
		if w.Actor == "" {
			w.Actor = "key " + admin.ID
		}
		if e := entries[i]; e.Actor != w.Actor || e.Action != w.Action || e.Object != w.Object {
			t.Errorf("entry %d: %+v, want %+v", i+1, e, w)
		}
	}
	tampered(t, q, log)
	if status, _, _ := q.ask("", "GET", "/v1/models", nil); status != 401 {
		t.Errorf("keys are needed after a restart: %d", status)
	}
	if e := readAudit(t, log); len(e) != 1 || e[0].Action != "audit.restart" {
		t.Errorf("the new log: %+v", e)
	}
}

// tampered edits the log: the queen refuses to start and says what to do, and doing it helps.
func tampered(t *testing.T, q *queen, log string) {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, bytes.Replace(data, []byte("acme"), []byte("evil"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(q.bin, "queen-rbee"), "--config", q.config, "--addr", "127.0.0.1:0").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("--restart-audit")) || !bytes.Contains(out, []byte("audit.jsonl")) {
		t.Fatalf("a queen with a changed audit log: %v\n%s", err, out)
	}
	q.args = []string{"--restart-audit"}
	q.launch("127.0.0.1:0")
	kept, err := filepath.Glob(log + ".tampered-*")
	if err != nil || len(kept) != 1 {
		t.Errorf("the evidence: %v %v", kept, err)
	}
}

// TestNoKeyNoNetwork: beyond loopback the queen wants a key first, and says so.
func TestNoKeyNoNetwork(t *testing.T) {
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "queen-rbee"), "--data-dir", t.TempDir(), "--addr", "0.0.0.0:0").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("rbee key create --scope admin")) {
		t.Fatalf("a queen beyond loopback without a key: %v\n%s", err, out)
	}
}
