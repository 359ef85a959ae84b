package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func simRequest(id, query string) SpawnRequest {
	return SpawnRequest{WorkerID: id, Model: "m", ModelRef: "sim:m?ttft=1ms&itl=1ms&protocol=openai" + query, Engine: Spec{Name: Sim}}
}

func TestStartIsIdempotent(t *testing.T) {
	s := supervisor(t, Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Start(t.Context(), simRequest("w", "")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	rec := mustWait(t, s, "w")
	if again, err := s.Start(t.Context(), simRequest("w", "")); err != nil || again.PID != rec.PID || len(s.Workers()) != 1 {
		t.Error(again, err)
	}
	_, err := s.Start(t.Context(), simRequest("w", "&slots=3"))
	var e *Error
	if !errors.As(err, &e) || e.Code() != "CONFLICT" {
		t.Error("another model under the same id:", err)
	}
	for _, bad := range []string{"", "../x", "-x", "a b", strings.Repeat("x", 200)} {
		if _, err := s.Start(t.Context(), simRequest(bad, "")); err == nil {
			t.Errorf("id %q was taken", bad)
		}
	}
	r := simRequest("w2", "")
	r.Devices = []string{"cuda:9"}
	if _, err := s.Start(t.Context(), r); err == nil || !strings.Contains(err.Error(), "there are cpu") {
		t.Error("a device that is not there:", err)
	}
	if _, ok := s.Worker("w2"); ok {
		t.Error("a worker that could not be started is listed")
	}
}

// TestChangesAreTold sees a worker's whole life in order, its loading progress included.
func TestChangesAreTold(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	s := supervisor(t, Options{OnChange: func(w Worker, gone bool) {
		mu.Lock()
		defer mu.Unlock()
		line := string(w.State)
		if gone {
			line = "gone"
		}
		if w.State == hiveapi.WorkerLoading && w.Progress > 0 {
			line = "progress"
		}
		if len(seen) == 0 || seen[len(seen)-1] != line {
			seen = append(seen, line)
		}
	}})
	if _, err := s.Start(t.Context(), simRequest("w", "&load=400ms&memory=1GiB")); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	if rec.MemoryBytes != 1<<30 || rec.Progress != 1 || rec.ReadyAt.Before(rec.StartedAt) {
		t.Errorf("%+v", rec)
	}
	if err := s.Stop(t.Context(), "w", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(seen, " "); got != "loading progress idle draining gone" {
		t.Error(got)
	}
}

// TestRestartsWithBackoff kills a worker again and again: at once the first time, then later and later, then never.
func TestRestartsWithBackoff(t *testing.T) {
	var mu sync.Mutex
	var waits []string
	s := supervisor(t, Options{Backoff: 20 * time.Millisecond, MaxRestarts: 3, OnChange: func(w Worker, _ bool) {
		mu.Lock()
		defer mu.Unlock()
		if _, after, ok := strings.Cut(w.Message, "started again in "); ok && w.State == hiveapi.WorkerFailed {
			waits = append(waits, after)
		}
	}})
	if _, err := s.Start(t.Context(), simRequest("w", "")); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		rec := mustReady(t, s, "w", i)
		if err := syscall.Kill(rec.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "it is started for ever", func() bool {
		w, _ := s.Worker("w")
		return w.State == hiveapi.WorkerFailed && !strings.Contains(w.Message, "again in")
	})
	w, _ := s.Worker("w")
	if w.Restarts != 3 || !strings.Contains(w.Message, "SIGKILL") {
		t.Errorf("%+v", w)
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Join(waits, " ") != "20ms 40ms" {
		t.Error(waits)
	}
}

func mustReady(t *testing.T, s *Supervisor, id string, restarts int) Worker {
	t.Helper()
	var rec Worker
	until(t, fmt.Sprintf("no restart %d", restarts), func() bool {
		rec, _ = s.Worker(id)
		return rec.Restarts == restarts && rec.State == hiveapi.WorkerIdle
	})
	return rec
}

func TestNeverRestart(t *testing.T) {
	s := supervisor(t, Options{})
	r := simRequest("w", "")
	r.Engine.Restart = "never"
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	_ = syscall.Kill(rec.PID, syscall.SIGTERM)
	until(t, "state", func() bool { w, _ := s.Worker("w"); return w.State == hiveapi.WorkerFailed })
}

// TestDrainWaits lets a running request end and no longer than that.
func TestDrainWaits(t *testing.T) {
	s := supervisor(t, Options{})
	if _, err := s.Start(t.Context(), simRequest("w", "&itl=2ms")); err == nil {
		t.Fatal("a doubled parameter was taken")
	}
	r := SpawnRequest{WorkerID: "w", Model: "m", ModelRef: "sim:m?ttft=1ms&itl=4ms&protocol=openai", Engine: Spec{Name: Sim}}
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	type result struct {
		n    int
		done bool
	}
	got := make(chan result)
	go func() {
		n, done := chat(context.Background(), rec, 50, 0)
		got <- result{n, done}
	}()
	until(t, "no request", func() bool {
		n, ok := s.prober.requests(t.Context(), rec.Address, "/metrics", rec.APIKey, adapterOf(Sim))
		return ok && n == 1
	})
	if err := s.Stop(t.Context(), "w", StopOptions{Drain: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if r := <-got; !r.done || r.n < 50 {
		t.Errorf("the answer was cut after %d chunks", r.n)
	}
}

// TestStubbornWorker is deaf to TERM and has a child: both are gone after the grace.
func TestStubbornWorker(t *testing.T) {
	self, _ := os.Executable()
	s := supervisor(t, Options{})
	r := SpawnRequest{WorkerID: "w", ModelRef: "file:x", ModelPath: t.TempDir(), Engine: Spec{Name: "mine", Health: "/up",
		Command: []string{"/bin/sh", "-c", "trap '' TERM; '" + self + "' fake-plain --port {port} --model {model_path} & while :; do wait; done"}}}
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	mustWait(t, s, "w")
	w, _ := s.get("w")
	if err := s.Stop(t.Context(), "w", StopOptions{Grace: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if left := marked("RBEE_SPAWN_TOKEN=" + w.spawnMark()); len(left) > 0 {
		t.Error("left:", left)
	}
	if exists(s.recordPath("w")) || exists(s.logPath("w")) {
		t.Error("files are left")
	}
}

func TestReadyTimeout(t *testing.T) {
	s := supervisor(t, Options{})
	r := SpawnRequest{WorkerID: "w", ModelRef: "file:x", Engine: Spec{Name: "mine", Command: []string{"/bin/sh", "-c", "echo thinking; sleep 1000"}, ReadyTimeout: seconds(1), StopGrace: seconds(1)}}
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	rec, err := s.Wait(t.Context(), "w")
	if err == nil || !strings.Contains(rec.Message, "did not answer /health within 1s") {
		t.Errorf("%+v %v", rec, err)
	}
	l, err := s.Log("w")
	if err != nil || !strings.Contains(strings.Join(l.Tail(0), "\n"), "thinking") {
		t.Error(err, l.Tail(0))
	}
}

func TestStopCommand(t *testing.T) {
	self, _ := os.Executable()
	s := supervisor(t, Options{})
	flag := filepath.Join(t.TempDir(), "stopped")
	r := SpawnRequest{WorkerID: "w", ModelRef: "file:x", ModelPath: t.TempDir(), Engine: Spec{Name: "mine", Health: "/up", Stop: []string{"/bin/sh", "-c", "echo {worker_id} > " + flag},
		Command: []string{self, "fake-plain", "--port", "{port}", "--model", "{model_path}"}}}
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	mustWait(t, s, "w")
	if err := s.Stop(t.Context(), "w", StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(flag); err != nil || strings.TrimSpace(string(b)) != "w" {
		t.Error(string(b), err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	s := supervisor(t, Options{})
	var marks []string
	for i := range 3 {
		id := fmt.Sprint("w", i)
		if _, err := s.Start(t.Context(), simRequest(id, "&load=1h")); err != nil {
			t.Fatal(err)
		}
		w, _ := s.get(id)
		marks = append(marks, w.spawnMark())
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range marks {
		if left := marked("RBEE_SPAWN_TOKEN=" + m); len(left) > 0 {
			t.Error("left:", left)
		}
	}
	if _, err := s.Start(t.Context(), simRequest("x", "")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestDetachLeavesThem(t *testing.T) {
	dir := t.TempDir()
	s := supervisor(t, Options{Dir: dir})
	if _, err := s.Start(t.Context(), simRequest("w", "")); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	s.Detach()
	next := supervisor(t, Options{Dir: dir})
	if n, _, err := next.Adopt(t.Context()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	got := mustWait(t, next, "w")
	if got.PID != rec.PID || got.Address != rec.Address || got.APIKey != rec.APIKey {
		t.Errorf("%+v", got)
	}
	// A worker that was taken over and dies is started again like any other.
	_ = syscall.Kill(got.PID, syscall.SIGKILL)
	mustReady(t, next, "w", 1)
}

// TestRecycledPid: a record whose pid belongs to another process by now must not touch that process.
func TestRecycledPid(t *testing.T) {
	dir := t.TempDir()
	s := supervisor(t, Options{Dir: dir})
	bystander := exec.Command("/bin/sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	for i, r := range []record{{PID: bystander.Process.Pid, StartTime: "another boot/1"}, {PID: 0}, {PID: -1, StartTime: "x"}, {PID: 1, StartTime: "x"}} {
		r.Request, r.Mark = simRequest(fmt.Sprint("w", i), ""), randomHex(16)
		if err := s.save(r); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"broken.json": "{", "other.json": `{"request":{"worker_id":"../../x"}}`, "stray.log": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	adopted, ended, err := s.Adopt(t.Context())
	if adopted != 0 || ended != 0 || err == nil {
		t.Error(adopted, ended, err)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("a bystander was ended:", err)
	}
	if exists(filepath.Join(dir, "stray.log")) || !exists(filepath.Join(dir, "broken.json")) {
		t.Error("the wrong files were removed")
	}
}

// TestFault03NoRecordOfThePid: a hive that dies between starting a worker and writing its pid down leaves the mark.
func TestFault03NoRecordOfThePid(t *testing.T) {
	dir := t.TempDir()
	runAndKill(t, dir, simRequest("w", ""))
	s := supervisor(t, Options{Dir: dir})
	list, err := s.records()
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	r := list[0]
	pid, start := r.PID, r.StartTime
	r.PID, r.StartTime = 0, ""
	if err := s.save(r); err != nil {
		t.Fatal(err)
	}
	if adopted, ended, err := s.Adopt(t.Context()); adopted != 0 || ended != 1 || err != nil {
		t.Error(adopted, ended, err)
	}
	until(t, "an orphan lives on", func() bool { return !alive(pid, start) })
}

// TestFault05RealWorkerDies kills a real llama-server in the middle of a stream: the reader sees neither [DONE] nor a
// finish, and the worker is replaced.
func TestFault05RealWorkerDies(t *testing.T) {
	llamaServer(t)
	s := supervisor(t, Options{})
	r := SpawnRequest{WorkerID: "w", Model: "m", ModelRef: "file:stories", ModelPath: stories(t), Engine: Spec{Name: LlamaCpp}, Slots: 1, Context: 2048, Args: []string{"-t", "1", "-tb", "1"}}
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	out, lines := openStream(t, rec)
	defer out()
	<-lines
	_ = syscall.Kill(rec.PID, syscall.SIGKILL)
	for line := range lines {
		if strings.Contains(line, "[DONE]") {
			t.Error("a dead worker said that it was done")
		}
	}
	again := mustReady(t, s, "w", 1)
	if n, done := chat(t.Context(), again, 8, 0); n < 3 || !done {
		t.Errorf("the next one streams %d chunks, done %v", n, done)
	}
}

// TestFault06RealWorkerHangs stops a real llama-server with SIGSTOP: it is noticed by its health, ended although it
// can't hear TERM, and replaced.
func TestFault06RealWorkerHangs(t *testing.T) {
	llamaServer(t)
	s := supervisor(t, Options{HealthEvery: 100 * time.Millisecond})
	r := SpawnRequest{WorkerID: "w", Model: "m", ModelRef: "file:stories", ModelPath: stories(t), Engine: Spec{Name: LlamaCpp, StopGrace: hiveapi.Duration(200 * time.Millisecond)}, Slots: 1, Context: 512, Args: []string{"-t", "1", "-tb", "1"}}
	if _, err := s.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	rec := mustWait(t, s, "w")
	if err := syscall.Kill(rec.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	again := mustReady(t, s, "w", 1)
	l, _ := s.Log("w")
	if !strings.Contains(strings.Join(l.Tail(0), "\n"), "stopped answering") || again.PID == rec.PID {
		t.Error(l.Tail(5))
	}
	_ = syscall.Kill(again.PID, syscall.SIGSTOP)
	if err := s.Stop(t.Context(), "w", StopOptions{Grace: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if _, err := startTime(again.PID); err == nil {
		t.Error("it lives")
	}
}

// openStream gives the lines of a long answer.
func openStream(t *testing.T, w Worker) (stop func(), lines <-chan string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+"/v1/completions", strings.NewReader(`{"prompt":"Once","max_tokens":4000,"stream":true,"ignore_eos":true}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.APIKey)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan string)
	go func() {
		defer close(ch)
		sc := bufio.NewScanner(res.Body)
		for sc.Scan() {
			ch <- sc.Text()
		}
	}()
	return func() {
		_ = res.Body.Close()
		for range ch { // let the reader go
		}
	}, ch
}
