package engine

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
)

// The test binary plays the other processes too: the simulator, engines that behave as vLLM and Ollama document it, a
// plain server for the command adapter, and a supervisor that is to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "sim-worker":
			os.Exit(sim.Main(os.Args[2:], os.Stderr))
		case "fake-vllm":
			os.Exit(fakeVLLM(os.Args[2:]))
		case "fake-ollama":
			os.Exit(fakeOllama())
		case "fake-plain":
			os.Exit(fakePlain(os.Args[2:]))
		case "fake-child":
			wait := make(chan os.Signal, 1)
			signal.Notify(wait, syscall.SIGTERM) // deaf to TERM, like an engine core that hangs
			select {}
		case "supervise":
			os.Exit(supervise(os.Args[2]))
		}
	}
	goleak.VerifyTestMain(m)
}

// helpers that the roles share

func serveSim(ln net.Listener, extra func(mux *http.ServeMux)) {
	c, err := sim.ParseRef("sim:fake?ttft=2ms&itl=2ms&slots=64")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", sim.New(c, sim.Options{}))
	extra(mux)
	_ = http.Serve(ln, mux)
}

func startChild() {
	self, _ := os.Executable()
	c := exec.Command(self, "fake-child")
	_ = c.Start()
}

// fakeVLLM behaves as vLLM documents it: refused while it loads, an engine core in a process of its own, /health and
// vllm:* metrics.
func fakeVLLM(args []string) int {
	if len(args) < 2 || args[0] != "serve" {
		fmt.Fprintln(os.Stderr, "vllm: error: unrecognized arguments: "+strings.Join(args, " "))
		return 2
	}
	fs := flag.NewFlagSet("vllm", flag.ContinueOnError)
	host, port := fs.String("host", "", ""), fs.String("port", "", "")
	_ = fs.String("served-model-name", "", "")
	_ = fs.Int("max-num-seqs", 0, "")
	if fs.Parse(args[2:]) != nil {
		return 2
	}
	if _, err := os.Stat(args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "OSError: "+args[1]+" is not a local folder: No such file or directory")
		return 1
	}
	fmt.Fprintln(os.Stderr, "Loading safetensors checkpoint shards:  50% Completed | 1/2")
	ln, err := net.Listen("tcp", *host+":"+*port)
	if err != nil {
		fmt.Fprintln(os.Stderr, "OSError: [Errno 98] Address already in use")
		return 1
	}
	startChild()
	var running atomic.Int64
	serveSim(ln, func(mux *http.ServeMux) {
		inner := sim.New(sim.Config{Name: "fake", TTFT: time.Millisecond, ITL: 2 * time.Millisecond, Slots: 64}, sim.Options{APIKey: os.Getenv("VLLM_API_KEY")})
		mux.HandleFunc("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Add(-1)
			inner.ServeHTTP(w, r)
		})
		mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "vllm:num_requests_running{model_name=\"x\"} %d.0\nvllm:num_requests_waiting{model_name=\"x\"} 0.0\n", running.Load())
		})
	})
	return 1
}

// fakeOllama behaves as Ollama's API documents it: GET / at once, a model that must be pulled, NDJSON progress.
func fakeOllama() int {
	ln, err := net.Listen("tcp", os.Getenv("OLLAMA_HOST"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error: listen tcp: bind: address already in use")
		return 1
	}
	startChild()
	var pulled atomic.Bool
	name := func(r *http.Request) string {
		var in struct{ Model string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		return in.Model
	}
	serveSim(ln, func(mux *http.ServeMux) {
		mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Ollama is running") })
		mux.HandleFunc("POST /api/show", func(w http.ResponseWriter, r *http.Request) {
			if !pulled.Load() {
				w.WriteHeader(http.StatusNotFound)
				_, _ = io.WriteString(w, `{"error":"model not found"}`)
			}
		})
		mux.HandleFunc("POST /api/pull", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(name(r), "missing") {
				_, _ = io.WriteString(w, "{\"status\":\"pulling manifest\"}\n{\"error\":\"pull model manifest: file does not exist\"}\n")
				return
			}
			_, _ = io.WriteString(w, "{\"status\":\"pulling manifest\"}\n{\"status\":\"pulling abc\",\"total\":100,\"completed\":40}\n{\"status\":\"success\"}\n")
			pulled.Store(true)
		})
		mux.HandleFunc("POST /api/generate", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"done":true,"done_reason":"load"}`)
		})
	})
	return 1
}

// fakePlain is any server that a command line starts.
func fakePlain(args []string) int {
	fs := flag.NewFlagSet("plain", flag.ContinueOnError)
	port, model := fs.String("port", "", ""), fs.String("model", "", "")
	if fs.Parse(args) != nil {
		return 2
	}
	if _, err := os.Stat(*model); err != nil {
		fmt.Fprintln(os.Stderr, "can't open the model: "+err.Error())
		return 3
	}
	ln, err := net.Listen("tcp", "127.0.0.1:"+*port)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	startChild()
	serveSim(ln, func(mux *http.ServeMux) { mux.HandleFunc("GET /up", func(http.ResponseWriter, *http.Request) {}) })
	return 1
}

// supervise starts the worker whose request is on standard input, says "up" when it serves, and waits to be killed.
func supervise(dir string) int {
	self, _ := os.Executable()
	s, err := New(Options{Dir: dir, SimCommand: []string{self, "sim-worker"}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var r SpawnRequest
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		return 1
	}
	if _, err := s.Start(noCancel(), r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := s.Wait(noCancel(), r.WorkerID); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("up")
	select {}
}

// need is the path of a tool or of data; where it is missing the test is skipped, in CI it fails.
func need(t *testing.T, what string, paths ...string) string {
	t.Helper()
	for _, p := range paths {
		if p == "" {
			continue
		}
		if !strings.Contains(p, "/") {
			if found, err := exec.LookPath(p); err == nil {
				return found
			}
			continue
		}
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("RBEE_CI") == "1" {
		t.Fatalf("%s is missing; run make deps", what)
	}
	t.Skipf("no %s (llama-server, model data, ...) on this machine; make deps installs it", what)
	return ""
}

func llamaServer(t *testing.T) string {
	return need(t, "llama-server", os.Getenv("LLAMA_SERVER"), "llama-server", "/opt/llama-server/llama-server")
}

// stories is the small real model, in the design's shared data.
func stories(t *testing.T) string {
	dir, _ := os.Getwd()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if p := filepath.Join(d, "shared/data/models/stories260K-chat.gguf"); exists(p) {
			return p
		}
	}
	return need(t, "model data stories260K-chat.gguf", os.Getenv("RBEE_STORIES"), "/work/shared/data/models/stories260K-chat.gguf")
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}
