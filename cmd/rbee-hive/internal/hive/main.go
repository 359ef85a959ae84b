package hive

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/monitor/sdnotify"
)

// Exit statuses.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 64
)

// stopBound is how long workers may take to end; then they are killed.
const stopBound = 20 * time.Second

// Main is the whole program; it returns the exit status.
func Main(args []string, version string, stdin io.Reader, stdout, stderr io.Writer) int {
	c, done, err := parse(args, version, stdin, stdout, stderr)
	if err == nil && !done {
		err = serve(c, stdout, stderr)
	}
	var u usageError
	switch {
	case errors.As(err, &u):
		_, _ = fmt.Fprintln(stderr, "rbee-hive:", err)
		return exitUsage
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "rbee-hive:", err)
		return exitError
	}
	return exitOK
}

// serve runs until a signal or a command ends it.
func serve(c config, stdout, stderr io.Writer) error {
	// The queen may die at any time, and with her the pipes and the terminal: none of that ends a hive. Handlers and
	// not SIG_IGN, which the workers would inherit.
	deaf := make(chan os.Signal, 1)
	signal.Notify(deaf, syscall.SIGPIPE, syscall.SIGHUP)
	defer signal.Stop(deaf)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	if c.detached {
		_, _ = syscall.Setsid() // fails when we lead a group already, which is as good
	}
	unlock, err := lock(filepath.Join(c.dataDir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	j, err := openJournal(c.dataDir, c.detached, stderr)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", c.addr)
	if err != nil {
		return fmt.Errorf("can't listen on %s: %w", c.addr, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	near := ln // where the hive's own workers reach it
	if c.tls != nil {
		if near, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return errors.Join(err, ln.Close())
		}
	}
	h, err := build(ctx, c, j, ln, near)
	if err != nil {
		return errors.Join(err, ln.Close(), near.Close())
	}
	if c.tls != nil {
		stop := h.serveWorkers(near)
		defer stop()
		ln = tls.NewListener(ln, c.tls)
	}
	return h.run(ctx, ln, stdout, signals)
}

// serveWorkers lets workers say on loopback that they are ready, where the hive's API itself wants a certificate.
func (h *Hive) serveWorkers(ln net.Listener) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+hiveapi.PathWorkerReady, h.workerReady)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	return func() {
		_ = srv.Close()
		<-done
	}
}

// run serves and then ends everything in order.
func (h *Hive) run(ctx context.Context, ln net.Listener, stdout io.Writer, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{Handler: h.handler(), ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelWarn), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	manager := sdnotify.FromEnv() // before a worker is started, which must not speak in our name
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		h.beat(ctx)
	}()
	if err := h.writeState(); err != nil {
		return errors.Join(err, srv.Close(), h.sup.Close(ctx))
	}
	scheme := "http"
	if h.c.tls != nil {
		scheme = "https"
	}
	_, _ = fmt.Fprintf(stdout, "ready %s://%s\n", scheme, h.address)
	h.log.Info("ready", "address", h.address, "version", h.c.version, "pid", os.Getpid(), "epoch", h.epoch)
	stopWatch := h.tellManager(manager)
	defer stopWatch()
	var err error
	select {
	case s := <-signals:
		h.log.Info("ending", "signal", s.String())
	case <-h.quit:
	case err = <-served:
	}
	if nerr := manager.Stopping("ends"); nerr != nil {
		h.log.Warn("the service manager was not told", "error", nerr)
	}
	stopWatch()
	h.end(false)
	h.stopWorkers(signals)
	h.downloads.close()
	if cerr := h.store.Close(); cerr != nil {
		h.log.Warn("the model store did not close", "error", cerr)
	}
	sctx, scancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer scancel()
	if srv.Shutdown(sctx) != nil {
		_ = srv.Close()
	}
	cancel()
	<-beats
	if rerr := os.Remove(filepath.Join(h.c.dataDir, "hive.json")); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	h.log.Info("ended")
	return err
}

// tellManager tells the service manager, when there is one, that the hive serves, and until the returned function is called
// that it is alive: that it answers at its own address.
func (h *Hive) tellManager(n *sdnotify.Notifier) (stop func()) {
	if err := n.Ready("serves at " + h.address); err != nil {
		h.log.Warn("the service manager was not told", "error", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Watch(ctx, sdnotify.Answers("http://"+h.address+hiveapi.PathHealth, nil), func(err error) {
			h.log.Error("the check of being alive failed; the service manager will act when that lasts", "error", err)
		})
	}()
	return func() {
		cancel()
		<-done
	}
}

// stopWorkers ends the workers, or lets go of them; a second signal kills them at once.
func (h *Hive) stopWorkers(signals <-chan os.Signal) {
	if h.keep {
		h.sup.Detach()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopBound)
	defer cancel()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := h.sup.Close(ctx); err != nil {
		h.log.Warn("some workers had to be killed", "error", err)
	}
}

// reap ends the workers of a hive that died, unless one runs in the directory: then they are its own.
func reap(dir string, stdout io.Writer) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopBound)
	defer cancel()
	n, err := engine.Reap(ctx, filepath.Join(dir, "workers"), 3*time.Second)
	_, _ = fmt.Fprintln(stdout, "ended", n)
	return err
}

// lock makes sure that one hive only runs in a directory; the kernel releases it with the process.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another hive runs in %s; stop it, or use another -data-dir", filepath.Dir(path))
	}
	return func() { _ = f.Close() }, nil
}
