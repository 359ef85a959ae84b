package hive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

const testToken = "0123456789abcdef0123456789abcdef"

// The test binary is the hive, and its simulated workers, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SimWorker:
			os.Exit(sim.Main(os.Args[2:], os.Stderr))
		case "hive":
			os.Exit(Main(os.Args[2:], "v1-test", os.Stdin, os.Stdout, os.Stderr))
		}
	}
	goleak.VerifyTestMain(m)
}

// running is a hive in a process of its own.
type running struct {
	*hiveapi.Client
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	addr string
	mu   sync.Mutex
	log  bytes.Buffer
	done chan struct{}
}

// Write keeps the hive's log.
func (r *running) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *running) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func startHive(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, dir: dir, done: make(chan struct{})}
	r.cmd = exec.Command(self, append([]string{"hive", "--data-dir", dir, "--id", "hive_t", "--name", "node1", "--token-stdin"}, args...)...)
	r.cmd.Stdin = strings.NewReader(testToken + "\n")
	r.cmd.Stderr = r
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stdout = pw
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = pw.Close()
	t.Cleanup(func() {
		r.kill()
		for _, w := range leftWorkers(dir) {
			_ = syscall.Kill(-w, syscall.SIGKILL)
		}
	})
	buf := make([]byte, 200)
	n, _ := pr.Read(buf)
	_ = pr.Close()
	go func() {
		defer close(r.done)
		_ = r.cmd.Wait()
	}()
	line := string(buf[:n])
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if !ok {
		<-r.done
		t.Fatalf("%q: %s", line, r.text())
	}
	r.addr = strings.TrimPrefix(url, "http://")
	if r.Client, err = hiveapi.New(url, testToken, hiveapi.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func (r *running) kill() {
	_ = r.cmd.Process.Kill()
	<-r.done
}

// leftWorkers are the pids in the records of a data directory that still run.
func leftWorkers(dir string) (pids []int) {
	names, _ := filepath.Glob(filepath.Join(dir, "workers", "*.json"))
	for _, n := range names {
		var rec struct {
			PID       int    `json:"pid"`
			StartTime string `json:"start_time"`
		}
		b, err := os.ReadFile(n)
		if err != nil || json.Unmarshal(b, &rec) != nil {
			continue
		}
		if start, err := engine.StartTime(rec.PID); err == nil && start == rec.StartTime {
			pids = append(pids, rec.PID)
		}
	}
	return pids
}

func (r *running) spawn(req hiveapi.SpawnRequest) hiveapi.Worker {
	r.t.Helper()
	if _, err := r.Spawn(r.t.Context(), req); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	w, err := r.WaitWorker(ctx, req.WorkerID, nil)
	if err != nil {
		r.t.Fatal(err, r.text())
	}
	return w
}

func simRequest(id string) hiveapi.SpawnRequest {
	return hiveapi.SpawnRequest{WorkerID: id, Model: "demo", ModelRef: "sim:demo?ttft=1ms&itl=1ms", Engine: hiveapi.EngineSpec{Name: "sim"}}
}

func storiesRequest(t *testing.T, id string) (hiveapi.SpawnRequest, bool) {
	path := os.Getenv("RBEE_STORIES")
	if path == "" {
		path = "/work/shared/data/models/stories260K-chat.gguf"
	}
	if _, err := os.Stat(path); err != nil {
		return hiveapi.SpawnRequest{}, false
	}
	_, lookErr := exec.LookPath("llama-server")
	_, optErr := os.Stat("/opt/llama-server/llama-server")
	if lookErr != nil && optErr != nil && os.Getenv("LLAMA_SERVER") == "" {
		if os.Getenv("RBEE_CI") == "1" {
			t.Fatal("no llama-server; run make deps")
		}
		return hiveapi.SpawnRequest{}, false
	}
	return hiveapi.SpawnRequest{WorkerID: id, Model: "stories", ModelRef: "file:" + path, Engine: hiveapi.EngineSpec{Name: "llama.cpp"}, Slots: 1, Context: 512, Args: []string{"-t", "1", "-tb", "1"}}, true
}

// complete asks a worker for a few words.
func complete(t *testing.T, w hiveapi.Worker) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+"/v1/completions", strings.NewReader(`{"prompt":"Once upon a time","max_tokens":8,"temperature":0}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.APIKey)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var out struct {
		Choices []struct{ Text string }
	}
	b, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(b, &out); err != nil || len(out.Choices) != 1 {
		t.Fatalf("%s: %s", res.Status, b)
	}
	return out.Choices[0].Text
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(what)
		}
	}
}

func mustEqual(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
