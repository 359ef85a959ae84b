package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const guestToken = "0123456789abcdef0123456789abcdef"

// guestHive is a hive that somebody else started: nothing of it is the queen's.
type guestHive struct {
	t    *testing.T
	url  string
	last map[string]any // what it said of itself last
}

func startGuest(t *testing.T, bin string) *guestHive {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "rbee-hive"), "-data-dir", t.TempDir(), "-name", "guest", "-token-stdin")
	cmd.Stdin = strings.NewReader(guestToken + "\n")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	g := &guestHive{t: t}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	})
	for sc := bufio.NewScanner(out); g.url == "" && sc.Scan(); {
		g.url, _ = strings.CutPrefix(sc.Text(), "ready ")
	}
	return g
}

// call asks the hive itself, as whoever started it may.
func (g *guestHive) call(method, path, body string) []byte {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+guestToken)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		g.t.Fatalf("%s %s: %d %s %v", method, path, res.StatusCode, data, err)
	}
	return data
}

// state is the hive's word about itself, with changes.
func (g *guestHive) state(change map[string]any) string {
	g.t.Helper()
	g.last = map[string]any{}
	if err := json.Unmarshal(g.call("GET", "/v1/status", ""), &g.last); err != nil {
		g.t.Fatal(err)
	}
	for k, v := range change {
		g.last[k] = v
	}
	data, err := json.Marshal(g.last)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(data)
}

// TestFault22GuestHive: a hive that the queen did not start reports with a token of its own, and its workers serve.
func TestFault22GuestHive(t *testing.T) {
	q := start(t, "hives: []\nmodels: {theirs: {ref: \"sim:theirs\"}, byhand: {ref: \"sim:byhand\"}}\n")
	admin := q.makeKey("", `{"scope":"admin","tenant_id":"ops"}`).Key
	user := q.makeKey(admin, `{"scope":"infer","tenant_id":"team"}`).Key
	token := q.makeKey(admin, `{"scope":"hive","label":"guest"}`).Key
	other := q.makeKey(admin, `{"scope":"hive","label":"other"}`).Key
	const beat = "/v2/hives/guest/heartbeat"
	for what, key := range map[string]string{"no key": "", "a user's key": user, "another hive's token": other} {
		status, code := 403, "FORBIDDEN"
		if key == "" {
			status, code = 401, "UNAUTHENTICATED"
		}
		q.refused(what, key, "POST", beat, `{"epoch":1,"seq":1}`, status, code)
		q.refused(what, key, "POST", "/v2/workers/register", `{"worker_id":"w","node":"guest","url":"http://127.0.0.1:1","model":"byhand"}`, status, code)
	}
	q.refused("the token for anything else", token, "GET", "/v2/workers/list", "", 403, "FORBIDDEN")
	q.refused("the token for inference", token, "POST", "/v1/completions", `{"model":"theirs","prompt":"x"}`, 403, "forbidden")

	g := startGuest(t, q.bin)
	g.call("POST", "/v1/workers/spawn", `{"worker_id":"w-theirs","model":"theirs","model_ref":"sim:theirs","engine":{"name":"sim"}}`)
	q.until("the guest's worker serves", 20*time.Second, func() bool { return strings.Contains(g.state(nil), `"state":"idle"`) })
	report := func(body string) int {
		status, _, _ := q.ask(token, "POST", beat, body)
		return status
	}
	if s := report(g.state(nil)); s != 200 {
		t.Fatalf("heartbeat: %d\n%s", s, q.logs())
	}
	status, h, body := q.ask(user, "POST", "/v1/completions", `{"model":"theirs","prompt":"hello","max_tokens":3}`)
	if status != 200 || h.Get("X-Rbee-Worker-Id") != "w-theirs" {
		t.Fatalf("the guest's worker: %d by %q: %s\n%s", status, h.Get("X-Rbee-Worker-Id"), body, q.logs())
	}
	// idempotent by epoch and number, stale refused, and neither changes anything
	now := g.state(nil)
	epoch, seq := g.last["epoch"].(float64), g.last["seq"].(float64)
	if a, b := report(now), report(now); a != 200 || b != 200 {
		t.Errorf("the same report twice: %d %d", a, b)
	}
	for what, change := range map[string]map[string]any{
		"an older number": {"seq": seq - 1, "workers": []any{}}, "an older epoch": {"epoch": epoch - 1, "workers": []any{}},
	} {
		if s := report(g.state(change)); s != 409 {
			t.Errorf("%s: %d, want 409", what, s)
		}
	}
	var list workerList
	_, _, body = q.ask(admin, "GET", "/v2/workers/list?node=guest", nil)
	mustUnmarshal(t, body, &list)
	if len(list.Workers) != 1 {
		t.Fatalf("workers after stale reports: %s", body)
	}
	registerByHand(t, q, g, admin, token, user, report)
}

// registerByHand: a server of somebody's joins as a worker of the guest.
func registerByHand(t *testing.T, q *queen, g *guestHive, admin, token, user string, report func(string) int) {
	theirs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/behind/v1/completions" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `{"id":"x","object":"text_completion","created":1,"model":"byhand","choices":[{"index":0,"text":"from afar","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
	}))
	defer theirs.Close()
	join := func(url string) int {
		status, _, _ := q.ask(token, "POST", "/v2/workers/register", map[string]any{"worker_id": "w-hand", "model": "byhand", "url": url, "protocol": "openai", "slots_total": 1, "slots_free": 1})
		return status
	}
	if s := join("ftp://127.0.0.1:1"); s != 400 {
		t.Errorf("a URL that is no server's: %d", s)
	}
	if s := join(theirs.URL + "/behind"); s != 200 {
		t.Fatalf("register: %d", s)
	}
	if s := join(theirs.URL + "/behind"); s != 200 {
		t.Errorf("register again: %d", s)
	}
	if s := report(g.state(map[string]any{"workers": nil})); s != 200 { // without a list, who registered stays
		t.Errorf("heartbeat without workers: %d", s)
	}
	status, h, body := q.ask(user, "POST", "/v1/completions", `{"model":"byhand","prompt":"hello","max_tokens":3}`)
	if status != 200 || h.Get("X-Rbee-Worker-Id") != "w-hand" || !strings.Contains(body, "from afar") {
		t.Fatalf("the registered worker: %d by %q: %s\n%s", status, h.Get("X-Rbee-Worker-Id"), body, q.logs())
	}
	// it is gone with the next whole report
	if s := report(g.state(nil)); s != 200 {
		t.Errorf("heartbeat: %d", s)
	}
	var list workerList
	q.until("the registered worker is gone", 5*time.Second, func() bool {
		_, _, data := q.ask(admin, "GET", "/v2/workers/list?node=guest", nil)
		mustUnmarshal(t, data, &list)
		return len(list.Workers) == 1 && list.Workers[0].WorkerID == "w-theirs"
	})
}
