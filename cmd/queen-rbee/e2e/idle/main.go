// Command idle measures what a stream that is nearly always silent costs the queen in memory, over plain HTTP, over TLS with
// HTTP/1.1 and over TLS with HTTP/2, beside Go's own reverse proxy in the same run. It starts everything by itself: an engine that
// says a token a second, the proxy, the queen, each a process of its own.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are the command line's.
type options struct {
	queen    string
	streams  int
	share    int
	ramp     int
	settle   time.Duration
	watch    time.Duration
	interval time.Duration
	ways     string
	pprof    string
	only     string
}

func main() {
	o := options{}
	flag.StringVar(&o.queen, "queen", "bin/queen-rbee", "the queen's `PROGRAM`")
	flag.IntVar(&o.streams, "streams", 9000, "streams at once")
	flag.IntVar(&o.share, "share", 200, "streams of one HTTP/2 connection")
	flag.IntVar(&o.ramp, "ramp", 1000, "new streams a second")
	flag.DurationVar(&o.settle, "settle", 5*time.Second, "time between the last new stream and the first look")
	flag.DurationVar(&o.watch, "watch", 5*time.Second, "time of looking; the median counts")
	flag.DurationVar(&o.interval, "interval", time.Second, "time between the tokens of a stream")
	flag.StringVar(&o.ways, "ways", "plain,tls,h2", "of plain, tls (HTTP/1.1) and h2")
	flag.StringVar(&o.only, "only", "", "proxy or queen; empty is both")
	flag.StringVar(&o.pprof, "pprof", "", "loopback `ADDRESS` of the queen's profiles; she stays until Enter is pressed")
	flag.Parse()
	var err error
	switch flag.Arg(0) {
	case "engine":
		err = serveEngine(o.interval)
	case "proxy":
		err = serveProxy(flag.Arg(1), flag.Arg(2), flag.Arg(3))
	default:
		err = measure(o)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

// measure goes through the ways, the proxy and then the queen.
func measure(o options) error {
	dir, err := os.MkdirTemp("", "rbee-idle")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	roots, err := makeCertificate(dir)
	if err != nil {
		return err
	}
	engine, stop, err := begin(exec.Command(os.Args[0], "-interval", o.interval.String(), "engine"), nil)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Printf("%d streams, one token in %s each; RSS of the whole process / streams\n", o.streams, o.interval)
	for _, way := range strings.Split(o.ways, ",") {
		for _, target := range []string{"proxy", "queen"} {
			if o.only != "" && o.only != target {
				continue
			}
			if err := one(o, dir, way, target, engine.url, roots); err != nil {
				return fmt.Errorf("%s, %s: %w", target, way, err)
			}
		}
	}
	return nil
}

// one measures one target in one way.
func one(o options, dir, way, target, engine string, roots *x509.CertPool) error {
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if way == "plain" {
		cert, key = "", ""
	}
	cmd := exec.Command(os.Args[0], "proxy", engine, cert, key)
	var env []string
	if target == "queen" {
		file := filepath.Join(dir, "queen-"+way+".yaml")
		text := fmt.Sprintf("listen: 127.0.0.1:0\ndata_dir: %s\nhives: []\nlog: {level: warn}\ntls: {cert: %q, key: %q}\n"+
			"externals: [{name: idle, url: %q, protocol: openai, models: {idle: idle}, slots: 100000, health: /}]\n", filepath.Join(dir, way), cert, key, engine)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		cmd = exec.Command(o.queen, "--config", file)
		if o.pprof != "" {
			env = append(os.Environ(), "RBEE_PPROF="+o.pprof)
		}
	}
	p, stop, err := begin(cmd, env)
	if err != nil {
		return err
	}
	defer stop()
	before, err := rss(p.pid)
	if err != nil {
		return err
	}
	l := &load{o: o, url: p.url, tls: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, h2: way == "h2"}
	defer l.stop()
	if err := l.start(); err != nil {
		return err
	}
	time.Sleep(o.settle)
	tokens := l.tokens.Load()
	var seen []int64
	for end := time.Now().Add(o.watch); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		now, err := rss(p.pid)
		if err != nil {
			return err
		}
		seen = append(seen, now)
	}
	slices.Sort(seen)
	mid := seen[len(seen)/2]
	rate := float64(l.tokens.Load()-tokens) / o.watch.Seconds()
	fmt.Printf("%-6s %-6s %6.1f KB a stream (%.1f to %.1f MB; empty %.1f MB), %d streams on %d connections, %.0f tokens/s, %d broken\n", way, target,
		float64(mid)/float64(o.streams)/1024, mb(seen[0]), mb(seen[len(seen)-1]), mb(before), o.streams, l.connections(), rate, l.broken.Load())
	if o.pprof != "" && target == "queen" {
		fmt.Println("press Enter to go on")
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
	return nil
}

func mb(n int64) float64 { return float64(n) / (1 << 20) }

// rss is a process's resident memory in bytes.
func rss(pid int) (int64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(data), "VmRSS:")
	if !ok {
		return 0, fmt.Errorf("process %d has no memory of its own any more", pid)
	}
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return n << 10, err
}

// process is one that was begun and says where it serves.
type process struct {
	url string
	pid int
}

// begin starts a program that prints "ready URL".
func begin(cmd *exec.Cmd, env []string) (*process, func(), error) {
	cmd.Env, cmd.Stderr = env, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(out, b); err != nil {
			stop()
			return nil, nil, fmt.Errorf("%s did not begin to serve: %w", cmd.Path, err)
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	return &process{url: strings.TrimPrefix(string(line), "ready "), pid: cmd.Process.Pid}, stop, nil
}
