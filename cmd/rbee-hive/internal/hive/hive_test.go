package hive

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// TestLife is a hive from its start to its end, as its queen sees it.
func TestLife(t *testing.T) {
	h := startHive(t, t.TempDir())
	health, err := h.Handshake(t.Context(), "hive_t")
	if err != nil || health.Node != "node1" || health.Version != "v1-test" || health.Status != "ok" {
		t.Fatal(health, err)
	}
	var state map[string]any
	b, err := os.ReadFile(filepath.Join(h.dir, "hive.json"))
	if err != nil || json.Unmarshal(b, &state) != nil || state["address"] != h.addr || state["id"] != "hive_t" || state["start_time"] == "" {
		t.Errorf("%s %v", b, err)
	}
	m, err := h.Provision(t.Context(), hiveapi.ProvisionRequest{ModelRef: simRequest("w").ModelRef}, nil)
	if err != nil || m.State != hiveapi.ModelReady {
		t.Fatal(m, err)
	}
	w := h.spawn(simRequest("w"))
	if w.Node != "node1" || w.Protocol != "execute" || w.SlotsFree != 4 || w.APIKey == "" || !strings.HasPrefix(w.Address, "127.0.0.1:") {
		t.Errorf("%+v", w)
	}
	if text := complete(t, w); strings.Count(text, " ") != 8 {
		t.Errorf("%q", text)
	}
	st, err := h.Status(t.Context())
	if err != nil || len(st.Workers) != 1 || len(st.Models) != 1 || st.Models[0].State != hiveapi.ModelLoaded || len(st.Devices) == 0 || st.Devices[0].MemoryTotal == 0 || st.Disk.Total == 0 {
		t.Errorf("%+v %v", st, err)
	}
	lines, err := h.Logs(t.Context(), hiveapi.LogQuery{WorkerID: "w"})
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(lines); !strings.Contains(string(b), "not a language model") {
		t.Errorf("%s", b)
	}
	_ = lines.Close()
	metrics, err := h.Metrics(t.Context())
	if err != nil || !strings.Contains(string(metrics), `sim:requests_total{hive="node1",worker="w",model="demo"} 1`) {
		t.Errorf("%s %v", metrics, err)
	}
	var e *hiveapi.Error
	if err := h.EvictModel(t.Context(), w.ModelRef); !errors.As(err, &e) || e.Code() != "CONFLICT" {
		t.Error("a model in use was evicted:", err)
	}
	if err := h.ShutdownWorker(t.Context(), hiveapi.ShutdownWorkerRequest{WorkerID: "w", Drain: true}); err != nil {
		t.Fatal(err)
	}
	until(t, "the worker does not end", func() bool { list, err := h.Workers(t.Context()); return err == nil && len(list) == 0 })
	if err := h.ShutdownWorker(t.Context(), hiveapi.ShutdownWorkerRequest{WorkerID: "w"}); !errors.Is(err, hiveapi.ErrNotFound) {
		t.Error(err)
	}
	if err := h.EvictModel(t.Context(), w.ModelRef); err != nil {
		t.Error(err)
	}
	h.spawn(simRequest("w2"))
	left := leftWorkers(h.dir)
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	<-h.done
	if h.cmd.ProcessState.ExitCode() != 0 || len(left) != 1 || syscall.Kill(left[0], 0) == nil {
		t.Error("SIGTERM:", h.cmd.ProcessState, left)
	}
	if _, err := os.Stat(filepath.Join(h.dir, "hive.json")); err == nil {
		t.Error("hive.json is left")
	}
}

// TestFault03HiveCrash kills a hive with -9: the next one has the same workers, and when it ends there is none.
func TestFault03HiveCrash(t *testing.T) {
	dir := t.TempDir()
	h := startHive(t, dir)
	first := h.spawn(simRequest("a"))
	want := 1
	if r, ok := storiesRequest(t, "b"); ok {
		h.spawn(r)
		want++
	}
	before, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h.kill()
	if n := len(leftWorkers(dir)); n != want {
		t.Fatalf("%d workers live on, want %d", n, want)
	}
	h = startHive(t, dir)
	for _, id := range []string{"a", "b"}[:want] {
		if _, err := h.WaitWorker(t.Context(), id, nil); err != nil {
			t.Fatal(id, err)
		}
	}
	after, err := h.Status(t.Context())
	if err != nil || after.Epoch <= before.Epoch {
		t.Fatal("epoch", before.Epoch, after.Epoch, err)
	}
	for i, w := range after.Workers {
		mustEqual(t, "pid after the crash", w.PID, before.Workers[i].PID)
		if text := complete(t, w); text == "" {
			t.Error("a worker that was taken over says nothing")
		}
	}
	// And now a worker dies together with its hive.
	h.kill()
	_ = syscall.Kill(first.PID, syscall.SIGKILL)
	h = startHive(t, dir)
	list, err := h.Workers(t.Context())
	if err != nil || len(list) != want-1 {
		t.Error(list, err)
	}
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	<-h.done
	if left := leftWorkers(dir); len(left) > 0 {
		t.Error("orphans:", left)
	}
}

// TestWatch sees the full state first, then every change in order.
func TestWatch(t *testing.T) {
	h := startHive(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var kinds []string
	var state hiveapi.State
	gone := errors.New("gone")
	err := h.Watch(ctx, func(ev hiveapi.Event) error {
		if ev.Seq <= state.Seq && len(kinds) > 0 {
			t.Errorf("sequence %d after %d", ev.Seq, state.Seq)
		}
		if len(kinds) == 0 {
			if ev.Kind != hiveapi.EventState {
				t.Error("the first event is", ev.Kind)
			}
			go func() { _, _ = h.Spawn(ctx, simRequest("w")) }()
		}
		state.Apply(ev)
		kind := string(ev.Kind)
		if ev.Kind == hiveapi.EventWorker {
			kind = string(ev.Worker.State)
			if ev.Worker.State == hiveapi.WorkerIdle {
				go func() { _ = h.ShutdownWorker(ctx, hiveapi.ShutdownWorkerRequest{WorkerID: "w"}) }()
			}
		}
		kinds = append(kinds, kind)
		if ev.Kind == hiveapi.EventGone {
			return gone
		}
		return nil
	})
	if !errors.Is(err, gone) {
		t.Fatal(err)
	}
	var workers []string
	for _, k := range kinds {
		switch k {
		case "loading", "idle", "draining", "worker_gone":
			if len(workers) == 0 || workers[len(workers)-1] != k {
				workers = append(workers, k)
			}
		}
	}
	mustEqual(t, "states", workers, []string{"loading", "idle", "draining", "worker_gone"})
	if len(state.Workers) != 0 || len(state.Models) != 1 {
		t.Errorf("%+v", state)
	}
}

// TestFeedOverflow gives a slow watcher the whole state in place of what it missed.
func TestFeedOverflow(t *testing.T) {
	f := newFeed(hiveapi.State{Node: "n", Epoch: 1})
	w, stop := f.watch()
	defer stop()
	for range maxBehind + 10 {
		f.publish(hiveapi.Event{Kind: hiveapi.EventWorker, Worker: &hiveapi.Worker{WorkerID: "w"}})
	}
	events, resync := w.take()
	if !resync || len(events) != 0 {
		t.Error(len(events), resync)
	}
	f.publish(hiveapi.Event{Kind: hiveapi.EventGone, Worker: &hiveapi.Worker{WorkerID: "w"}})
	if events, resync := w.take(); resync || len(events) != 1 {
		t.Error(len(events), resync)
	}
	if ev := f.full(); ev.State.Seq != ev.Seq || len(ev.State.Workers) != 0 {
		t.Errorf("%+v", ev)
	}
}

// TestTokens tries every path without the token, with a wrong one and with a strange one.
func TestTokens(t *testing.T) {
	h := startHive(t, t.TempDir())
	for _, path := range []string{hiveapi.PathStatus, hiveapi.PathWatch, hiveapi.PathWorkers, hiveapi.PathModels, hiveapi.PathLogs, hiveapi.PathMetrics, hiveapi.PathEngines, hiveapi.PathFiles + strings.Repeat("a", 64), "/", "/v1/nothing"} {
		for _, auth := range []string{"", "Bearer wrong", "Bearer " + testToken + "x", "Basic " + testToken, "Bearer " + strings.Repeat("x", 60_000), testToken} {
			if code, _ := h.raw(http.MethodGet, path, auth, ""); code != http.StatusUnauthorized && code != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%s with %.20q: %d", path, auth, code)
			}
		}
	}
	for _, path := range []string{hiveapi.PathSpawn, hiveapi.PathWorkerShutdown, hiveapi.PathProvision, hiveapi.PathShutdown} {
		if code, _ := h.raw(http.MethodPost, path, "", "{}"); code != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := h.raw(http.MethodPost, hiveapi.PathWorkerReady, "", `{"worker_id":"w","spawn_token":"x"}`); code != http.StatusNotFound {
		t.Error("a stranger's word that a worker is ready:", code)
	}
}

func (r *running) raw(method, path, auth, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.addr+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func TestBadInput(t *testing.T) {
	h := startHive(t, t.TempDir())
	auth := "Bearer " + testToken
	for _, tc := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"POST", hiveapi.PathSpawn, "{", 400, "INVALID_REQUEST"},
		{"POST", hiveapi.PathSpawn, strings.Repeat("[", 20_000), 400, "INVALID_REQUEST"},
		{"POST", hiveapi.PathSpawn, `{} {}`, 400, "more than one"},
		{"POST", hiveapi.PathSpawn, `{"what":1}`, 400, "unknown field"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "REQUEST_TOO_LARGE"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"w"}`, 400, "INVALID_MODEL_REF"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"../w","model_ref":"sim:x","engine":{"name":"sim"}}`, 400, "worker_id"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"w","model_ref":"sim:x","engine":{"name":"nothing"}}`, 400, "no command"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"w","model_ref":"file:/../etc/passwd","engine":{"name":"llama.cpp"}}`, 400, "INVALID_MODEL_REF"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"w","model_ref":"file:/no/such.gguf","engine":{"name":"llama.cpp"}}`, 404, "MODEL_NOT_FOUND"},
		{"POST", hiveapi.PathSpawn, `{"worker_id":"w","model_ref":"sim:x","engine":{"name":"sim"},"devices":["cuda:7"]}`, 400, "no device"},
		{"POST", hiveapi.PathProvision, `{"model_ref":""}`, 400, "INVALID_MODEL_REF"},
		{"GET", hiveapi.PathProvision + "/dl_x/events", "", 404, "begin it again"},
		{"DELETE", hiveapi.PathEvict, "", 400, "model_ref"},
		{"DELETE", hiveapi.PathEvict + "?model_ref=sim:never", "", 404, "MODEL_NOT_FOUND"},
		{"GET", hiveapi.PathLogs + "?tail=x", "", 400, "tail"},
		{"GET", hiveapi.PathLogs + "?worker_id=none", "", 404, "WORKER_NOT_FOUND"},
		{"GET", hiveapi.PathFiles + "x", "", 400, "sha256"},
		{"GET", hiveapi.PathFiles + strings.Repeat("a", 64), "", 404, "MODEL_NOT_FOUND"},
		{"GET", hiveapi.PathHealth + "?nonce=a%00b", "", 400, "nonce"},
		{"GET", "/v1/%2e%2e/x", "", 404, "INVALID_REQUEST"},
		{"PUT", hiveapi.PathStatus, "", 404, "INVALID_REQUEST"},
	} {
		if code, out := h.raw(tc.method, tc.path, auth, tc.body); code != tc.code || !strings.Contains(out, tc.want) {
			t.Errorf("%s %s %.60s: %d %.300s", tc.method, tc.path, tc.body, code, out)
		}
	}
	// A file that is not what it should be.
	path, content := filepath.Join(t.TempDir(), "m.gguf"), "GGUF\x03\x00\x00\x00"+strings.Repeat("\x00", 100)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := h.Provision(t.Context(), hiveapi.ProvisionRequest{ModelRef: "file:" + path, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(content)))}, nil); err != nil || m.SizeBytes != 108 {
		t.Error(m, err)
	}
	var e *hiveapi.Error
	if _, err := h.Provision(t.Context(), hiveapi.ProvisionRequest{ModelRef: "file:" + path, SHA256: strings.Repeat("0", 64)}, nil); !errors.As(err, &e) || e.Code() != "PROVISION_FAILED" {
		t.Error(err)
	}
	if w, err := h.Spawn(t.Context(), hiveapi.SpawnRequest{WorkerID: "w", ModelRef: "sim:x?fail=oom", Engine: hiveapi.EngineSpec{Name: "sim"}}); err != nil {
		t.Error(w, err)
	}
	if _, err := h.WaitWorker(t.Context(), "w", nil); !errors.As(err, &e) || e.Code() != "INSUFFICIENT_VRAM" {
		t.Error(err)
	}
}

// TestOneHiveADirectory: the second one says so; after a shutdown that keeps the workers the next has them.
func TestOneHiveADirectory(t *testing.T) {
	dir := t.TempDir()
	h := startHive(t, dir)
	var errOut strings.Builder
	if code := Main([]string{"--data-dir", dir, "--token-stdin"}, "v", strings.NewReader(testToken), io.Discard, &errOut); code != exitError || !strings.Contains(errOut.String(), "another hive runs") {
		t.Error(code, errOut.String())
	}
	w := h.spawn(simRequest("w"))
	if err := h.Shutdown(t.Context(), hiveapi.ShutdownRequest{KeepWorkers: true}); err != nil {
		t.Fatal(err)
	}
	<-h.done
	mustEqual(t, "exit", h.cmd.ProcessState.ExitCode(), 0)
	h = startHive(t, dir)
	again, err := h.WaitWorker(t.Context(), "w", nil)
	if err != nil || again.PID != w.PID {
		t.Error(again, err)
	}
	if err := h.Shutdown(t.Context(), hiveapi.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	<-h.done
	if left := leftWorkers(dir); len(left) > 0 {
		t.Error(left)
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		args []string
		in   string
		code int
		want string
	}{
		{[]string{"--version"}, "", 0, "rbee-hive v9"},
		{[]string{"version"}, "", 0, "rbee-hive v9"},
		{[]string{"--help"}, "", 0, "data-dir"},
		{[]string{"--what"}, "", 64, "what"},
		{nil, "", 64, "data-dir"},
		{[]string{"--data-dir", dir, "x"}, "", 64, "unexpected"},
		{[]string{"--data-dir", dir, "--addr", "7835"}, testToken, 64, "HOST:PORT"},
		{[]string{"--data-dir", dir, "--id", "a b"}, testToken, 64, "letters"},
		{[]string{"--data-dir", dir, "--log-format", "xml"}, testToken, 64, "json or text"},
		{[]string{"--data-dir", dir, "--sim-device", "gpu0"}, testToken, 64, "gpu0=24GiB"},
		{[]string{"--data-dir", dir}, "", 1, "there is no token"},
		{[]string{"--data-dir", dir, "--token-stdin"}, "short\n", 1, "shorter"},
		{[]string{"--data-dir", dir, "--token-stdin", "--addr", "256.0.0.1:1"}, testToken, 1, "can't listen"},
	} {
		var out strings.Builder
		if code := Main(tc.args, "v9", strings.NewReader(tc.in), &out, &out); code != tc.code || !strings.Contains(out.String(), tc.want) {
			t.Errorf("%q: %d %s", tc.args, code, out.String())
		}
		if strings.Contains(out.String(), testToken) {
			t.Error("the token was printed")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(testToken+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readToken(dir, false, nil); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error("a token that everybody can read:", err)
	}
	_ = os.Chmod(filepath.Join(dir, "token"), 0o600)
	if tok, _, err := readToken(dir, false, nil); tok != testToken || err != nil {
		t.Error(tok, err)
	}
}

// TestPretendedDevices shows what the workers on them leave free.
func TestPretendedDevices(t *testing.T) {
	h := startHive(t, t.TempDir(), "--sim-device", "gpu0=8GiB", "--sim-device", "gpu1=4GiB")
	r := simRequest("w")
	r.ModelRef, r.Devices = "sim:m?memory=3GiB", []string{"gpu0"}
	w := h.spawn(r)
	mustEqual(t, "device", w.Device, "gpu0")
	st, err := h.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	free := map[string]int64{}
	for _, d := range st.Devices {
		free[d.ID] = d.MemoryFree >> 30
	}
	mustEqual(t, "free on gpu0", free["gpu0"], 5)
	mustEqual(t, "free on gpu1", free["gpu1"], 4)
}

// TestSurvivesItsParent: the pipes to a queen that died break, and the hive goes on.
func TestSurvivesItsParent(t *testing.T) {
	h := startHive(t, t.TempDir(), "--detached")
	_ = h.cmd.Process.Signal(syscall.SIGHUP)
	_ = h.cmd.Process.Signal(syscall.SIGPIPE)
	h.spawn(simRequest("w"))
	var b []byte
	until(t, "nothing in hive.log", func() bool {
		b, _ = os.ReadFile(filepath.Join(h.dir, "hive.log"))
		return strings.Contains(string(b), "a worker serves")
	})
	if strings.Contains(string(b), testToken) {
		t.Error("the token is in the log")
	}
	lines, err := h.Logs(t.Context(), hiveapi.LogQuery{Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lines.Close() }()
	if b, _ := io.ReadAll(lines); strings.Count(string(b), "\n") != 1 {
		t.Errorf("%s", b)
	}
}
