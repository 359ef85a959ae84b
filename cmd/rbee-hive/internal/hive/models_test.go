package hive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// hubOf is a hub with one repository that holds one model file.
func hubOf(t *testing.T, content []byte) (url string, requests func() int) {
	t.Helper()
	sum := sha256.Sum256(content)
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n++
		switch {
		case strings.Contains(r.URL.Path, "/resolve/"):
			w.Header().Set("X-Repo-Commit", strings.Repeat("c", 40))
			w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(content)))
		case strings.Contains(r.URL.Path, "/tree/"):
			_, _ = fmt.Fprintf(w, `[{"type":"file","path":"m.gguf","size":%d,"oid":"%s","lfs":{"oid":"%x","size":%d,"pointerSize":130}}]`, len(content), strings.Repeat("a", 40), sum, len(content))
		default:
			_, _ = fmt.Fprintf(w, `{"id":"org/m","sha":"%s","siblings":[{"rfilename":"m.gguf","size":%d,"lfs":{"sha256":"%x","size":%d}}]}`, strings.Repeat("c", 40), len(content), sum, len(content))
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() int { return n }
}

// TestModelFromTheHub fetches a model once, serves its file to other hives, keeps it over a restart, and drops it only
// when no worker uses it.
func TestModelFromTheHub(t *testing.T) {
	real, ok := storiesRequest(t, "w")
	if !ok {
		t.Skip("no llama-server or no model data on this machine")
	}
	content, err := os.ReadFile(strings.TrimPrefix(real.ModelRef, "file:"))
	if err != nil {
		t.Fatal(err)
	}
	hub, _ := hubOf(t, content)
	dir := t.TempDir()
	h := startHive(t, dir, "--hf-endpoint", hub)
	ref := "hf:org/m@" + strings.Repeat("c", 40) + "::file=m.gguf"
	var e *hiveapi.Error
	real.ModelRef = ref
	if _, err := h.Spawn(t.Context(), real); !errors.As(err, &e) || e.Code() != "MODEL_NOT_FOUND" {
		t.Error("a model that is not there:", err)
	}
	m, err := h.Provision(t.Context(), hiveapi.ProvisionRequest{ModelRef: ref}, nil)
	if err != nil {
		t.Fatal(err, h.text())
	}
	sum := sha256.Sum256(content)
	mustEqual(t, "sha256", m.SHA256, hex.EncodeToString(sum[:]))
	if m.Architecture != "llama" || m.ContextLength == 0 || m.Layers == 0 || m.Parameters == 0 || m.Memory.Weights == 0 {
		t.Errorf("the file's own words are missing: %+v", m)
	}
	code, body := h.raw(http.MethodGet, hiveapi.PathFiles+m.SHA256, "Bearer "+testToken, "")
	if code != 200 || len(body) != len(content) {
		t.Error("the file for other hives:", code, len(body))
	}
	h.kill()
	h = startHive(t, dir, "--hf-endpoint", "http://127.0.0.1:1") // without the hub: what is there is verified, not fetched
	if _, err := h.Provision(t.Context(), hiveapi.ProvisionRequest{ModelRef: ref}, nil); err != nil {
		t.Fatal("after a crash:", err)
	}
	w := h.spawn(real)
	if complete(t, w) == "" {
		t.Error("nothing said")
	}
	if err := h.EvictModel(t.Context(), ref); !errors.As(err, &e) || e.Code() != "CONFLICT" {
		t.Error("in use:", err)
	}
	if err := h.ShutdownWorker(t.Context(), hiveapi.ShutdownWorkerRequest{WorkerID: "w"}); err != nil {
		t.Fatal(err)
	}
	until(t, "gone", func() bool { list, err := h.Workers(t.Context()); return err == nil && len(list) == 0 })
	if err := h.EvictModel(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(m.Path); err == nil {
		t.Error("the file is still there")
	}
}

// TestEngineInstall installs an engine from an archive in a bundle directory, switches and removes.
func TestEngineInstall(t *testing.T) {
	program := []byte("#!/bin/sh\necho version\n")
	file := filepath.Join(t.TempDir(), "llama-server")
	if err := os.WriteFile(file, program, 0o600); err != nil {
		t.Fatal(err)
	}
	h := startHive(t, t.TempDir())
	p := hiveapi.EnginePackage{Engine: "llama.cpp", Version: "b1", OS: runtime.GOOS, Arch: runtime.GOARCH, Backend: "cpu", URL: "file://" + file, SHA256: fmt.Sprintf("%x", sha256.Sum256(program)), Program: "llama-server"}
	var last hiveapi.Progress
	if err := h.InstallEngine(t.Context(), p, func(p hiveapi.Progress) { last = p }); err != nil || last.State != hiveapi.ModelReady {
		t.Fatal(last, err)
	}
	p2 := p
	p2.Version = "b2"
	if err := h.InstallEngine(t.Context(), p2, nil); err != nil {
		t.Fatal(err)
	}
	p2.Version, p2.SHA256 = "b3", strings.Repeat("0", 64)
	var e *hiveapi.Error
	if err := h.InstallEngine(t.Context(), p2, nil); !errors.As(err, &e) || e.Code() != "PROVISION_FAILED" {
		t.Error(err)
	}
	if err := h.UseEngine(t.Context(), hiveapi.UseEngineRequest{Engine: "llama.cpp", Version: "b1"}); err != nil {
		t.Error(err)
	}
	if err := h.RemoveEngine(t.Context(), hiveapi.UseEngineRequest{Engine: "llama.cpp", Version: "b1"}); !errors.As(err, &e) || e.Code() != "CONFLICT" {
		t.Error(err)
	}
	if err := h.RemoveEngine(t.Context(), hiveapi.UseEngineRequest{Engine: "llama.cpp", Version: "b2"}); err != nil {
		t.Error(err)
	}
	list, err := h.Engines(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range list {
		if x.Name == "llama.cpp" {
			got = append(got, fmt.Sprint(x.Source, " ", x.Version, " ", x.Active))
		}
	}
	mustEqual(t, "engines", got, []string{"installed  true", "installed b1 true"})
}

// TestFollowLogs reads a worker's lines as they come.
func TestFollowLogs(t *testing.T) {
	h := startHive(t, t.TempDir())
	h.spawn(simRequest("w"))
	r, err := h.Logs(t.Context(), hiveapi.LogQuery{WorkerID: "w", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if err := h.ShutdownWorker(t.Context(), hiveapi.ShutdownWorkerRequest{WorkerID: "w"}); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r) // ends with the worker
	if err != nil || !strings.Contains(string(b), "ready") {
		t.Errorf("%q %v", b, err)
	}
}
