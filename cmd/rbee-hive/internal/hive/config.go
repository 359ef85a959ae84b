package hive

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/queen-rbee/queen-rbee/cmd/rbee-hive/internal/store"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine/sim"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// Reap is the subcommand that ends what a hive left that died and does not come back.
const Reap = "reap"

// SimWorker is the hidden subcommand that runs the simulated engine.
const SimWorker = "sim-worker"

// config is the command line with the token.
type config struct {
	dataDir, id, name, addr string
	token                   string
	tls                     *tls.Config // nil: the API is plain
	detached, tokenStdin    bool
	logFormat               string
	logLevel                slog.Level
	simDevices              []simDevice
	models                  store.Options
	version                 string
}

// simDevice is a pretended device, for demos and tests of placement on machines that have no GPU.
type simDevice struct {
	name  string
	bytes int64
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// parse reads the command line; done is true when there is nothing more to do (help, version).
func parse(args []string, version string, stdin io.Reader, stdout, stderr io.Writer) (c config, done bool, err error) {
	fs := flag.NewFlagSet("rbee-hive", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&c.dataDir, "data-dir", "", "directory of this hive's own (required)")
	fs.StringVar(&c.id, "id", "", "the hive's identity, given by its queen")
	fs.StringVar(&c.name, "name", "", "the hive's name in the fleet (default: this machine's name)")
	fs.StringVar(&c.addr, "addr", "", "address to listen on (default 127.0.0.1:7835; 127.0.0.1:0 with -token-stdin)")
	fs.BoolVar(&c.tokenStdin, "token-stdin", false, "read the token from the first line of standard input, not from DIR/token")
	fs.BoolVar(&c.detached, "detached", false, "go on without a terminal; log to DIR/hive.log")
	fs.StringVar(&c.logFormat, "log-format", "text", "json or text")
	fs.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error; a queen sets her hives' level to her own")
	fs.Func("sim-device", "pretend a device for simulated models, NAME=SIZE (may be repeated)", func(s string) error {
		name, size, ok := strings.Cut(s, "=")
		n, err := sim.ParseSize(size)
		if !ok || err != nil || !plainName.MatchString(name) {
			return errors.New("write it like gpu0=24GiB")
		}
		c.simDevices = append(c.simDevices, simDevice{name, n})
		return nil
	})
	c.models.HubToken = os.Getenv("HF_TOKEN")
	fs.StringVar(&c.models.HFEndpoint, "hf-endpoint", os.Getenv("HF_ENDPOINT"), "hub, or a mirror of it, that hf: references are fetched from")
	fs.Func("allow-url", "what https: references may begin with (may be repeated)", func(s string) error {
		c.models.AllowURLs = append(c.models.AllowURLs, s)
		return nil
	})
	fs.Func("allow-host", "host that may be private or speak plain http, such as a mirror's content server (may be repeated)", func(s string) error {
		c.models.AllowHosts = append(c.models.AllowHosts, s)
		return nil
	})
	fs.Func("model-budget", "how much the models may take on the disk, such as 200GiB", func(s string) (err error) {
		c.models.Budget, err = sim.ParseSize(s)
		return err
	})
	showVersion := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, true, nil
		}
		return c, true, usage(err)
	}
	if *showVersion || fs.Arg(0) == "version" {
		_, err := fmt.Fprintln(stdout, "rbee-hive", version)
		return c, true, err
	}
	c.version = version
	if fs.Arg(0) == Reap && c.dataDir != "" {
		return c, true, reap(c.dataDir, stdout)
	}
	if fs.NArg() > 0 {
		return c, true, usage(fmt.Errorf("unexpected argument %.80q", fs.Arg(0)))
	}
	return c, false, c.complete(stdin)
}

// complete fills the defaults and reads the token.
func (c *config) complete(stdin io.Reader) error {
	if c.dataDir == "" {
		return usage(errors.New("-data-dir is missing"))
	}
	dir, err := filepath.Abs(c.dataDir)
	if err != nil {
		return err
	}
	c.dataDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the data directory can't be made: %w", err)
	}
	if c.name == "" {
		if c.name, err = os.Hostname(); err != nil || !plainName.MatchString(c.name) {
			c.name = "local"
		}
	}
	if c.id == "" {
		if b, err := os.ReadFile(filepath.Join(dir, "id")); err == nil {
			c.id = strings.TrimSpace(string(b))
		} else {
			c.id = "hive_" + c.name
		}
	}
	if !plainName.MatchString(c.id) || !plainName.MatchString(c.name) {
		return usage(errors.New("-id and -name are 1 to 128 letters, digits, dots, dashes and underscores"))
	}
	if c.addr == "" {
		c.addr = "127.0.0.1:7835"
		if c.tokenStdin {
			c.addr = "127.0.0.1:0"
		}
	}
	if _, _, err := net.SplitHostPort(c.addr); err != nil {
		return usage(fmt.Errorf("-addr %.80q is not HOST:PORT", c.addr))
	}
	if c.logFormat != "json" && c.logFormat != "text" {
		return usage(fmt.Errorf("-log-format is json or text"))
	}
	var bundle []byte
	if c.token, bundle, err = readToken(dir, c.tokenStdin, stdin); err != nil || len(bundle) == 0 {
		return err
	}
	c.tls, err = hiveapi.ServerTLS(bundle)
	return err
}

// readToken reads the token, the first line, and what may follow it in the file: the certificates of a hive that is
// reached directly.
func readToken(dir string, fromStdin bool, stdin io.Reader) (token string, bundle []byte, err error) {
	var all []byte
	if fromStdin {
		line, err := bufio.NewReader(io.LimitReader(stdin, 4096)).ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", nil, fmt.Errorf("the token can't be read from standard input: %w", err)
		}
		all = line
	} else {
		path := filepath.Join(dir, "token")
		info, err := os.Stat(path)
		if err != nil {
			return "", nil, fmt.Errorf("there is no token: write 32 random bytes in hexadecimal into %s (mode 0600), or use -token-stdin", path)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return "", nil, fmt.Errorf("%s can be read by others; run chmod 600 on it", path)
		}
		if all, err = os.ReadFile(path); err != nil {
			return "", nil, err
		}
	}
	line, rest, _ := bytes.Cut(all, []byte("\n"))
	token = strings.TrimSpace(string(line))
	if len(token) < 16 || strings.ContainsAny(token, " \t\x00") {
		return "", nil, errors.New("the token is shorter than 16 characters or holds a space")
	}
	return token, bytes.TrimSpace(rest), nil
}

// usageError ends the program with status 64.
type usageError struct{ error }

func usage(err error) error { return usageError{err} }

// Unwrap gives the cause.
func (e usageError) Unwrap() error { return e.error }
