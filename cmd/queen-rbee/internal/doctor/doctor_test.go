package doctor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// well is a fleet without a fault: a local hive and one over SSH.
func well() (Facts, Probes) {
	f := Facts{DataDir: "/data", DiskFree: 100 << 30, Listen: "127.0.0.1:7833", Loopback: true, Engines: map[string]string{"llama.cpp": "stories"},
		Hives: []Hive{{Name: "local", Online: true, Status: "online", Devices: []Device{{ID: "cpu", Backend: "cpu"}}, Workers: []string{"w-1"}},
			{Name: "gpu1", Network: true, Online: true, Status: "online", Pin: "SHA256:aa", Devices: []Device{{ID: "cuda:0", Backend: "cuda"}}}}}
	p := Probes{Now: func() time.Time { return noon },
		Store:   func(context.Context) error { return nil },
		Login:   func(context.Context, string) error { return nil },
		HostKey: func(context.Context, string) (string, string, error) { return "ssh-ed25519 AAAA", "SHA256:aa", nil },
		Clock:   func(context.Context, string) (time.Time, error) { return noon, nil },
		Cards:   func(context.Context, string) ([]string, error) { return nil, nil },
		Engines: func(_ context.Context, h string) ([]string, error) {
			return []string{"sim", map[string]string{"gpu1": "llama.cpp"}[h]}, nil
		},
		Port: func(context.Context, string) error { return nil },
	}
	return f, p
}

func TestAllWell(t *testing.T) {
	f, p := well()
	f.Until = noon.Add(15 * 24 * time.Hour)
	got := Examine(t.Context(), f, p)
	names := map[string]bool{}
	for _, c := range got {
		names[c.Name] = true
		if c.Status != OK || c.Remedy != "" || c.Message == "" {
			t.Errorf("%+v", c)
		}
	}
	for _, want := range []string{"disk", "store", "port", "certificate", "clock", "hive local", "drivers local", "engines local", "ports local", "host key gpu1", "ssh gpu1", "clock gpu1", "engine llama.cpp"} {
		if !names[want] {
			t.Errorf("no check %q in %v", want, names)
		}
	}
}

// TestFindings: each fault is found in one check, with a remedy, and nothing else is blamed for it.
func TestFindings(t *testing.T) {
	broken := errors.New("broken pipe")
	for name, c := range map[string]struct {
		harm          func(*Facts, *Probes)
		check, status string
		words         string
	}{
		"disk full":    {func(f *Facts, _ *Probes) { f.DiskFree = 1 << 20 }, "disk", Fail, "free the disk"},
		"ending":       {func(f *Facts, _ *Probes) { f.Until = noon.Add(13 * 24 * time.Hour) }, "certificate", Warn, "reload"},
		"ended":        {func(f *Facts, _ *Probes) { f.Until = noon }, "certificate", Fail, "reload"},
		"disk unknown": {func(f *Facts, _ *Probes) { f.DiskErr = broken }, "disk", Fail, "data directory"},
		"store":        {func(_ *Facts, p *Probes) { p.Store = func(context.Context) error { return broken } }, "store", Fail, "operations.md"},
		"open door":    {func(f *Facts, _ *Probes) { f.Loopback, f.Listen = false, "0.0.0.0:7833" }, "port", Fail, "key create"},
		"offline":      {func(f *Facts, _ *Probes) { f.Hives[0].Online, f.Hives[0].Status = false, "offline" }, "hive local", Fail, "hive start local"},
		"draining":     {func(f *Facts, _ *Probes) { f.Hives[0].Draining = true }, "hive local", Warn, "hive start local"},
		"hive's disk":  {func(f *Facts, _ *Probes) { f.Hives[0].DiskFree = 1 << 30 }, "hive local", Warn, "rbee rm"},
		"login": {func(_ *Facts, p *Probes) {
			p.Login = func(context.Context, string) error { return errors.New("user root was refused") }
		}, "ssh gpu1", Fail, "refused"},
		"another key": {func(f *Facts, _ *Probes) { f.Hives[1].Pin = "SHA256:bb" }, "host key gpu1", Warn, "ssh-keygen"},
		"no key": {func(_ *Facts, p *Probes) {
			p.HostKey = func(context.Context, string) (string, string, error) { return "", "", broken }
		}, "host key gpu1", Fail, "firewall"},
		"slow clock": {func(_ *Facts, p *Probes) {
			p.Clock = func(context.Context, string) (time.Time, error) { return noon.Add(-time.Minute), nil }
		}, "clock gpu1", Warn, "timedatectl"},
		"fast clock": {func(_ *Facts, p *Probes) {
			p.Clock = func(context.Context, string) (time.Time, error) { return noon.Add(time.Minute), nil }
		}, "clock gpu1", Warn, "1m0s"},
		"no driver": {func(_ *Facts, p *Probes) {
			p.Cards = func(_ context.Context, h string) ([]string, error) {
				return map[string][]string{"local": {"0x1234", "0x10de"}}[h], nil
			}
		}, "drivers local", Warn, "nvidia-smi"},
		"no engine": {func(_ *Facts, p *Probes) {
			p.Engines = func(context.Context, string) ([]string, error) { return []string{"sim"}, nil }
		}, "engine llama.cpp", Fail, "rbee engine install llama.cpp"},
		"port":   {func(_ *Facts, p *Probes) { p.Port = func(context.Context, string) error { return broken } }, "ports local", Fail, "rbee logs --worker w-1"},
		"worker": {func(f *Facts, _ *Probes) { f.Failed = map[string]string{"w-9": "stories: killed"} }, "worker w-9", Fail, "killed"},
		"nobody": {func(f *Facts, _ *Probes) { f.Hives, f.Engines = nil, nil }, "hives", Warn, "hive add"},
	} {
		t.Run(name, func(t *testing.T) {
			f, p := well()
			c.harm(&f, &p)
			found := false
			for _, got := range Examine(t.Context(), f, p) {
				if got.Status == OK {
					continue
				}
				found = found || got.Name == c.check
				if got.Name != c.check || got.Status != c.status || got.Remedy == "" || !strings.Contains(got.Message+" "+got.Remedy, c.words) {
					t.Errorf("%+v", got)
				}
			}
			if !found {
				t.Errorf("nothing was found of %s", c.check)
			}
		})
	}
}

// TestPinnedLine: a pinned public key is compared without its comment.
func TestPinnedLine(t *testing.T) {
	f, p := well()
	f.Hives[1].Pin = "ssh-ed25519 AAAA root@gpu1"
	for _, c := range Examine(t.Context(), f, p) {
		if c.Status != OK {
			t.Errorf("%+v", c)
		}
	}
}

// TestSilence: a machine that never answers costs the patience of its questions, and the other hives' checks are there.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, p := well()
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		p.Login = func(ctx context.Context, _ string) error { return hang(ctx) }
		p.HostKey = func(ctx context.Context, _ string) (string, string, error) { return "", "", hang(ctx) }
		begun := time.Now()
		got := Examine(t.Context(), f, p)
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("took %s", took)
		}
		n := 0
		for _, c := range got {
			if c.Status == Fail {
				n++
			}
		}
		if n != 2 {
			t.Errorf("%d failed checks, want the host key and the login: %+v", n, got)
		}
	})
}
