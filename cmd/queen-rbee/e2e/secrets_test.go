package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// secrets collects what was used, and what was seen that must not hold any of it.
type secrets struct {
	t      *testing.T
	mu     sync.Mutex
	values map[string]string // what it is -> the value
	seen   int
}

func (s *secrets) add(what, value string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[what] = value
	return value
}

// check greps data for every secret whose name does not begin with one of the allowed words.
func (s *secrets) check(where string, data []byte, allowed ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen += len(data)
next:
	for what, value := range s.values {
		for _, a := range allowed {
			if strings.HasPrefix(what, a) {
				continue next
			}
		}
		if i := bytes.Index(data, []byte(value)); i >= 0 {
			s.t.Errorf("%s holds %s: ...%q", where, what, data[max(0, i-80):i])
		}
	}
}

// prompt makes a prompt with a marker of its own.
func (s *secrets) prompt(n string) string { return s.add("prompt "+n, "zq"+n+"Xylophon7") }

// external is a server that wants a key, repeats it in an error once, and answers a completion else.
func (s *secrets) external() *httptest.Server {
	key := s.add("external key", "sk-external-5f1c8e9b7a")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Authorization") != "Bearer "+key {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if bytes.Contains(body, []byte("break")) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = fmt.Fprintf(w, `{"error":{"message":"cannot serve, key %s, body %q"}}`, key, body)
			return
		}
		_, _ = io.WriteString(w, `{"id":"x","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":"ok","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}))
	s.t.Cleanup(srv.Close)
	return srv
}

// TestNoSecretLeaks runs a long scenario and greps everything that the programs wrote and answered for every secret and
// every prompt. What a job's own reader gets, and what the store holds of a job that has not ended, is not looked at.
func TestNoSecretLeaks(t *testing.T) {
	s := &secrets{t: t, values: map[string]string{}}
	t.Setenv("HF_TOKEN", s.add("hub token", "hf_QwErTyUiOp0123456789"))
	t.Setenv("HF_ENDPOINT", "http://127.0.0.1:9")
	t.Setenv("RBEE_LOG_LEVEL", "debug")
	t.Setenv("RBEE_LOG_FORMAT", "json")
	ext := s.external()
	q := start(t, fmt.Sprintf(`models: {demo: {ref: "sim:demo?itl=2ms", workers: 1}, hub: {ref: "hf:nobody/no-such-model"}}
externals: [{name: ext, url: %q, protocol: openai, models: {far: far}, slots: 2, health: /, api_key: %s}]
queue: {keep_events: 1s}
limits: {tight: {rpm: 1}}
`, ext.URL, s.values["external key"]))
	admin := s.add("admin key", q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key)
	user := q.makeKey(admin, `{"tenant_id":"acme","scope":"infer","models":["demo","far"]}`)
	s.add("user key", user.Key)
	tight := s.add("tight key", q.makeKey(admin, `{"tenant_id":"tight","scope":"infer"}`).Key)
	hive := s.add("hive key", q.makeKey(admin, `{"scope":"hive","label":"gpu1"}`).Key)
	wrong := s.add("wrong key", user.Key[:len(user.Key)-6]+"abcdef")
	odd := s.add("odd key", "sk-completely-foreign-key")
	for _, k := range []string{"admin key", "user key", "tight key", "hive key", "wrong key"} {
		s.add(k+"'s secret part", s.values[k][19:])
	}
	s.traffic(q, user.Key, tight, wrong, odd)
	s.errors(q, admin, user.Key, hive)
	t.Setenv("RBEE_KEY", admin)
	for _, args := range [][]string{{"ps"}, {"ls"}, {"status"}, {"key", "ls", "-o", "json"}, {"tenant", "ls"}, {"doctor"}, {"job", "ls"}, {"hive", "ls", "-o", "yaml"}, {"logs"}} {
		out, errOut, _ := q.rbee(args...)
		s.check("rbee "+strings.Join(args, " "), []byte(out+errOut))
	}
	for _, path := range []string{"/v2/keys", "/v2/tenants", "/v2/tasks", "/v2/tasks?explain=true", "/v2/workers/list", "/v2/workers/health", "/v2/registry/beehives/list",
		"/v2/models/list", "/v2/models/catalog", "/v2/doctor", "/v2/logs?tail=10000", "/v2/scheduler/policy", "/v1/models", "/metrics", "/metrics/engines", "/metrics/targets",
		"/openapi.json", "/health", "/ready", "/api/tags", "/api/ps"} {
		_, h, data := q.ask(admin, "GET", path, nil)
		s.check("GET "+path, []byte(data))
		s.check("headers of GET "+path, fmt.Append(nil, h))
	}
	s.processes(q)
	s.until(q)
	q.stop()
	s.check("the queen's log", []byte(q.logs()))
	if !strings.Contains(q.logs(), `"level":"DEBUG"`) && !strings.Contains(q.logs(), `"level":"INFO"`) {
		t.Errorf("the queen wrote no JSON log:\n%s", q.logs())
	}
	s.files(q.dir)
	t.Logf("%d secrets, %d bytes looked through", len(s.values), s.seen)
}

// traffic sends prompts in every form; the answers hold none of the keys.
func (s *secrets) traffic(q *queen, user, tight, wrong, odd string) {
	for i, c := range []struct{ key, path, body string }{
		{user, "/v1/completions", `{"model":"demo","prompt":"%s","max_tokens":3}`},
		{user, "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"%s"}],"max_tokens":3,"stream":true}`},
		{user, "/v2/tasks", `{"model":"demo","prompt":"%s","max_tokens":3}`},
		{user, "/api/generate", `{"model":"demo","prompt":"%s","stream":false}`},
		{user, "/v1/completions", `{"model":"far","prompt":"%s","max_tokens":3}`},
		{user, "/v1/completions", `{"model":"far","prompt":"break %s","max_tokens":3}`},
		{user, "/v1/completions", `{"model":"nosuch","prompt":"%s"}`},
		{user, "/v1/completions", `{"model":"demo","prompt":"%s","temperature":"hot"}`},
		{user, "/v1/completions", `{"model":"demo","prompt":"%s"`},
		{user, "/v2/tasks", `{"model":"demo","prompt":"%s","nosuch":1}`},
		{user, "/v2/tasks", `{"model":"demo","prompt":"%s","max_tokens":3,"deadline":"1ns"}`},
		{tight, "/v1/completions", `{"model":"demo","prompt":"%s","max_tokens":1}`},
		{tight, "/v1/completions", `{"model":"demo","prompt":"%s","max_tokens":1}`},
		{wrong, "/v1/completions", `{"model":"demo","prompt":"%s","max_tokens":1}`},
		{odd, "/v2/tasks", `{"model":"demo","prompt":"%s","max_tokens":1}`},
	} {
		name := fmt.Sprint(i)
		_, h, data := q.ask(c.key, "POST", c.path, fmt.Sprintf(c.body, s.prompt(name)))
		s.check("the answer to prompt "+name, []byte(data))
		s.check("the headers of the answer to prompt "+name, fmt.Append(nil, h))
	}
}

// errors asks for what is refused or fails, with secrets in every place that a client may put them.
func (s *secrets) errors(q *queen, admin, user, hive string) {
	for _, c := range []struct{ key, method, path, body string }{
		{user, "POST", "/v2/keys", `{"tenant_id":"acme","scope":"admin"}`},
		{admin, "POST", "/v2/keys", `{"tenant_id":"a b","scope":"infer"}`},
		{hive, "POST", "/v2/hives/gpu1/heartbeat", `{"epoch":1}`},
		{hive, "POST", "/v1/completions", `{"model":"demo","prompt":"x"}`},
		{admin, "POST", "/v2/models/download", `{"node":"local","model_ref":"hf:nobody/no-such-model"}`},
		{admin, "POST", "/v2/workers/spawn", `{"node":"local","model_ref":"sim:other?fail=load"}`},
		{admin, "PUT", "/v2/scheduler/policy", `{"name":"nosuch"}`},
		{admin, "DELETE", "/v2/tasks/nosuch", ""},
	} {
		_, _, data := q.ask(c.key, c.method, c.path, c.body)
		s.check(c.method+" "+c.path, []byte(data))
	}
}

// until waits until no job runs and the frames of those that ended are gone.
func (s *secrets) until(q *queen) {
	q.until("the jobs have ended", 30*time.Second, func() bool {
		_, _, data := q.ask(s.values["admin key"], "GET", "/v2/tasks", nil)
		return !strings.Contains(data, `"queued"`) && !strings.Contains(data, `"running"`)
	})
}

var hivePIDs = regexp.MustCompile(`"pid":\s*(\d+)`)

// processes looks at the argument lists of the queen, the hive and the workers, which every user of a machine can read.
func (s *secrets) processes(q *queen) {
	pids := map[string]bool{fmt.Sprint(q.cmd.Process.Pid): true}
	_, _, workers := q.ask(s.values["admin key"], "GET", "/v2/workers/list", nil)
	info, _ := os.ReadFile(filepath.Join(q.dir, "hives", "local", "hive.json"))
	for _, m := range hivePIDs.FindAllStringSubmatch(workers+string(info), -1) {
		pids[m[1]] = m[1] != "0"
	}
	if len(pids) < 3 {
		s.t.Errorf("queen, hive and a worker are expected: %v", pids)
	}
	s.hiveTokens(q.dir)
	for pid, ok := range pids {
		if ok {
			line, err := os.ReadFile("/proc/" + pid + "/cmdline")
			need(s.t, err == nil || os.IsNotExist(err), "/proc (a privilege of linux)")
			s.check("the arguments of process "+pid, line)
		}
	}
}

// hiveTokens adds the tokens that the queen gave her hives to what is looked for.
func (s *secrets) hiveTokens(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), "token") {
			if data, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(data)) >= 16 {
				s.add("hive token "+path, string(bytes.TrimSpace(data)))
			}
		}
		return nil
	})
}

// files looks through everything below the data directory. A hive's token may lie there, readable by its owner only.
func (s *secrets) files(dir string) {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		allowed := []string{}
		if info, err := d.Info(); err == nil && info.Mode().Perm() == 0o600 && strings.Contains(d.Name(), "token") {
			allowed = append(allowed, "hive token")
		}
		if strings.Contains(filepath.Base(path), ".db") || strings.Contains(path, "journal") {
			allowed = append(allowed, "prompt") // free pages keep what was scrubbed until they are used again
		}
		s.check(path, data, allowed...)
		return nil
	})
	if err != nil || n < 3 {
		s.t.Errorf("the data directory was not looked through: %d files, %v", n, err)
	}
}
