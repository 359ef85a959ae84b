package e2e

import (
	"bufio"
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
)

var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("RBEE_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.MkdirTemp("", "rbee-e2e-bin")
	if err != nil {
		return "", err
	}
	return dir, compile(dir)
})

// compile builds the three programs from this checkout.
func compile(dir string, flags ...string) error {
	args := append([]string{"build", "-o", dir + "/"}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/queen-rbee", "./cmd/rbee-hive", "./cmd/rbee")...)
	cmd.Dir = root()
	cmd.Env = append(os.Environ(), "GOWORK=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

func root() string {
	dir, err := filepath.Abs("../../..")
	if err != nil {
		panic(err)
	}
	return dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := build(); err == nil && os.Getenv("RBEE_BIN") == "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// need skips a test for want of a tool; in CI that is a failure.
func need(t *testing.T, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatalf("%s is missing: run make deps", what)
	}
	t.Skipf("%s is missing (llama-server, node, root or data): run make deps", what)
}

func llamaServer(t *testing.T) (binary, model string) {
	t.Helper()
	for _, p := range []string{os.Getenv("LLAMA_SERVER"), "/opt/llama-server/llama-server"} {
		if _, err := os.Stat(p); err == nil && binary == "" {
			binary = p
		}
	}
	if p, err := exec.LookPath("llama-server"); err == nil && binary == "" {
		binary = p
	}
	need(t, binary != "", "llama-server")
	model = filepath.Join(root(), "..", "shared", "data", "models", "stories260K-chat.gguf")
	if p := os.Getenv("RBEE_STORIES"); p != "" {
		model = p
	}
	_, err := os.Stat(model)
	need(t, err == nil, "test data: the stories model (RBEE_STORIES)")
	return binary, model
}

// queen is a running queen-rbee.
type queen struct {
	t      *testing.T
	url    string
	dir    string // data directory
	config string
	bin    string
	cmd    *exec.Cmd
	log    *bytes.Buffer
	logMu  sync.Mutex
	done   chan error
	env    []string
	args   []string
	client *http.Client // nil: Go's own
}

// start builds what is needed and starts a queen with the given configuration (data_dir and listen are added).
func start(t *testing.T, config string, args ...string) *queen {
	t.Helper()
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, bin, config, args...)
}

// startWith is start with other binaries.
func startWith(t *testing.T, bin, config string, args ...string) *queen {
	t.Helper()
	return startVia(t, nil, bin, config, args...)
}

// startVia is startWith for a queen that is asked through the client.
func startVia(t *testing.T, client *http.Client, bin, config string, args ...string) *queen {
	t.Helper()
	dir := t.TempDir()
	q := &queen{t: t, dir: filepath.Join(dir, "data"), config: filepath.Join(dir, "queen.yaml"), bin: bin, args: args, client: client}
	text := "data_dir: " + q.dir + "\n" + config
	if err := os.WriteFile(q.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	q.launch("127.0.0.1:0")
	t.Cleanup(func() {
		q.stop()
		if t.Failed() {
			t.Logf("queen's log:\n%s", q.logs())
		}
	})
	return q
}

func (q *queen) logs() string {
	q.logMu.Lock()
	defer q.logMu.Unlock()
	return q.log.String()
}

// Write takes the queen's stderr.
func (q *queen) Write(b []byte) (int, error) {
	q.logMu.Lock()
	defer q.logMu.Unlock()
	return q.log.Write(b)
}

// launch starts the process and waits until it serves.
func (q *queen) launch(addr string) {
	q.t.Helper()
	if q.log == nil {
		q.log = &bytes.Buffer{}
	}
	q.cmd = exec.Command(filepath.Join(q.bin, "queen-rbee"), append([]string{"--config", q.config, "--addr", addr}, q.args...)...)
	q.cmd.Env = append(os.Environ(), q.env...)
	q.cmd.Stderr = q
	out, err := q.cmd.StdoutPipe()
	if err != nil {
		q.t.Fatal(err)
	}
	if err := q.cmd.Start(); err != nil {
		q.t.Fatal(err)
	}
	line := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if url, ok := strings.CutPrefix(sc.Text(), "ready "); ok {
				line <- url
			}
		}
		close(line)
	}()
	q.done = make(chan error, 1)
	cmd, done := q.cmd, q.done
	select {
	case url, ok := <-line:
		go func() { done <- cmd.Wait() }()
		if !ok {
			q.t.Fatalf("the queen ended before it was ready: %v\n%s", <-done, q.logs())
		}
		q.url = url
	case <-time.After(30 * time.Second):
		_ = q.cmd.Process.Kill()
		q.t.Fatalf("no ready line in 30 s\n%s", q.logs())
	}
	q.until("the queen is ready", 30*time.Second, func() bool { return q.status("GET", "/ready", nil) == 200 })
}

// addr is HOST:PORT of the queen.
func (q *queen) addr() string { return q.url[strings.Index(q.url, "://")+3:] }

// kill ends the queen as a power cut would end the process.
func (q *queen) kill() {
	_ = q.cmd.Process.Signal(syscall.SIGKILL)
	<-q.done
	q.cmd = nil
}

// stop ends the queen with SIGTERM and waits for it.
func (q *queen) stop() {
	if q.cmd == nil {
		return
	}
	_ = q.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-q.done:
		if err != nil {
			q.t.Errorf("the queen ended with %v after SIGTERM", err)
		}
	case <-time.After(60 * time.Second):
		_ = q.cmd.Process.Kill()
		q.t.Errorf("the queen did not end within 60 s of SIGTERM")
	}
	q.cmd = nil
}

// until polls a condition.
func (q *queen) until(what string, limit time.Duration, ok func() bool) {
	q.t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			q.t.Fatalf("not within %s: %s", limit, what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (q *queen) do(ctx context.Context, method, path string, body any, header ...string) (*http.Response, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, q.url+path, r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if q.client != nil {
		return q.client.Do(req)
	}
	return http.DefaultClient.Do(req)
}

// status is the answer's status, 0 when there was none.
func (q *queen) status(method, path string, body any) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, err := q.do(ctx, method, path, body)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

// json sends a request, wants the status, and decodes the answer.
func (q *queen) json(method, path string, body, out any, want int, header ...string) http.Header {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	res, err := q.do(ctx, method, path, body, header...)
	if err != nil {
		q.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		q.t.Fatalf("%s %s: status %d (%v), want %d: %s", method, path, res.StatusCode, err, want, data)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			q.t.Fatalf("%s %s: %v in %s", method, path, err, data)
		}
	}
	return res.Header
}

// event is one server-sent event.
type event struct {
	id, name, data string
}

// events reads an event stream until it ends, fn returns false, or the connection breaks.
func events(r io.Reader, fn func(event) bool) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 8<<20)
	var ev event
	for sc.Scan() {
		line := sc.Text()
		if line == "" {
			if (ev.data != "" || ev.name != "") && !fn(ev) {
				return nil
			}
			ev = event{}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			ev.id = value
		case "event":
			ev.name = value
		case "data":
			ev.data += value
		}
	}
	return sc.Err()
}

// follow reads a job's native events after the given id.
func (q *queen) follow(ctx context.Context, id, after string, fn func(event) bool) error {
	var header []string
	if after != "" {
		header = []string{"Last-Event-ID", after}
	}
	res, err := q.do(ctx, "GET", "/v2/tasks/"+id+"/events", nil, header...)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != 200 {
		data, _ := io.ReadAll(res.Body)
		return fmt.Errorf("status %d: %s", res.StatusCode, data)
	}
	return events(res.Body, fn)
}

// rbee runs the command-line client.
func (q *queen) rbee(args ...string) (stdout, stderr string, code int) {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(q.bin, "rbee"), args...)
	cmd.Env = append(os.Environ(), "RBEE_URL="+q.url, "HOME="+q.dir)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if cmd.ProcessState == nil {
		q.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func tokenText(ev event) string {
	var t struct {
		T string `json:"t"`
	}
	_ = json.Unmarshal([]byte(ev.data), &t)
	return t.T
}

func mustUnmarshal(t *testing.T, data string, out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(data), out); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}
