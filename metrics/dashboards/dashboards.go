// Package dashboards holds what a Prometheus and a Grafana need to watch queen-rbee: a dashboard, alert rules and a scrape
// configuration. It imports the standard library only.
package dashboards

import (
	_ "embed" // the files below
	"fmt"
	"net/url"
	"slices"
	"strings"
)

//go:embed grafana.json
var grafana []byte

//go:embed alerts.yml
var alerts []byte

// Grafana returns the dashboard, ready to import: it asks for the Prometheus data source.
func Grafana() []byte { return slices.Clone(grafana) }

// AlertRules returns a Prometheus rules file.
func AlertRules() []byte { return slices.Clone(alerts) }

// ScrapeConfig returns a Prometheus configuration that scrapes the queen at a base URL such as http://127.0.0.1:7833: her
// own series as job "queen" and those that she relays from the engines as job "engines". It names the rules file
// rbee-alerts.yml, beside it. A URL without a host is answered with the default address.
func ScrapeConfig(base string) []byte {
	scheme, host, path := "http", "127.0.0.1:7833", ""
	if u, err := url.Parse(base); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		scheme, host, path = u.Scheme, u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	}
	return fmt.Appendf(nil, scrape, scheme+"://"+host+path, scheme, path+"/metrics", host, path+"/metrics/engines")
}

// scrape takes the whole URL, scheme, path, host, and the path of the second job. %q is safe in YAML's double quotes: a host and an
// escaped path hold nothing that the two write differently.
const scrape = `# Prometheus configuration for queen-rbee at %[1]s.
# prometheus --config.file=THIS --storage.tsdb.path=DIR
global:
  scrape_interval: 15s
  evaluation_interval: 15s
rule_files: [rbee-alerts.yml] # the alert rules, as a file beside this one
scrape_configs:
  - job_name: queen
    scheme: %[2]s
    metrics_path: %[3]q
    static_configs: [{targets: [%[4]q]}]
    # where the queen wants keys:
    # authorization: {credentials_file: /etc/prometheus/rbee.key}
  - job_name: engines
    scheme: %[2]s
    metrics_path: %[5]q
    static_configs: [{targets: [%[4]q]}]
    # authorization: {credentials_file: /etc/prometheus/rbee.key}
`
