package compose

import (
	"context"
	"reflect"
	"strings"

	"github.com/queen-rbee/queen-rbee/admission"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
	"github.com/queen-rbee/queen-rbee/provisioner"
)

// Reload takes over what may change while the queen runs: the certificate, models, aliases, engines, external servers, limits, hives that
// are new and the log's level. It says in the log what else has changed and waits for the next start.
func (q *Queen) Reload(ctx context.Context, cfg *config.Config) error {
	if err := Check(ctx, cfg); err != nil {
		return err
	}
	if err := q.renew(cfg.TLS); err != nil {
		return err
	}
	if err := q.prov.Configure(ctx, modelEntries(cfg), cfg.Aliases); err != nil {
		return err
	}
	q.catalog.aliases.Store(&cfg.Aliases)
	q.fleet.engines.Store(&cfg.Engines) // for workers that are started from now on
	if err := q.fleet.setExternals(cfg.Externals); err != nil {
		return err
	}
	if err := q.setLimits(ctx, cfg); err != nil {
		return err
	}
	old := map[string]bool{}
	for _, h := range *q.hives.Load() {
		old[h.Name] = true
	}
	if err := q.putHives(ctx, *cfg.Hives); err != nil {
		return err
	}
	for _, h := range *cfg.Hives {
		if !old[h.Name] {
			q.wg.Go(func() {
				if err := q.startHive(q.life, h.Name); err != nil {
					q.log.Error("hive does not start", "node", h.Name, "error", err)
				}
			})
		}
	}
	q.src.refresh()
	if q.o.Level != nil {
		_ = q.o.Level.UnmarshalText([]byte(cfg.Log.Level)) // checked by config
		q.links.setLevel(cfg.Log.Level)
	}
	q.log.Info("configuration reloaded", "log_level", cfg.Log.Level)
	if later := q.later(cfg); len(later) > 0 {
		q.log.Warn("some keys have changed that take effect at the next start only", "keys", strings.Join(later, ", "))
	}
	return nil
}

// later names the sections that differ from those at the start and are not taken over before the next.
func (q *Queen) later(cfg *config.Config) (out []string) {
	format := cfg.Log
	format.Level = q.cfg.Log.Level
	for _, s := range []struct {
		key      string
		old, new any
	}{
		{"listen", q.cfg.Listen, cfg.Listen}, {"data_dir", q.cfg.DataDir, cfg.DataDir}, {"store", q.cfg.Store, cfg.Store},
		{"engine_catalog", q.cfg.EngineCatalog, cfg.EngineCatalog}, {"queue", q.cfg.Queue, cfg.Queue}, {"scheduler", q.cfg.Scheduler, cfg.Scheduler},
		{"timeouts", q.cfg.Timeouts, cfg.Timeouts}, {"auth", q.cfg.Auth, cfg.Auth}, {"telemetry", q.cfg.Telemetry, cfg.Telemetry},
		{"ssh", q.cfg.SSH, cfg.SSH}, {"http", q.cfg.HTTP, cfg.HTTP}, {"log.format", q.cfg.Log, format},
		{"tls", q.cfg.TLS.On(), cfg.TLS.On()},
	} {
		if !reflect.DeepEqual(s.old, s.new) {
			out = append(out, s.key)
		}
	}
	return out
}

// setLimits gives the tenants that the configuration names their limits, and everybody else the default ones.
func (q *Queen) setLimits(ctx context.Context, cfg *config.Config) error {
	if err := q.adm.SetDefault(limits(cfg.Limits["default"])); err != nil {
		return err
	}
	for name, l := range cfg.Limits {
		if name == "default" {
			continue
		}
		if err := q.adm.SetTenant(ctx, admission.Tenant{ID: name, Limits: limits(l)}); err != nil {
			return err
		}
	}
	return nil
}

func modelEntries(cfg *config.Config) []provisioner.Entry {
	entries := make([]provisioner.Entry, 0, len(cfg.Models))
	for name, m := range cfg.Models {
		entries = append(entries, modelEntry(name, m))
	}
	return entries
}
