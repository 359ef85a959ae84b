package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

type workerList struct {
	Workers []struct {
		WorkerID string `json:"worker_id"`
		Model    string `json:"model"`
		State    string `json:"state"`
		Node     string `json:"node"`
		PID      int    `json:"pid"`
	} `json:"workers"`
}

type jobRecord struct {
	JobID        string `json:"job_id"`
	State        string `json:"state"`
	WorkerID     string `json:"worker_id"`
	TokensOut    int    `json:"tokens_out"`
	PromptTokens int    `json:"prompt_tokens"`
	SubmittedAt  string `json:"submitted_at"`
	StartedAt    string `json:"started_at"`
	FirstToken   string `json:"first_token_at"`
	CompletedAt  string `json:"completed_at"`
	Error        *struct {
		Code, Message string
	} `json:"error"`
}

type completion struct {
	Choices []struct {
		Text         string `json:"text"`
		FinishReason string `json:"finish_reason"`
		Message      struct {
			Content string `json:"content"`
		} `json:"message"`
	} `json:"choices"`
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
}

func TestMainJob(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")

	var chat completion
	h := q.json("POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"Say hello"}],"max_tokens":7}`, &chat, 200)
	if c := chat.Choices; len(c) != 1 || c[0].FinishReason != "length" || len(strings.Fields(c[0].Message.Content)) != 7 || chat.Usage.Completion != 7 {
		t.Fatalf("chat answer %+v", chat)
	}
	first := h.Get("X-Rbee-Worker-Id")
	if first == "" || h.Get("X-Rbee-Job-Id") == "" || h.Get("X-Request-Id") == "" || h.Get("X-Correlation-Id") == "" {
		t.Fatalf("headers are missing: %v", h)
	}
	var text completion
	h = q.json("POST", "/v1/completions", `{"model":"demo","prompt":"Say hello","max_tokens":3}`, &text, 200)
	if h.Get("X-Rbee-Worker-Id") != first {
		t.Errorf("the second request went to worker %q, the first to %q", h.Get("X-Rbee-Worker-Id"), first)
	}
	if len(text.Choices) != 1 || text.Choices[0].Text == "" {
		t.Fatalf("completion %+v", text)
	}

	var accepted struct {
		JobID     string `json:"job_id"`
		Status    string `json:"status"`
		EventsURL string `json:"events_url"`
	}
	q.json("POST", "/v2/tasks", `{"model":"demo","prompt":"count","max_tokens":9}`, &accepted, 202)
	if accepted.Status != "queued" || accepted.JobID == "" {
		t.Fatalf("accepted %+v", accepted)
	}
	var ids, names []string
	var got string
	if err := q.follow(t.Context(), accepted.JobID, "", func(ev event) bool {
		names = append(names, ev.name)
		if ev.id != "" {
			ids = append(ids, ev.id)
		}
		if ev.name == "token" {
			got += tokenText(ev)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if n := len(names); names[n-1] != "end" || strings.Join(ids, " ") != "1 2 3 4 5 6 7 8 9 10 11" {
		t.Fatalf("events %v with ids %v", names, ids)
	}
	var rec jobRecord
	q.json("GET", "/v2/tasks/"+accepted.JobID, nil, &rec, 200)
	if rec.State != "complete" || rec.TokensOut != 9 || rec.SubmittedAt == "" || rec.StartedAt == "" || rec.FirstToken == "" || rec.CompletedAt == "" {
		t.Fatalf("record %+v", rec)
	}

	var models struct {
		Data []struct{ ID, Name, Object string }
	}
	q.json("GET", "/v1/models", nil, &models, 200)
	if len(models.Data) != 1 || models.Data[0].ID != "demo" || models.Data[0].Object != "model" {
		t.Fatalf("models %+v", models)
	}
	for _, path := range []string{"/health", "/ready", "/metrics", "/v2/registry/beehives/list", "/openapi.json"} {
		if got := q.status("GET", path, nil); got != 200 {
			t.Errorf("GET %s: %d", path, got)
		}
	}

	// after a restart the finished jobs are there, and their events
	q.stop()
	q.launch(q.addr())
	q.json("GET", "/v2/tasks/"+accepted.JobID, nil, &rec, 200)
	if rec.State != "complete" {
		t.Fatalf("after the restart: %+v", rec)
	}
	var again string
	if err := q.follow(t.Context(), accepted.JobID, "4", func(ev event) bool {
		if ev.name == "token" {
			again += tokenText(ev)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(strings.Fields(got)[3:], " "); strings.TrimSpace(again) != want {
		t.Fatalf("resumed after event 4: %q, want %q", again, want)
	}
}

func TestNoOrphansAfterTerm(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	q.json("POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi"}]}`, nil, 200)
	var list workerList
	q.json("GET", "/v2/workers/list", nil, &list, 200)
	if len(list.Workers) != 1 || list.Workers[0].PID == 0 {
		t.Fatalf("workers %+v", list)
	}
	hive := hivePID(t, q)
	q.stop()
	for what, pid := range map[string]int{"worker": list.Workers[0].PID, "hive": hive} {
		if alive(pid) {
			t.Errorf("%s %d outlived the queen", what, pid)
		}
	}
}

func hivePID(t *testing.T, q *queen) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(q.dir, "hives", "local", "hive.json"))
	if err != nil {
		t.Fatal(err)
	}
	var h struct{ PID int }
	if err := json.Unmarshal(data, &h); err != nil || h.PID == 0 {
		t.Fatalf("%s: %v", data, err)
	}
	return h.PID
}

// alive says whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	data, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func TestFault02RestartAdopts(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	q.json("POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi"}]}`, nil, 200)
	var before, after workerList
	q.json("GET", "/v2/workers/list", nil, &before, 200)
	q.kill()
	if !alive(before.Workers[0].PID) {
		t.Fatal("the worker died with the queen")
	}
	q.launch(q.addr())
	q.json("GET", "/v2/workers/list", nil, &after, 200)
	if len(after.Workers) != 1 || after.Workers[0].PID != before.Workers[0].PID || after.Workers[0].WorkerID != before.Workers[0].WorkerID {
		t.Fatalf("before %+v, after %+v", before, after)
	}
	h := q.json("POST", "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi"}]}`, nil, 200)
	if h.Get("X-Rbee-Worker-Id") != before.Workers[0].WorkerID {
		t.Error("the adopted worker was not used")
	}
}

func TestFault23SecondQueenRefuses(t *testing.T) {
	q := start(t, "")
	cmd := exec.Command(filepath.Join(q.bin, "queen-rbee"), "--config", q.config, "--addr", "127.0.0.1:0")
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), itoa(q.cmd.Process.Pid)) {
		t.Fatalf("the second queen: %v\n%s", err, out)
	}
}

func TestFault25LeavingStopsTheWorker(t *testing.T) {
	q := start(t, "models: {slow: {ref: \"sim:slow?itl=20ms&ttft=300ms&slots=1\"}}\n")
	q.json("POST", "/v1/completions", `{"model":"slow","prompt":"warm","max_tokens":1}`, nil, 200)
	for name, c := range map[string]struct {
		body string
		wait int // bytes read before leaving
	}{
		"streaming":     {`{"model":"slow","prompt":"go","max_tokens":5000,"stream":true}`, 1},
		"prefill":       {`{"model":"slow","prompt":"go","max_tokens":5000,"stream":true}`, 0},
		"not streaming": {`{"model":"slow","prompt":"go","max_tokens":5000}`, 0},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			defer close(left)
			res, err := q.do(ctx, "POST", "/v1/completions", c.body)
			if err != nil {
				return
			}
			_, _ = io.ReadFull(res.Body, make([]byte, c.wait))
			<-ctx.Done()
			_ = res.Body.Close()
		}()
		q.until(name+": the job runs", 5*time.Second, func() bool { return q.count("running") == 1 })
		if c.wait == 0 {
			<-time.After(50 * time.Millisecond)
		} else {
			<-time.After(500 * time.Millisecond)
		}
		cancel()
		<-left
		q.until(name+": the job is cancelled", 5*time.Second, func() bool { return q.count("running") == 0 })
		// the slot is free again: another request starts at once
		q.json("POST", "/v1/completions", `{"model":"slow","prompt":"next","max_tokens":1}`, nil, 200)
	}
	var list struct{ Jobs []jobRecord }
	q.json("GET", "/v2/tasks?state=cancelled", nil, &list, 200)
	if len(list.Jobs) != 3 {
		t.Fatalf("%d jobs are cancelled, want 3", len(list.Jobs))
	}
}

func (q *queen) count(state string) int {
	var list struct{ Jobs []jobRecord }
	q.json("GET", "/v2/tasks?limit=1000&state="+state, nil, &list, 200)
	return len(list.Jobs)
}

// keptConn makes a request and returns its connection, idle, after the whole answer.
func (q *queen) keptConn(body string) net.Conn {
	q.t.Helper()
	c, err := net.Dial("tcp", q.addr())
	if err != nil {
		q.t.Fatal(err)
	}
	q.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := fmt.Fprintf(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		q.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		q.t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != 200 || res.Close {
		q.t.Fatalf("status %d, closes %v, %v", res.StatusCode, res.Close, err)
	}
	return c
}

func TestFault27TermDrains(t *testing.T) {
	q := start(t, "models: {slow: {ref: \"sim:slow?itl=20ms&slots=8\"}}\ntimeouts: {drain: 20s}\n")
	res, err := q.do(t.Context(), "POST", "/v1/completions", `{"model":"slow","prompt":"go","max_tokens":60,"stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	plain, streamed := q.keptConn(`{"model":"slow","prompt":"a","max_tokens":1}`), q.keptConn(`{"model":"slow","prompt":"a","max_tokens":5,"stream":true}`)
	_ = q.cmd.Process.Signal(syscall.SIGTERM)
	for what, c := range map[string]net.Conn{"after an answer": plain, "after a stream": streamed} {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("an idle connection %s is not closed: %d %v", what, n, err)
		}
	}
	refused := false
	tokens, done := 0, false
	if err := events(res.Body, func(ev event) bool {
		if ev.data == "[DONE]" {
			done = true
			return true
		}
		if !refused {
			status, h, body := q.ask("", "POST", "/v1/completions", `{"model":"slow","prompt":"late","max_tokens":1}`)
			refused = status == 503
			if refused && (h.Get("Retry-After") == "" || h.Get("X-Should-Retry") != "true" || !strings.Contains(body, `"code":"shutting_down"`)) {
				t.Errorf("the refusal: %v %s", h, body)
			}
		}
		tokens++
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if !done || tokens < 60 {
		t.Fatalf("drained: %d chunks, done %v", tokens, done)
	}
	if !refused {
		t.Error("new jobs were not refused with 503 while draining")
	}
	if err := <-q.done; err != nil {
		t.Fatalf("exit after drain: %v", err)
	}
	q.cmd = nil
}

func TestExternalServerIsUsed(t *testing.T) {
	owner := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	q := start(t, "hives: []\nexternals: [{name: other, url: \""+owner.url+"\", protocol: openai, models: {there: demo}, slots: 4, health: /health}]\n")
	var c completion
	q.json("POST", "/v1/chat/completions", `{"model":"there","messages":[{"role":"user","content":"hi"}],"max_tokens":4}`, &c, 200)
	if c.Usage.Completion != 4 {
		t.Fatalf("answer %+v", c)
	}
	var list workerList
	q.json("GET", "/v2/workers/list", nil, &list, 200)
	if len(list.Workers) != 1 || list.Workers[0].WorkerID != "other" {
		t.Fatalf("workers %+v", list)
	}
}

func TestClientProgram(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	out, errOut, code := q.rbee("run", "demo", "Say hello")
	if code != 0 || len(strings.Fields(out)) != 16 {
		t.Fatalf("rbee run: %d %q %q", code, out, errOut)
	}
	for _, args := range [][]string{{"status"}, {"ls"}, {"ps"}, {"hive", "ls"}, {"job", "ls"}, {"doctor"}, {"wait"}, {"ls", "-o", "json"}, {"ps", "-o", "yaml"}, {"key", "ls"}, {"tenant", "ls"}, {"policy", "show"}, {"policy", "dry-run", "demo"}} {
		out, errOut, code := q.rbee(args...)
		if code != 0 {
			t.Errorf("rbee %v: exit %d\n%s%s", args, code, out, errOut)
		}
	}
	out, _, _ = q.rbee("ls", "-o", "json")
	if !strings.Contains(out, `"apiVersion"`) {
		t.Errorf("no apiVersion in %s", out)
	}
	if _, _, code := q.rbee("run", "nosuch", "hi"); code != 1 {
		t.Errorf("unknown model: exit %d, want 1", code)
	}
	if _, _, code := q.rbee("frobnicate"); code != 64 {
		t.Errorf("unknown command: exit %d, want 64", code)
	}
	q.stop()
	if _, errOut, code := q.rbee("ls"); code != 3 || !strings.Contains(errOut, "rbee serve") {
		t.Errorf("no queen: exit %d, %q", code, errOut)
	}
}

func TestBadConfigurationNamesTheLine(t *testing.T) {
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "queen.yaml")
	if err := os.WriteFile(path, []byte("listen: 127.0.0.1:0\nmodles: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "queen-rbee"), "--config", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), path+":2:") || !strings.Contains(string(out), "modles") {
		t.Fatalf("%v: %s", err, out)
	}
	out, err = exec.Command(filepath.Join(bin, "queen-rbee"), "--addr", "0.0.0.0:0", "--data-dir", t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "rbee key create") {
		t.Fatalf("listening beyond loopback without a key: %v: %s", err, out)
	}
}

func TestPathThatNoEngineServes(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")
	var body struct {
		Error struct{ Message, Code string }
	}
	q.json("POST", "/v1/rerank", `{"model":"demo","query":"x","documents":["y"]}`, &body, 404)
	if !strings.Contains(body.Error.Message, "llama.cpp") {
		t.Fatalf("the answer does not name engines that could: %+v", body)
	}
}
