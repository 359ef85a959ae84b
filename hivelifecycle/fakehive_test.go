package hivelifecycle

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// TestMain lets the test binary play rbee-hive when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "--data-dir" || os.Args[1] == "--version") {
		os.Exit(fakeHive(os.Args[1:]))
	}
	if len(os.Args) > 2 && os.Args[1] == "--queen" {
		os.Exit(fakeQueen(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// fakeQueen starts a local hive, says its pid and waits to be killed.
func fakeQueen(dir string) int {
	m, err := New(nil, Options{DataDir: dir})
	if err != nil {
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	ep, err := m.StartLocal(context.Background(), LocalConfig{Name: "local", Binary: self})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(ep.PID)
	select {}
}

// fakeHive behaves as rbee-hive does on its command line and at its start; FAKE_HIVE makes it misbehave.
func fakeHive(args []string) int {
	fs := flag.NewFlagSet("rbee-hive", flag.ContinueOnError)
	dir, id, name := fs.String("data-dir", "", ""), fs.String("id", "", ""), fs.String("name", "", "")
	addr, stdin := fs.String("addr", "127.0.0.1:0", ""), fs.Bool("token-stdin", false, "")
	version := fs.Bool("version", false, "")
	if err := fs.Parse(args); err != nil {
		return 64
	}
	if *version {
		fmt.Println("rbee-hive test")
		return 0
	}
	mode := os.Getenv("FAKE_HIVE")
	if b, err := os.ReadFile(filepath.Join(*dir, "mode")); err == nil {
		mode = strings.TrimSpace(string(b))
	}
	if mode == "die" {
		fmt.Fprintln(os.Stderr, "the devices are all on fire")
		return 3
	}
	token, err := readToken(*dir, *stdin)
	if err != nil {
		return 4
	}
	if mode == "mute" {
		select {}
	}
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return 5
	}
	epoch := uint64(time.Now().UnixNano())
	stop := make(chan struct{})
	var busy atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+hiveapi.PathHealth, func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(filepath.Join(*dir, "hang")); err == nil {
			<-r.Context().Done()
			return
		}
		h := hiveapi.Health{Status: "ok", ID: *id, Node: *name, Version: "v1", Epoch: epoch, PID: os.Getpid()}
		if n := r.URL.Query().Get("nonce"); n != "" {
			h.Proof = hiveapi.Proof(token, *id, n)
		}
		_ = json.NewEncoder(w).Encode(h)
	})
	mux.HandleFunc("GET "+hiveapi.PathWorkers, func(w http.ResponseWriter, r *http.Request) {
		state := hiveapi.WorkerIdle
		if _, err := os.Stat(filepath.Join(*dir, "busy")); err == nil && busy.Add(1) < 3 {
			state = hiveapi.WorkerBusy
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"workers": []hiveapi.Worker{{WorkerID: "w", State: state}}})
	})
	mux.HandleFunc("POST "+hiveapi.PathShutdown, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "{}")
		if mode != "stubborn" {
			close(stop)
		}
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	st, _ := json.MarshalIndent(map[string]any{"pid": os.Getpid(), "start_time": time.Now(), "address": l.Addr().String(), "id": *id, "version": "v1"}, "", " ")
	_ = os.WriteFile(filepath.Join(*dir, ".hive.json"), st, 0o600)
	_ = os.Rename(filepath.Join(*dir, ".hive.json"), filepath.Join(*dir, "hive.json"))
	fmt.Println("ready http://" + l.Addr().String())
	sig := make(chan os.Signal, 1)
	if mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(sig, syscall.SIGTERM)
	}
	select {
	case <-stop:
		_ = srv.Close()
	case <-sig:
	}
	_ = os.Remove(filepath.Join(*dir, "hive.json"))
	return 0
}

func readToken(dir string, stdin bool) (string, error) {
	var b []byte
	var err error
	if stdin {
		b, err = io.ReadAll(os.Stdin)
	} else {
		b, err = os.ReadFile(filepath.Join(dir, "token"))
	}
	return strings.TrimSpace(string(b)), err
}
