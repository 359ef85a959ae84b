package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// The environment of a worker process.
const (
	EnvAPIKey     = "RBEE_SIM_API_KEY" // key that requests must show
	EnvReadyURL   = "RBEE_READY_URL"   // where the worker reports that it serves
	EnvSpawnToken = "RBEE_SPAWN_TOKEN"
	EnvWorkerID   = "RBEE_WORKER_ID"
)

// Main is a whole worker process: a program that uses the engine library calls it when its first argument is
// "sim-worker", with the arguments behind that, and exits with what it returns. It ends on SIGTERM.
func Main(args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("sim-worker", flag.ContinueOnError)
	fs.SetOutput(stderr)
	host := fs.String("host", "127.0.0.1", "address to listen on")
	port := fs.Int("port", 0, "port to listen on")
	ref := fs.String("model", "", "model reference, sim:NAME?...")
	alias := fs.String("alias", "", "the model's name in answers")
	slots := fs.Int("slots", 0, "requests at the same time, 0 = what the reference says")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	c, err := ParseRef(*ref)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 2
	}
	if *slots > 0 {
		c.Slots = *slots
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ln, err := net.Listen("tcp", net.JoinHostPort(*host, strconv.Itoa(*port)))
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	key := os.Getenv(EnvAPIKey)
	_ = os.Unsetenv(EnvAPIKey)
	s := New(c, Options{Alias: *alias, APIKey: key})
	if err := run(ctx, s, ln, stderr); err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func run(ctx context.Context, s *Server, ln net.Listener, stderr io.Writer) error {
	s.loaded.Store(false)
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 30 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	_, _ = fmt.Fprintf(stderr, "simulated engine (not a language model): %s on %s, %d slots\n", s.c.Name, ln.Addr(), s.c.Slots)
	err := s.Load(ctx, func(share float64) { _, _ = fmt.Fprintf(stderr, "loading %d%%\n", int(share*100)) })
	if err == nil {
		_, _ = fmt.Fprintln(stderr, "ready")
		reportReady(ctx, ln.Addr().String(), s.c.Slots, stderr)
		select {
		case <-ctx.Done():
		case err = <-served:
			return err
		}
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	_ = srv.Close()
	<-served
	return err
}

// reportReady tells the hive at once, so that it need not find out by asking.
func reportReady(ctx context.Context, address string, slots int, stderr io.Writer) {
	url := os.Getenv(EnvReadyURL)
	if url == "" {
		return
	}
	body, err := json.Marshal(map[string]any{"worker_id": os.Getenv(EnvWorkerID), "spawn_token": os.Getenv(EnvSpawnToken), "address": address, "slots_total": slots})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "the hive could not be told that this worker is ready; it will ask")
		return
	}
	_ = res.Body.Close()
}
