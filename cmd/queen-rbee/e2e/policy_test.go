package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type policyRecord struct {
	Name, Hash, Language, Source string
	Failures                     int
}

func TestPoliciesReloadLive(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "mine.star")
	source, err := os.ReadFile(filepath.Join(root(), "scheduler", "scriptsched", "policies", "sticky-sessions.star"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(source)
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\nscheduler: {policy: "+file+"}\n")
	var p, old policyRecord
	q.json("GET", "/v2/scheduler/policy", nil, &p, 200)
	if p.Language != "starlark" || p.Source == "" {
		t.Fatalf("policy %+v", p)
	}
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`, nil, 200)

	// a change of the file takes effect while the queen runs; a broken one keeps the old policy
	old = p
	write([]byte(strings.Replace(string(source), "\n", "\n# changed\n", 1)))
	q.until("the new policy is in force", 10*time.Second, func() bool {
		q.json("GET", "/v2/scheduler/policy", nil, &p, 200)
		return p.Hash != old.Hash
	})
	old = p
	write([]byte("def schedule(job, workers, hives):\n    this is not starlark\n"))
	<-time.After(1500 * time.Millisecond)
	q.json("GET", "/v2/scheduler/policy", nil, &p, 200)
	if p.Hash != old.Hash {
		t.Fatal("a broken policy was taken")
	}
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`, nil, 200)

	// over HTTP: YAML rules, a name, and hostile scripts
	var e struct {
		Error struct{ Code, Message string }
	}
	for name, bad := range map[string]string{
		"syntax": "def schedule(job, workers, hives:\n", "no function": "x = 1\n", "wrong type": "schedule = 3\n",
	} {
		q.json("PUT", "/v2/scheduler/policy", map[string]string{"name": name, "language": "starlark", "source": bad}, &e, 400)
	}
	q.json("PUT", "/v2/scheduler/policy", map[string]string{"name": "loop", "language": "starlark",
		"source": "def schedule(job, workers, hives):\n    for i in range(1000000000):\n        pass\n"}, nil, 200)
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`, nil, 200) // the native policy decides
	q.json("GET", "/v2/scheduler/policy", nil, &p, 200)
	if p.Failures == 0 {
		t.Error("the endless loop was not counted as a failure")
	}
	q.json("PUT", "/v2/scheduler/policy", map[string]string{"name": "default"}, &p, 200)
	if p.Name != "default" {
		t.Fatalf("back to default: %+v", p)
	}
}

// TestPolicyOutlivesTheQueen holds that a policy which was set at run time is in force after a restart, until the configuration
// chooses another.
func TestPolicyOutlivesTheQueen(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	var set, p policyRecord
	q.json("PUT", "/v2/scheduler/policy", map[string]string{"name": "mine", "language": "starlark",
		"source": "def schedule(job, workers, hives):\n    return None\n"}, &set, 200)
	again := func(end func(), want policyRecord) {
		t.Helper()
		end()
		q.launch("127.0.0.1:0")
		q.json("GET", "/v2/scheduler/policy", nil, &p, 200)
		if p.Hash != want.Hash || p.Source != want.Source {
			t.Errorf("in force: %+v, want %+v", p, want)
		}
	}
	again(q.kill, set)
	again(q.stop, set)
	q.json("PUT", "/v2/scheduler/policy", map[string]string{"name": "basic"}, &set, 200)
	again(q.kill, set)
	if err := os.WriteFile(q.config, []byte("data_dir: "+q.dir+"\nmodels: {demo: {ref: \"sim:demo\"}}\nscheduler: {mode: platform}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	q.stop()
	q.launch("127.0.0.1:0")
	if q.json("GET", "/v2/scheduler/policy", nil, &p, 200); p.Name != "default" {
		t.Errorf("in platform mode: %+v", p)
	}
}

func TestExplainAndReplay(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	var id string
	for range 3 {
		h := q.json("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`, nil, 200)
		id = h.Get("X-Rbee-Job-Id")
	}
	var rec struct {
		Decision struct {
			Action   string
			WorkerID string `json:"worker_id"`
			Policy   string
		}
	}
	q.json("GET", "/v2/tasks/"+id+"?explain=true", nil, &rec, 200)
	if rec.Decision.Action != "route" || rec.Decision.WorkerID == "" || rec.Decision.Policy != "default" {
		t.Fatalf("decision %+v", rec.Decision)
	}
	var c struct {
		Jobs    int
		Results []any
	}
	q.json("POST", "/v2/scheduler/replay", `{"policies":[{"name":"basic"}]}`, &c, 200)
	if c.Jobs != 3 || len(c.Results) != 2 {
		t.Fatalf("replay %+v", c)
	}
}

// TestConversationStaysWhereItsPrefixIs runs two conversations over three workers: every turn lands where the one before
// it left its prefix.
func TestConversationStaysWhereItsPrefixIs(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?itl=1ms&ttft=5ms&prefill=2000\", workers: 3}}\n")
	q.until("three workers are loaded", 30*time.Second, func() bool { return len(q.idleWorkers("demo")) == 3 })
	type turn = map[string]string
	long := strings.Repeat("a long common tale about many things that happened ", 40)
	talks := [][]turn{{{"role": "user", "content": "first " + long}}, {{"role": "user", "content": "second " + long}}}
	home := make([]string, len(talks))
	for range 4 {
		for i := range talks {
			var c struct {
				completion
				Usage struct {
					Details struct {
						Cached int `json:"cached_tokens"`
					} `json:"prompt_tokens_details"`
				} `json:"usage"`
			}
			h := q.json("POST", "/v1/chat/completions", map[string]any{"model": "demo", "messages": talks[i], "max_tokens": 5}, &c, 200)
			w := h.Get("X-Rbee-Worker-Id")
			if home[i] == "" {
				home[i] = w
			} else if w != home[i] || c.Usage.Details.Cached == 0 {
				t.Errorf("conversation %d went from %s to %s, %d tokens cached", i, home[i], w, c.Usage.Details.Cached)
			}
			talks[i] = append(talks[i], turn{"role": "assistant", "content": c.Choices[0].Message.Content}, turn{"role": "user", "content": "go on"})
		}
	}
}
