package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// archive makes a .tar.gz with one program and returns its checksum.
func archive(t *testing.T, path, program, script string) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	err := w.WriteHeader(&tar.Header{Name: "build/bin/" + program, Mode: 0o755, Size: int64(len(script)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write([]byte(script))
	}
	if err != nil || w.Close() != nil || z.Close() != nil || os.WriteFile(path, buf.Bytes(), 0o600) != nil {
		t.Fatal("archive", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(buf.Bytes()))
}

// TestEngineCommands installs two versions from a catalogue, switches, removes, and refuses what is wrong.
func TestEngineCommands(t *testing.T) {
	dir := t.TempDir()
	var packages []map[string]string
	for _, version := range []string{"v1", "v2", "bad", "forged"} {
		script := "#!/bin/sh\necho " + version + "\n"
		if version == "bad" {
			script = "#!/bin/sh\nexit 3\n"
		}
		path := filepath.Join(dir, version+".tar.gz")
		sum := archive(t, path, "mine", script)
		if version == "forged" {
			sum = strings.Repeat("0", 64)
		}
		packages = append(packages, map[string]string{"engine": "mine", "version": version, "os": runtime.GOOS, "arch": runtime.GOARCH, "backend": "cpu",
			"url": "file://" + path, "sha256": sum, "program": "mine"})
	}
	sum := archive(t, filepath.Join(dir, "sent.tar.gz"), "mine", "#!/bin/sh\necho sent\n")
	for version, name := range map[string]string{"sent": "sent.tar.gz", "absent": "absent.tar.gz"} {
		packages = append(packages, map[string]string{"engine": "mine", "version": version, "os": runtime.GOOS, "arch": runtime.GOARCH, "backend": "cpu",
			"url": "bundle:" + name, "sha256": sum, "program": "mine"})
	}
	data, err := json.Marshal(map[string]any{"packages": packages})
	if err != nil {
		t.Fatal(err)
	}
	catalogue := filepath.Join(dir, "engines.json")
	if err := os.WriteFile(catalogue, data, 0o600); err != nil {
		t.Fatal(err)
	}
	q := start(t, "engine_catalog: "+catalogue+"\n")
	ok := func(args ...string) string {
		t.Helper()
		out, errOut, code := q.rbee(append([]string{"engine"}, args...)...)
		if code != 0 {
			t.Fatalf("%v: %d %s %s", args, code, out, errOut)
		}
		return out
	}
	refused := func(part string, args ...string) {
		t.Helper()
		if _, errOut, code := q.rbee(append([]string{"engine"}, args...)...); code == 0 || !strings.Contains(errOut, part) {
			t.Errorf("%v: %d %s, want %q", args, code, errOut, part)
		}
	}
	active := func(want string) {
		t.Helper()
		var list struct {
			Engines []struct {
				Node, Engine, Version, Source, Path string
				Active                              bool
			}
		}
		q.json("GET", "/v2/engines?node=local", nil, &list, 200)
		got := ""
		for _, e := range list.Engines {
			if e.Engine == "mine" && e.Active {
				got += e.Version
			}
		}
		if got != want {
			t.Errorf("active: %q, want %q", got, want)
		}
	}
	ok("install", "mine", "v1")
	active("v1")
	ok("install", "mine", "v2", "--hive", "local")
	active("v2")
	refused("PROVISION_FAILED", "install", "mine", "bad")
	refused("sha256", "install", "mine", "forged")
	refused("catalogue has no", "install", "mine", "v9")
	refused("NODE_NOT_FOUND", "install", "mine", "v1", "--hive", "nowhere")
	active("v2") // whatever failed, the one that worked stays
	refused("CONFLICT", "rm", "mine", "v2")
	ok("use", "mine", "v1")
	active("v1")
	ok("rm", "mine", "v2")
	if out := ok("ls"); !strings.Contains(out, "llama.cpp") || !strings.Contains(out, "v1") || strings.Contains(out, "v2") {
		t.Error(out)
	}
	ok("install", "mine", "sent") // by the queen, from beside the catalogue
	active("sent")
	if left, err := filepath.Glob(filepath.Join(q.dir, "hives", "local", "engines", "tmp", "sent", "*")); err != nil || len(left) > 0 {
		t.Error("archives were left behind:", left, err)
	}
	refused("lies not beside the catalogue", "install", "mine", "absent")
	sum = archive(t, filepath.Join(dir, "own.tar.gz"), "mine", "#!/bin/sh\n")
	ok("install", "mine", "v3", "--url", "file://"+filepath.Join(dir, "own.tar.gz"), "--sha256", sum)
	active("v3")
}

// TestWorkerPage reaches a worker's own endpoints through the queen: the simulator's, and llama-server's page.
func TestWorkerPage(t *testing.T) {
	binary, model := llamaServer(t)
	t.Setenv("LLAMA_SERVER", binary)
	q := start(t, "models:\n  demo: {ref: \"sim:demo\"}\n  stories: {ref: \"file:"+model+"\", slots: 1, context: 512, args: [\"-t\", \"1\", \"-tb\", \"1\"]}\n")
	for name, c := range map[string]struct{ method, path, body, part string }{
		"demo":    {"GET", "/health", "", "ok"},
		"stories": {"POST", "/completion", `{"prompt":"Once upon","n_predict":3,"temperature":0}`, `"content"`},
	} {
		h := q.json("POST", "/v1/completions", map[string]any{"model": name, "prompt": "Once", "max_tokens": 2}, nil, 200)
		id := h.Get("X-Rbee-Worker-Id")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		res, err := q.do(ctx, c.method, "/v2/workers/"+id+"/proxy"+c.path, c.body, "Authorization", "Bearer not-the-workers")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		cancel()
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(body), c.part) {
			t.Errorf("%s %s: %d %v %s", name, c.path, res.StatusCode, err, body)
		}
	}
	if got := q.status("GET", "/v2/workers/none/proxy/", nil); got != 404 {
		t.Error("no such worker:", got)
	}
}

// TestImportedConfiguration imports a llama-swap file, has queen-rbee check what comes out, and runs a model of it.
func TestImportedConfiguration(t *testing.T) {
	binary, model := llamaServer(t)
	dir := t.TempDir()
	swap := filepath.Join(dir, "swap.yaml")
	text := "healthCheckTimeout: 60\nstartPort: 1\nmacros: {server: \"" + binary + " --port ${PORT} -t 1 -tb 1\"}\nmodels:\n  tales:\n    cmd: ${server} -m " + model +
		" -c 512 -np 1\n    aliases: [gpt-4o]\n    ttl: 300\n"
	if err := os.WriteFile(swap, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "rbee"), "config", "import", "llama-swap", swap)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil || !strings.Contains(errOut.String(), "startPort: no equivalent") {
		t.Fatal(err, errOut.String())
	}
	q := start(t, out.String())
	var answer completion
	q.json("POST", "/v1/completions", `{"model":"gpt-4o","prompt":"Once upon a time","max_tokens":4,"temperature":0}`, &answer, 200)
	if len(answer.Choices) != 1 || answer.Choices[0].Text == "" {
		t.Errorf("%+v", answer)
	}
}
