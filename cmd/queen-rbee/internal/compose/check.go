package compose

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/certs"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/metrics/prommetrics"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/scheduler"
	"github.com/queen-rbee/queen-rbee/scheduler/scriptsched"
)

// Check asks the parts what only they know of a configuration: whether references, engines, hosts, the policy, the
// catalogue of engines and the collector's address can be used. It opens no store and starts nothing.
func Check(ctx context.Context, cfg *config.Config) error {
	if cfg.TLS.On() {
		if err := certs.Check(cfg.TLS.Cert, cfg.TLS.Key); err != nil {
			return err
		}
	}
	if err := provisioner.Check(modelEntries(cfg), cfg.Aliases); err != nil {
		return err
	}
	for _, h := range *cfg.Hives {
		if h.SSH == "" {
			continue
		}
		if _, err := sshTarget(h); err != nil {
			return fmt.Errorf("hives: %s: %w", h.Name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Engines)) {
		if _, err := engine.Resolve(engineSpec(name, cfg.Engines)); err != nil {
			return fmt.Errorf("engines: %w", err)
		}
	}
	if err := checkPolicy(ctx, cfg.Scheduler.Policy); err != nil {
		return err
	}
	if err := checkCatalog(cfg.EngineCatalog); err != nil {
		return err
	}
	return prommetrics.CheckEndpoint(cfg.Telemetry.OTLPEndpoint)
}

// knownEngine says when a model's engine is neither built in nor configured.
func knownEngine(model, name string, own map[string]config.Engine) error {
	if name == "" {
		return nil
	}
	if _, ok := own[name]; ok || slices.ContainsFunc(engine.Builtin(), func(s engine.Spec) bool { return s.Name == name }) {
		return nil
	}
	return &codedError{code: "INVALID_REQUEST", msg: fmt.Sprintf("model %q names the engine %q, which is neither built in (llama.cpp, ollama, vllm, sim) "+
		"nor under engines in the configuration", model, name)}
}

func checkPolicy(ctx context.Context, name string) error {
	if _, ok := builtin(name); ok {
		return nil
	}
	m := scriptsched.NewManager(func(scheduler.Policy) error { return nil }, scriptsched.Options{})
	if err := m.Open(ctx, name); err != nil {
		return fmt.Errorf("scheduler.policy: %w", err)
	}
	return nil
}

func checkCatalog(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("engine_catalog: %s can't be read: %w", path, errors.Unwrap(err))
	}
	defer func() { _ = f.Close() }()
	if _, err := engine.ParseCatalog(f); err != nil {
		return fmt.Errorf("engine_catalog: %s: %w", path, err)
	}
	return nil
}
