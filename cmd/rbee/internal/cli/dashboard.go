package cli

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/metrics/dashboards"
)

// dashboard prints what a Grafana and a Prometheus need to watch the queen.
func (a *cli) dashboard() *cobra.Command {
	print := func(use, short string, text func() []byte) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args(cobra.NoArgs), RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(text())
			return err
		}}
	}
	scrape := func() []byte { return dashboards.ScrapeConfig(a.c.Base) }
	var dir string
	prometheus := print("prometheus", "Print a Prometheus configuration that scrapes the queen", scrape)
	only := prometheus.RunE
	prometheus.RunE = func(cmd *cobra.Command, v []string) error {
		if dir == "" {
			return only(cmd, v)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for name, text := range map[string][]byte{"prometheus.yml": scrape(), "rbee-alerts.yml": dashboards.AlertRules()} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				return err
			}
		}
		a.note("wrote prometheus.yml and rbee-alerts.yml; start with: prometheus --config.file=%s", filepath.Join(dir, "prometheus.yml"))
		return nil
	}
	prometheus.Flags().StringVar(&dir, "dir", "", "write it and the alert rules that it names into this directory")
	return group("dashboard", "Print what Grafana and Prometheus need to watch the queen",
		print("grafana", "Print a Grafana dashboard, ready to import", dashboards.Grafana), prometheus,
		print("alerts", "Print Prometheus alert rules (rbee-alerts.yml)", dashboards.AlertRules))
}
