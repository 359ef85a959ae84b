// Package app is the command line of queen-rbee: flags, logging, signals and exit codes.
package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/auth"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/compose"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/monitor/sdnotify"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 64
)

const usage = `queen-rbee: one private inference service out of the machines you own

  queen-rbee [flags]               serve
  queen-rbee [flags] config check  check the configuration and print its effective values, secrets masked
  queen-rbee [flags] config show   print them without the checks of references, engines and policies
  queen-rbee [flags] migrate       bring the stores up to date and exit
  queen-rbee version

`

type flags struct {
	config, addr, dataDir, store, logFormat string
	leave, restartAudit, version            bool
	rest                                    []string
}

func parse(args []string, stderr io.Writer) (*flags, error) {
	f := &flags{}
	set := flag.NewFlagSet("queen-rbee", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		_, _ = fmt.Fprint(stderr, usage)
		set.PrintDefaults()
	}
	set.StringVar(&f.config, "config", "", "configuration `FILE` (YAML)")
	set.StringVar(&f.addr, "addr", "", "listen on `HOST:PORT`; port 0 picks a free one")
	set.StringVar(&f.dataDir, "data-dir", "", "keep everything in `DIR`")
	set.StringVar(&f.store, "store", "", "store `URL`: sqlite:PATH")
	set.StringVar(&f.logFormat, "log-format", "", "text or json")
	set.BoolVar(&f.version, "version", false, "print the version and exit")
	set.BoolVar(&f.leave, "leave-hives", false, "leave local hives and their workers running at the end, for the next queen to adopt")
	set.BoolVar(&f.restartAudit, "restart-audit", false, "put an audit log that was tampered with aside, and begin a new one")
	for {
		if err := set.Parse(args); err != nil {
			return nil, err
		}
		args = set.Args()
		if len(args) == 0 {
			return f, nil
		}
		f.rest = append(f.rest, args[0]) // flags may follow a command
		args = args[1:]
	}
}

// override lets flags win over file and environment.
func (f *flags) override(c *config.Config) {
	for _, o := range []struct {
		from string
		to   *string
	}{{f.addr, &c.Listen}, {f.dataDir, &c.DataDir}, {f.store, &c.Store}, {f.logFormat, &c.Log.Format}} {
		if o.from != "" {
			*o.to = o.from
		}
	}
}

// Main runs the command and returns its exit code.
func Main(version string, args, environ []string, stdout, stderr io.Writer) int {
	f, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		return exitUsage
	}
	command := ""
	for i, w := range f.rest {
		if i > 0 {
			command += " "
		}
		command += w
	}
	if command == "version" || f.version {
		_, _ = fmt.Fprintln(stdout, "queen-rbee", version)
		return exitOK
	}
	cfg, err := config.Load(f.config, environ, f.override)
	if err != nil {
		return fail(stderr, err)
	}
	switch command {
	case "":
		err = serve(version, cfg, f, stdout, stderr)
	case "config check":
		if err = compose.Check(context.Background(), cfg); err == nil {
			err = show(cfg, stdout)
		}
	case "config show":
		err = show(cfg, stdout)
	case "migrate":
		err = migrate(version, cfg, stdout, stderr)
	default:
		_, _ = fmt.Fprintf(stderr, "queen-rbee: unknown command %q\n\n%s", command, usage)
		return exitUsage
	}
	if err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

func show(cfg *config.Config, stdout io.Writer) error {
	text, err := cfg.Show()
	if err != nil {
		return err
	}
	_, err = stdout.Write(text)
	return err
}

func fail(stderr io.Writer, err error) int {
	_, _ = fmt.Fprintln(stderr, "queen-rbee:", err)
	return exitError
}

func logger(cfg *config.Config, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	_ = level.UnmarshalText([]byte(cfg.Log.Level)) // checked by config
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), level
	}
	return slog.New(slog.NewTextHandler(w, o)), level
}

// serve runs the queen until SIGTERM or SIGINT; a second one ends the process at once.
func serve(version string, cfg *config.Config, f *flags, stdout, stderr io.Writer) error {
	log, level := logger(cfg, stderr)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tuneMemory(ctx)
	m := &manager{n: sdnotify.FromEnv(), log: log}
	defer m.end()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)

	q, err := compose.New(ctx, cfg, compose.Options{Version: version, Log: log, Level: level, LeaveHives: f.leave, RestartAudit: f.restartAudit, OnDrain: m.draining})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		q.Close()
		return fmt.Errorf("cannot listen on %s: %w", cfg.Listen, err)
	}
	go func() {
		s := <-signals
		log.Info("draining", "signal", s.String(), "at most", cfg.Timeouts.Drain.D())
		cancel()
		<-signals
		os.Exit(exitError)
	}()
	profile(log)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		for range hup {
			next, err := config.Load(f.config, os.Environ(), f.override)
			if err == nil {
				err = q.Reload(ctx, next)
			}
			if err != nil {
				log.Error("the configuration was not reloaded, the old one goes on", "error", err)
			}
		}
	}()
	return q.Run(ctx, listener, func() {
		_, _ = fmt.Fprintf(stdout, "ready %s://%s\n", cfg.TLS.Scheme(), shown(cfg.Listen, listener.Addr()))
		m.serving(cfg.TLS.Scheme(), listener.Addr(), q.Alive)
	})
}

// shown is the address for the ready line: the host as it was configured, where it is an address for all interfaces, which
// the system writes in its own way, and the port that it became.
func shown(configured string, got net.Addr) string {
	host, _, err := net.SplitHostPort(configured)
	_, port, gotErr := net.SplitHostPort(got.String())
	if ip := net.ParseIP(host); err != nil || gotErr != nil || ip == nil || !ip.IsUnspecified() {
		return got.String()
	}
	return net.JoinHostPort(host, port)
}

// profile serves Go's profiles on the loopback address that RBEE_PPROF names, for whoever looks into the queen's costs.
func profile(log *slog.Logger) {
	addr := os.Getenv("RBEE_PPROF")
	if addr == "" {
		return
	}
	if !auth.IsLoopback(addr) {
		log.Error("RBEE_PPROF is not a loopback address, no profiles are served", "addr", addr)
		return
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { log.Info("profiles end", "error", server.ListenAndServe()) }()
}

// migrate opens the stores, which brings them up to date, and closes them.
func migrate(version string, cfg *config.Config, stdout, stderr io.Writer) error {
	log, _ := logger(cfg, stderr)
	q, err := compose.New(context.Background(), cfg, compose.Options{Version: version, Log: log})
	if err != nil {
		return err
	}
	q.Close()
	_, err = fmt.Fprintln(stdout, "the stores are up to date")
	return err
}
