// Package doctor examines an installation and says in one line each what it found and what to do about it. It takes facts
// and probes; it reaches nothing by itself.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// The outcomes of a check.
const (
	OK   = "ok"
	Warn = "warn"
	Fail = "fail"
)

// Check is one finding.
type Check struct {
	Name, Status, Message, Remedy string
}

// Device is something of a hive that can run a model.
type Device struct{ ID, Name, Backend string }

// Hive is a machine of the fleet.
type Hive struct {
	Name     string
	Network  bool // reached over SSH
	Online   bool // it answers
	Draining bool // by the operator's wish
	Status   string
	Message  string
	DiskFree int64
	Devices  []Device
	Pin      string // host key that is pinned: SHA256:... or a public key line; "" = known_hosts decides
	Workers  []string
}

// Facts are what is known without asking anybody.
type Facts struct {
	DataDir  string
	DiskFree int64
	DiskErr  error
	Listen   string
	Loopback bool
	Keys     bool      // there are API keys
	Until    time.Time // when the listener's certificate ends; zero = it speaks plain HTTP
	Hives    []Hive
	Failed   map[string]string // failed workers and why
	Engines  map[string]string // engine that a configured model needs -> that model; only those that a hive can tell of
}

// Probes ask the machines.
type Probes struct {
	Store    func(ctx context.Context) error
	Login    func(ctx context.Context, hive string) error
	HostKey  func(ctx context.Context, hive string) (line, fingerprint string, err error)
	Clock    func(ctx context.Context, hive string) (time.Time, error)
	Cards    func(ctx context.Context, hive string) (vendors []string, err error) // PCI vendors of its graphics cards
	Engines  func(ctx context.Context, hive string) ([]string, error)             // that it can run
	Port     func(ctx context.Context, worker string) error
	Now      func() time.Time
	Patience time.Duration // for each question; 0 means 5 s
}

// Examine runs all checks: the queen's own first, then each hive's, all hives at once.
func Examine(ctx context.Context, f Facts, p Probes) []Check {
	if p.Patience <= 0 {
		p.Patience = 5 * time.Second
	}
	out := []Check{disk(f), p.store(ctx), listener(f)}
	if !f.Until.IsZero() {
		out = append(out, certificate(f.Until, p.Now()))
	}
	out = append(out, clock(p.Now()))
	if len(f.Hives) == 0 {
		out = append(out, Check{"hives", Warn, "there are no hives", "add a machine: rbee hive add USER@HOST -i KEY --name NAME"})
	}
	parts := make([][]Check, len(f.Hives))
	has := make([][]string, len(f.Hives))
	var wg sync.WaitGroup
	for i, h := range f.Hives {
		wg.Go(func() { parts[i], has[i] = p.hive(ctx, h) })
	}
	wg.Wait()
	for _, part := range parts {
		out = append(out, part...)
	}
	for _, id := range sorted(f.Failed) {
		out = append(out, Check{"worker " + id, Fail, f.Failed[id], "rbee logs --worker " + id})
	}
	return append(out, engines(f, has)...)
}

func disk(f Facts) Check {
	c := Check{Name: "disk", Status: OK}
	if f.DiskErr != nil {
		return Check{"disk", Fail, f.DiskErr.Error(), "check the data directory " + f.DataDir}
	}
	c.Message = fmt.Sprintf("%.1f GiB free in %s", gib(f.DiskFree), f.DataDir)
	if f.DiskFree < 1<<30 {
		c.Status, c.Remedy = Fail, "free the disk: new jobs are refused when it is full"
	}
	return c
}

func (p Probes) store(ctx context.Context) Check {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	if err := p.Store(ctx); err != nil {
		return Check{"store", Fail, err.Error(), "see docs/operations.md"}
	}
	return Check{"store", OK, "reads and writes", ""}
}

func listener(f Facts) Check {
	c := Check{"port", OK, "listens on " + f.Listen, ""}
	switch {
	case f.Loopback:
		c.Message += ", for this machine only"
	case f.Keys:
		c.Message += ", with API keys"
		if f.Until.IsZero() {
			c.Message += ", over plain HTTP: keys and prompts can be read on the way unless a proxy in front speaks TLS (tls in docs/configuration.md)"
		}
	default:
		c.Status, c.Message, c.Remedy = Fail, c.Message+" without any API key", "rbee key create --scope admin, or listen on 127.0.0.1"
	}
	return c
}

// endsSoon is how long before its end a certificate is warned of.
const endsSoon = 14 * 24 * time.Hour

func certificate(until, now time.Time) Check {
	const remedy = "renew the files that tls names in the configuration, then systemctl reload queen-rbee (SIGHUP)"
	c := Check{"certificate", OK, "holds until " + until.UTC().Format(time.RFC3339), ""}
	switch left := until.Sub(now); {
	case left <= 0:
		c = Check{"certificate", Fail, "ended at " + until.UTC().Format(time.RFC3339), remedy}
	case left < endsSoon:
		c.Status, c.Remedy = Warn, remedy
	}
	return c
}

func clock(now time.Time) Check {
	c := Check{"clock", OK, now.UTC().Format(time.RFC3339), ""}
	if now.Year() < 2025 {
		c.Status, c.Message, c.Remedy = Fail, "the clock is wrong: "+c.Message, "set the time: timedatectl set-ntp true"
	}
	return c
}

// engines says of each engine that a model needs whether some hive has it.
func engines(f Facts, has [][]string) (out []Check) {
	for _, name := range sorted(f.Engines) {
		var where []string
		for i, h := range f.Hives {
			if slices.Contains(has[i], name) {
				where = append(where, h.Name)
			}
		}
		c := Check{"engine " + name, OK, "on " + strings.Join(where, ", "), ""}
		if len(where) == 0 {
			c.Status, c.Message = Fail, fmt.Sprintf("no hive that answers has it, and model %s needs it", f.Engines[name])
			c.Remedy = fmt.Sprintf("rbee engine install %s --hive HIVE, or put it on PATH there", name)
		}
		out = append(out, c)
	}
	return out
}

func gib(n int64) float64 { return float64(n) / (1 << 30) }

func sorted(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
