package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func noCancel() context.Context { return context.Background() }

// engineCase is one adapter of the matrix.
type engineCase struct {
	name  string
	real  bool // the engine itself, not a stand-in that behaves as it is documented
	setup func(t *testing.T) SpawnRequest
	bad   func(r *SpawnRequest) // makes the model one that can't be loaded
	sign  string                // what the reason for a bad model says
	slow  bool                  // takes seconds to load: some columns in the long form only (RBEE_LONG=1)
}

func matrix() []engineCase {
	wrapper := func(t *testing.T, program, role string) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), program)
		if err := os.WriteFile(path, []byte("#!/bin/sh\nexec '"+self+"' "+role+" \"$@\"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv(strings.ToUpper(program), path)
	}
	return []engineCase{
		{name: Sim, real: true, setup: func(*testing.T) SpawnRequest {
			return SpawnRequest{ModelRef: "sim:demo?ttft=2ms&itl=2ms&load=20ms&protocol=openai", Engine: Spec{Name: Sim}}
		}, bad: func(r *SpawnRequest) { r.ModelRef += "&fail=load" }, sign: "can't be loaded"},
		{name: LlamaCpp, real: true, setup: func(t *testing.T) SpawnRequest {
			llamaServer(t)
			return SpawnRequest{ModelRef: "file:stories", ModelPath: stories(t), Engine: Spec{Name: LlamaCpp}, Slots: 2, Context: 2048, Args: []string{"-t", "1", "-tb", "1"}}
		}, bad: func(r *SpawnRequest) { r.ModelPath = truncated(r.ModelPath) }, sign: "can't be loaded"},
		{name: VLLM, setup: func(t *testing.T) SpawnRequest {
			wrapper(t, "vllm", "fake-vllm")
			return SpawnRequest{ModelRef: "hf:org/model", ModelPath: t.TempDir(), Engine: Spec{Name: VLLM}}
		}, bad: func(r *SpawnRequest) { r.ModelPath = "/nonexistent" }, sign: "check that the file exists"},
		{name: Ollama, setup: func(t *testing.T) SpawnRequest {
			wrapper(t, "ollama", "fake-ollama")
			return SpawnRequest{ModelRef: "ollama:tiny", ModelPath: "tiny", Engine: Spec{Name: Ollama}}
		}, bad: func(r *SpawnRequest) { r.ModelPath = "missing" }, sign: "ollama can't fetch missing"},
		{name: Command, setup: func(t *testing.T) SpawnRequest {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			return SpawnRequest{ModelRef: "file:any", ModelPath: t.TempDir(), Engine: Spec{Name: "mine", Health: "/up",
				Command: []string{self, "fake-plain", "--port", "{port}", "--model", "{model_path}"}, StopGrace: seconds(1)}}
		}, bad: func(r *SpawnRequest) { r.ModelPath = "/nonexistent" }, sign: "check that the file exists"},
		{name: "node-llama-cpp", real: true, setup: func(t *testing.T) SpawnRequest {
			dir, err := filepath.Abs("testdata/node")
			if err != nil {
				t.Fatal(err)
			}
			need(t, "node-llama-cpp (npm)", filepath.Join(dir, "node_modules/node-llama-cpp/package.json"))
			return SpawnRequest{ModelRef: "file:stories", ModelPath: stories(t), Engine: Spec{Name: "node", Health: "/up", StopGrace: seconds(2),
				Command: []string{need(t, "node for node-llama-cpp", "node"), filepath.Join(dir, "server.mjs"), "--port", "{port}", "--model", "{model_path}", "--slots", "{slots}"}}}
		}, bad: func(r *SpawnRequest) { r.ModelPath = truncated(r.ModelPath) }, sign: "can't be loaded", slow: true},
	}
}

// truncated writes the first 100 kB of a model beside nothing else.
func truncated(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "/nonexistent.gguf"
	}
	out := truncatedPath()
	if os.WriteFile(out, b[:min(len(b), 100_000)], 0o600) != nil {
		return "/nonexistent.gguf"
	}
	return out
}

func truncatedPath() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("rbee-truncated-%d.gguf", os.Getpid()))
}

// TestMatrix holds every adapter to the same life.
func TestMatrix(t *testing.T) {
	t.Cleanup(func() { _ = os.Remove(truncatedPath()) })
	for _, c := range matrix() {
		t.Run(c.name, func(t *testing.T) {
			req := c.setup(t)
			req.WorkerID, req.Model = "w-"+strings.ReplaceAll(c.name, ".", ""), "m"
			t.Run("start,ready,stream,cancel,crash,stop", func(t *testing.T) { matrixLife(t, req) })
			if c.slow && os.Getenv("RBEE_LONG") != "1" {
				return
			}
			t.Run("orphan", func(t *testing.T) { matrixOrphan(t, req) })
			t.Run("port taken", func(t *testing.T) { matrixPort(t, req) })
			t.Run("bad model", func(t *testing.T) {
				r := req
				c.bad(&r)
				s := supervisor(t, Options{})
				if _, err := s.Start(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				rec, err := s.Wait(t.Context(), r.WorkerID)
				if err == nil || rec.State != hiveapi.WorkerFailed || !strings.Contains(rec.Message, c.sign) {
					t.Fatalf("state %s, message %q, error %v; want a failure that says %q", rec.State, rec.Message, err, c.sign)
				}
				if rec.Restarts != 0 {
					t.Errorf("%d restarts of what can't succeed", rec.Restarts)
				}
			})
		})
	}
}

func matrixLife(t *testing.T, req SpawnRequest) {
	s := supervisor(t, Options{})
	rec, err := s.Start(t.Context(), req)
	if err != nil {
		t.Fatal("start:", err)
	}
	if rec.State != hiveapi.WorkerLoading || rec.PID == 0 {
		t.Fatalf("start: %+v", rec)
	}
	rec = mustWait(t, s, req.WorkerID)
	if rec.SlotsFree == 0 || rec.SlotsFree != rec.SlotsTotal || rec.URL != "http://"+rec.Address {
		t.Errorf("ready: %+v", rec)
	}
	if n, done := chat(t.Context(), rec, 8, 0); n < 3 || !done {
		t.Errorf("stream: %d chunks, done %v", n, done)
	}
	if keyless := rec; rec.Capabilities.APIKey != "" {
		keyless.APIKey = "guessed"
		if n, _ := chat(t.Context(), keyless, 8, 0); n > 0 {
			t.Error("it answers somebody who does not know its key")
		}
	}
	chat(t.Context(), rec, 4000, 2) // leaves after two chunks
	until(t, "cancel: the engine still works for a reader that left", func() bool {
		n, ok := s.prober.requests(t.Context(), rec.Address, rec.Capabilities.Metrics, rec.APIKey, adapterOf(req.Engine.Name))
		return !ok && rec.Capabilities.Metrics == "" || ok && n == 0
	})
	until(t, "cancel: its slot is not free", func() bool { n, done := chat(t.Context(), rec, 8, 0); return n >= 3 && done })
	if err := syscall.Kill(rec.PID, syscall.SIGKILL); err != nil {
		t.Fatal("crash:", err)
	}
	until(t, "crash: not started again", func() bool {
		now, _ := s.Worker(req.WorkerID)
		return now.Restarts == 1 && now.State == hiveapi.WorkerIdle
	})
	again, _ := s.Worker(req.WorkerID)
	if n, done := chat(t.Context(), again, 8, 0); n < 3 || !done {
		t.Errorf("stream after a crash: %d chunks, done %v", n, done)
	}
	w, _ := s.get(req.WorkerID)
	if err := s.Stop(t.Context(), req.WorkerID, StopOptions{Grace: time.Second}); err != nil {
		t.Fatal("stop:", err)
	}
	if left := marked("RBEE_SPAWN_TOKEN=" + w.spawnMark()); len(left) > 0 {
		t.Errorf("stop: processes %v are left", left)
	}
	if _, err := net.Dial("tcp", again.Address); err == nil {
		t.Error("stop: somebody still listens")
	}
	if err := s.Stop(t.Context(), req.WorkerID, StopOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("stop again: %v", err)
	}
}

// matrixOrphan kills a supervisor with -9: the next one takes the worker over, and what is left of a worker whose
// process died in between is ended.
func matrixOrphan(t *testing.T, req SpawnRequest) {
	dir := t.TempDir()
	runAndKill(t, dir, req)
	s := supervisor(t, Options{Dir: dir})
	adopted, _, err := s.Adopt(t.Context())
	if err != nil || adopted != 1 {
		t.Fatalf("adopted %d workers, %v", adopted, err)
	}
	rec := mustWait(t, s, req.WorkerID)
	if n, done := chat(t.Context(), rec, 8, 0); n < 3 || !done {
		t.Errorf("a worker that was taken over streams %d chunks, done %v", n, done)
	}
	w, _ := s.get(req.WorkerID)
	if err := s.Stop(t.Context(), req.WorkerID, StopOptions{Grace: time.Second}); err != nil {
		t.Fatal(err)
	}
	if left := marked("RBEE_SPAWN_TOKEN=" + w.spawnMark()); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	// The second life: the worker's leader dies with its supervisor, its children do not.
	runAndKill(t, dir, req)
	list, err := s.records()
	if err != nil || len(list) != 1 {
		t.Fatalf("%d records, %v", len(list), err)
	}
	_ = syscall.Kill(list[0].PID, syscall.SIGKILL)
	until(t, "the leader is dead", func() bool { return !alive(list[0].PID, list[0].StartTime) })
	next := supervisor(t, Options{Dir: dir})
	if adopted, _, err := next.Adopt(t.Context()); adopted != 0 || err != nil {
		t.Fatalf("adopted %d dead workers, %v", adopted, err)
	}
	until(t, "orphans are left", func() bool { return len(marked("RBEE_SPAWN_TOKEN="+list[0].Mark)) == 0 })
}

func runAndKill(t *testing.T, dir string, req SpawnRequest) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "supervise", dir)
	in, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("the supervisor did not get up: %s", errOut.String())
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// matrixPort gives a worker a port that is taken: it must come up on another one, and never be thought ready because a
// stranger answers.
func matrixPort(t *testing.T, req SpawnRequest) {
	stranger, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })}
	go func() { _ = srv.Serve(stranger) }()
	defer func() { _ = srv.Close() }()
	s := supervisor(t, Options{})
	given := false
	s.free = func() (int, error) {
		if !given {
			given = true
			return stranger.Addr().(*net.TCPAddr).Port, nil
		}
		return freeTCP()
	}
	if _, err := s.Start(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, req.WorkerID)
	if rec.Address == stranger.Addr().String() {
		t.Fatalf("the stranger at %s is taken for the worker", rec.Address)
	}
	if n, done := chat(t.Context(), rec, 8, 0); n < 3 || !done {
		t.Errorf("%d chunks, done %v", n, done)
	}
}

func supervisor(t *testing.T, o Options) *Supervisor {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if o.SimCommand == nil {
		o.SimCommand = []string{self, "sim-worker"}
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

func mustWait(t *testing.T, s *Supervisor, id string) Worker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	rec, err := s.Wait(ctx, id)
	if err != nil {
		if l, lerr := s.Log(id); lerr == nil {
			t.Log(strings.Join(l.Tail(20), "\n"))
		}
		t.Fatal(err)
	}
	return rec
}

// until waits for a condition that no channel tells.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(what)
		}
	}
}

// chat reads a stream; with leave > 0 it goes away after that many chunks.
func chat(ctx context.Context, w Worker, maxTokens, leave int) (chunks int, done bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body := fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":"Tell me a story"}],"max_tokens":%d,"stream":true,"ignore_eos":true}`, w.ModelName, maxTokens)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		return 0, false
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+w.APIKey)
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	if err != nil {
		return 0, false
	}
	defer func() { _ = res.Body.Close() }()
	sc := bufio.NewScanner(res.Body)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return chunks, true
		}
		if chunks++; leave > 0 && chunks >= leave {
			return chunks, false
		}
	}
	return chunks, false
}
