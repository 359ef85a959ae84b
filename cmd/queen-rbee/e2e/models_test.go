package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

type modelRecord struct {
	Model     string  `json:"model"`
	Ref       string  `json:"model_ref"`
	Node      string  `json:"node"`
	State     string  `json:"state"`
	Size      int64   `json:"size_bytes"`
	SHA256    string  `json:"sha256"`
	Context   int     `json:"context_length"`
	Estimate  int64   `json:"memory_estimate"`
	Progress  float64 `json:"progress"`
	Parameter int64   `json:"parameters"`
}

// model finds one in a list of models.
func (q *queen) model(path, name string) (modelRecord, bool) {
	q.t.Helper()
	var list struct{ Models []modelRecord }
	q.json("GET", path, nil, &list, 200)
	for _, m := range list.Models {
		if m.Model == name {
			return m, true
		}
	}
	return modelRecord{}, false
}

func TestPullThenChat(t *testing.T) {
	_, path := llamaServer(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hub := newHub(t, "tiny/stories", "stories-q8_0.gguf", data)
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n")

	out, errOut, code := q.rbee("pull", "hf:tiny/stories", "--as", "stories")
	if code != 0 || !strings.Contains(errOut, "is on local") {
		t.Fatalf("pull: %d %q %q", code, out, errOut)
	}
	m, ok := q.model("/v2/models/list", "stories")
	if !ok || m.State != "ready" || m.Ref != "hf:tiny/stories@"+hub.commit || m.Size != int64(len(data)) || m.SHA256 == "" || m.Context == 0 || m.Parameter == 0 || m.Node != "local" {
		t.Fatalf("after the pull: %+v", m)
	}
	if m.Estimate < m.Size || m.Estimate >= 1<<30 {
		t.Errorf("memory estimate %d of a model of %d bytes: not from its metadata", m.Estimate, m.Size)
	}
	if out, _, _ := q.rbee("show", "stories"); !strings.Contains(out, hub.commit) || !strings.Contains(out, "ready") || !strings.Contains(out, "the only one there is") {
		t.Errorf("show: %q", out)
	}

	var chat completion
	q.json("POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"Once upon a time"}],"max_tokens":8}`, &chat, 200)
	if len(chat.Choices) != 1 || chat.Choices[0].Message.Content == "" || chat.Usage.Completion == 0 {
		t.Fatalf("chat: %+v", chat)
	}
	if m, _ := q.model("/v2/models/catalog", "stories"); m.State != "loaded" {
		t.Errorf("state %q, want loaded", m.State)
	}

	// a second pull is no work; a model in use keeps its files; after that they go
	before, _ := hub.downloads(0)
	events, _, code := q.rbee("pull", "stories", "-o", "json")
	if after, _ := hub.downloads(0); code != 0 || after != before || !strings.Contains(events, `"state":"ready"`) {
		t.Errorf("second pull: %d, %d and %d requests, %q", code, before, after, events)
	}
	if _, errOut, code := q.rbee("rm", "stories", "--hive", "local"); code != 1 || !strings.Contains(errOut, "CONFLICT") {
		t.Errorf("rm of a model in use: %d %q", code, errOut)
	}

	// added at run time, it is there after a restart, and answers though the hub is gone
	q.stop()
	hub.Close()
	q.launch(q.addr())
	q.json("POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"Once upon a time"}],"max_tokens":4}`, &chat, 200)
	if _, _, code := q.rbee("stop", "stories"); code != 0 {
		t.Error("rbee stop failed")
	}
	q.until("the worker is gone", 20*time.Second, func() bool {
		var list workerList
		q.json("GET", "/v2/workers/list", nil, &list, 200)
		return len(list.Workers) == 0
	})
	if _, errOut, code := q.rbee("rm", "stories"); code != 0 {
		t.Fatalf("rm: %d %q", code, errOut)
	}
	if m, ok := q.model("/v2/models/list", "stories"); ok && m.State != "absent" {
		t.Errorf("after rm: %+v", m)
	}
}

func TestPullOfAnUnpinnedConfiguredModel(t *testing.T) {
	_, path := llamaServer(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hub := newHub(t, "tiny/stories", "stories-q8_0.gguf", data)
	hub.token = "hf_secret"
	t.Setenv("HF_TOKEN", "hf_secret")
	q := start(t, "models: {stories: {ref: \"hf:tiny/stories\"}}\n")
	ask := func() {
		t.Helper()
		var chat completion
		q.json("POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"Once upon a time"}],"max_tokens":4}`, &chat, 200)
	}
	var wg sync.WaitGroup
	var bad atomic.Int32
	for range 100 {
		wg.Go(func() {
			if q.status("POST", "/v2/models/download", `{"model_ref":"stories"}`) != 202 {
				bad.Add(1)
			}
		})
	}
	wg.Wait()
	ask()
	before, _ := hub.downloads(0)
	if before != 1 || bad.Load() > 0 {
		t.Errorf("100 requests at once: %d requests for the content of one chunk, %d refused", before, bad.Load())
	}
	q.stop()
	hub.Close() // no hub: what is on the disk serves
	q.launch(q.addr())
	if m, ok := q.model("/v2/models/list", "stories"); !ok || m.State != "ready" {
		t.Errorf("after the restart the hive has %+v", m)
	}
	ask()
	if after, _ := hub.downloads(0); after != before {
		t.Errorf("%d requests for the content, %d before the restart", after, before)
	}
	err = filepath.WalkDir(q.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(p)
		if bytes.Contains(text, []byte("hf_secret")) {
			t.Errorf("the hub's token is in %s", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(q.logs(), "hf_secret") {
		t.Error("the hub's token is in the log")
	}
}

// bigModel is random data that begins like a GGUF file.
func bigModel(size int) []byte {
	data := make([]byte, size)
	src := rand.NewChaCha8([32]byte{7})
	_, _ = src.Read(data)
	copy(data, "GGUF")
	return data
}

const chunk = 8 << 20

func TestDownloadGoesOnAfterARestart(t *testing.T) {
	hub := newHub(t, "tiny/big", "big-q8_0.gguf", bigModel(6*chunk))
	hub.holdFrom(3 * chunk)
	q := start(t, "models: {}\n")
	var begun struct {
		ID     string `json:"download_id"`
		Events string `json:"events_url"`
	}
	q.json("POST", "/v2/models/download", `{"model_ref":"hf:tiny/big"}`, &begun, 202)
	var again struct {
		ID string `json:"download_id"`
	}
	q.json("POST", "/v2/models/download", `{"model_ref":"hf:tiny/big"}`, &again, 202)
	if begun.ID == "" || begun.ID != again.ID {
		t.Fatalf("two downloads of one model: %q and %q", begun.ID, again.ID)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	res, err := q.do(ctx, "GET", begun.Events, nil)
	if err != nil {
		t.Fatal(err)
	}
	reached := false
	if err := events(res.Body, func(ev event) bool {
		var p struct {
			Done  int64 `json:"bytes_done"`
			Total int64 `json:"bytes_total"`
		}
		mustUnmarshal(t, ev.data, &p)
		reached = p.Done >= 3*chunk && p.Total == 6*chunk
		return !reached
	}); err != nil || !reached {
		t.Fatalf("progress up to three chunks: %v %v", reached, err)
	}
	_ = res.Body.Close()

	q.stop()
	_, before := hub.downloads(3 * chunk)
	hub.release()
	q.launch(q.addr())
	_, errOut, code := q.rbee("pull", "hf:tiny/big")
	if code != 0 {
		t.Fatalf("pull after the restart: %d %q", code, errOut)
	}
	if _, after := hub.downloads(3 * chunk); after != before {
		t.Errorf("chunks that were there were fetched again: %d requests, then %d", before, after)
	}
	if m, ok := q.model("/v2/models/list", ""); !ok || m.State != "ready" || m.Size != 6*chunk {
		t.Errorf("after the download: %+v", m)
	}
}

func TestPullOutlivesAKilledQueen(t *testing.T) {
	hub := newHub(t, "tiny/big", "big-q8_0.gguf", bigModel(4*chunk))
	hub.holdFrom(2 * chunk)
	q := start(t, "models: {}\n")
	cmd := exec.Command(filepath.Join(q.bin, "rbee"), "pull", "hf:tiny/big")
	cmd.Env = append(os.Environ(), "RBEE_URL="+q.url)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	q.until("half of it is there", 20*time.Second, func() bool {
		m, ok := q.model("/v2/models/list", "")
		return ok && m.State == "downloading" && m.Progress >= 0.5
	})
	addr := q.addr()
	q.kill()
	q.launch(addr)
	hub.release()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the pull: %v %s", err, errOut.String())
	}
	if m, ok := q.model("/v2/models/list", ""); !ok || m.State != "ready" {
		t.Errorf("after the pull: %+v", m)
	}
	if _, half := hub.downloads(2 * chunk); half != 2 {
		t.Errorf("%d requests for the first two chunks, want 2", half)
	}
}

func TestCancelDownload(t *testing.T) {
	hub := newHub(t, "tiny/big", "big-q8_0.gguf", bigModel(2*chunk))
	hub.holdFrom(0)
	q := start(t, "models: {}\n")
	cmd := exec.Command(filepath.Join(q.bin, "rbee"), "pull", "hf:tiny/big")
	cmd.Env = append(os.Environ(), "RBEE_URL="+q.url)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	q.until("the hub is asked", 20*time.Second, func() bool { n, _ := hub.downloads(0); return n > 0 })
	if _, e, code := q.rbee("pull", "--cancel", "hf:tiny/big"); code != 0 {
		t.Fatalf("cancel: %d %q", code, e)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(errOut.String(), "CANCELLED") {
		t.Fatalf("the waiting pull: %v %q", err, errOut.String())
	}
	q.until("the hive stopped", 10*time.Second, func() bool {
		m, ok := q.model("/v2/models/list", "")
		return !ok || m.State != "downloading"
	})
	hub.release()
	if _, e, code := q.rbee("pull", "hf:tiny/big"); code != 0 {
		t.Fatalf("pull after the cancelled one: %d %q", code, e)
	}
}

func TestModelLoading(t *testing.T) {
	q := start(t, "models: {slow: {ref: \"sim:slow?load=3s\"}}\ntimeouts: {model_wait: 500ms}\n")
	body := `{"model":"slow","messages":[{"role":"user","content":"hi"}],"max_tokens":3}`
	type answer struct {
		status int
		text   string
	}
	streamed := make(chan answer, 1)
	go func() { // a stream is kept open
		res, err := q.do(t.Context(), "POST", "/v1/chat/completions", strings.Replace(body, "{", `{"stream":true,`, 1))
		if err != nil {
			streamed <- answer{0, err.Error()}
			return
		}
		defer func() { _ = res.Body.Close() }()
		text, _ := io.ReadAll(res.Body)
		streamed <- answer{res.StatusCode, string(text)}
	}()
	begin := time.Now()
	res, err := q.do(t.Context(), "POST", "/v1/chat/completions", body)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	var e struct {
		Error   struct{ Code, Message string }
		Loading struct {
			Model, Node, State string
			Progress           *float64
			ETA                *float64 `json:"eta_seconds"`
			Done               *int64   `json:"bytes_done"`
			Total              *int64   `json:"bytes_total"`
		}
	}
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	l := e.Loading
	if res.StatusCode != 503 || res.Header.Get("X-Rbee-Error") != "MODEL_LOADING" || res.Header.Get("Retry-After") == "" || res.Header.Get("x-should-retry") != "true" ||
		l.Model != "slow" || l.Node != "local" || l.State == "" || l.Progress == nil || l.ETA == nil || l.Done == nil || l.Total == nil {
		t.Fatalf("status %d %v %s", res.StatusCode, res.Header, text)
	}
	if took := time.Since(begin); took > 2500*time.Millisecond {
		t.Errorf("answered after %s, model_wait is 500ms", took)
	}
	// its leaving stopped nothing: the stream gets its answer from the one load
	got := <-streamed
	if got.status != 200 || !strings.Contains(got.text, "[DONE]") {
		t.Fatalf("the stream: %d %q", got.status, got.text)
	}
	var list workerList
	q.json("GET", "/v2/workers/list", nil, &list, 200)
	if len(list.Workers) != 1 {
		t.Errorf("%d workers, want the one", len(list.Workers))
	}
	q.json("POST", "/v1/chat/completions", body, nil, 200)
}

func TestModelAddedAtRunTime(t *testing.T) {
	q := start(t, "models: {fixed: {ref: \"sim:fixed\"}}\n")
	q.json("PUT", "/v2/models/extra", `{"ref":"sim:extra?itl=1ms","slots":2,"ttl":"5m","set":{"temperature":0.5}}`, nil, 200)
	q.json("PUT", "/v2/models/bad", `{"ref":"file:../x"}`, nil, 400)
	q.json("PUT", "/v2/models/bad", `{"ref":"sim:x","colour":"red"}`, nil, 400)
	if _, e, code := q.rbee("model", "add", "more", "--ref", "sim:more"); code != 0 {
		t.Fatalf("model add: %q", e)
	}
	q.kill()
	q.launch(q.addr())
	for _, name := range []string{"extra", "more", "fixed"} {
		q.json("POST", "/v1/completions", `{"model":"`+name+`","prompt":"go","max_tokens":2}`, nil, 200)
	}
	out, _, _ := q.rbee("ls", "-q")
	if out != "extra\nfixed\nmore\n" {
		t.Errorf("ls: %q", out)
	}
	if _, e, code := q.rbee("model", "rm", "more"); code != 0 {
		t.Fatalf("model rm: %q", e)
	}
	q.json("DELETE", "/v2/models/fixed", nil, nil, 409) // the configuration's own
	q.json("POST", "/v1/completions", `{"model":"more","prompt":"go","max_tokens":2}`, nil, 404)
}

func TestDiskFullSaysWhatToFree(t *testing.T) {
	need(t, os.Getuid() == 0, "root")
	newHub(t, "tiny/big", "big-q8_0.gguf", bigModel(2*chunk))
	dir := t.TempDir()
	models := filepath.Join(dir, "hives", "local", "models")
	if err := os.MkdirAll(models, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", models, "tmpfs", 0, "size=8m"); err != nil {
		need(t, false, "root that may mount")
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(models, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	q := start(t, "models: {demo: {ref: \"sim:demo\"}}\n", "--data-dir", dir)
	_, errOut, code := q.rbee("pull", "hf:tiny/big")
	if code != 1 || !strings.Contains(errOut, "free") {
		t.Fatalf("pull onto a full disk: %d %q", code, errOut)
	}
	t.Logf("%s", errOut)
	q.json("POST", "/v1/completions", `{"model":"demo","prompt":"go","max_tokens":2}`, nil, 200)
}

func TestAHiveGivesAModelToAnother(t *testing.T) {
	hub := newHub(t, "tiny/big", "big-q8_0.gguf", bigModel(3*chunk))
	q := start(t, "hives: [{name: one, mode: local}, {name: two, mode: local}]\nmodels: {big: {ref: \"hf:tiny/big\"}}\n")
	if _, e, code := q.rbee("pull", "big", "--hive", "one"); code != 0 {
		t.Fatalf("pull from the hub: %d %q", code, e)
	}
	before, _ := hub.downloads(0)
	if _, e, code := q.rbee("pull", "big", "--hive", "two"); code != 0 {
		t.Fatalf("pull from the other hive: %d %q", code, e)
	}
	if after, _ := hub.downloads(0); after != before {
		t.Errorf("the hub served content %d times for the first hive and %d more for the second", before, after-before)
	}
	var list struct{ Models []modelRecord }
	q.json("GET", "/v2/models/list", nil, &list, 200)
	if len(list.Models) != 2 || list.Models[0].SHA256 != list.Models[1].SHA256 || list.Models[1].State != "ready" || list.Models[1].Node != "two" {
		t.Errorf("models %+v", list.Models)
	}
}
