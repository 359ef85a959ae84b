package dashboards

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/metrics"
)

// board is the part of a Grafana dashboard that the tests read.
type board struct {
	Title, UID string
	Panels     []panel
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

type panel struct {
	ID      int
	Type    string
	Title   string
	GridPos struct{ X, Y, W, H int }
	Targets []struct{ Expr string }
}

func parse(t *testing.T) board {
	t.Helper()
	var b board
	if err := json.Unmarshal(Grafana(), &b); err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	seriesName = regexp.MustCompile(`\b(?:rbee_|gen_ai_|llamacpp:|vllm:|up\b)[a-z0-9_]*`)
	suffix     = regexp.MustCompile(`_(?:bucket|sum|count)$`)
	label      = regexp.MustCompile(`\{[^}]*\}|\b(?:by|on|ignoring)\s*\([^)]*\)`)
)

// used returns the metric names that an expression reads, histograms without their suffixes.
func used(expr string) []string {
	var out []string
	for _, n := range seriesName.FindAllString(label.ReplaceAllString(expr, " "), -1) {
		if !slices.Contains(metrics.Series(), n) {
			n = suffix.ReplaceAllString(n, "")
		}
		out = append(out, n)
	}
	return out
}

// known are the names that a queen exports, those of Prometheus itself, and the engines' that the dashboard shows.
func known() []string {
	return append(metrics.Series(), "up", "llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:tokens_predicted_total",
		"vllm:num_requests_running", "vllm:num_requests_waiting")
}

func TestDashboardReadsWhatIsExported(t *testing.T) {
	b := parse(t)
	seen := map[string]bool{}
	for _, p := range b.Panels {
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, q := range p.Targets {
			names := used(q.Expr)
			if len(names) == 0 {
				t.Errorf("panel %q: %s reads no metric", p.Title, q.Expr)
			}
			for _, n := range names {
				seen[n] = true
				if !slices.Contains(known(), n) {
					t.Errorf("panel %q reads %s, which nobody exports", p.Title, n)
				}
			}
		}
	}
	for _, n := range metrics.Series() {
		if !seen[n] && n != "rbee_build_info" {
			t.Errorf("no panel shows %s", n)
		}
	}
	for _, v := range b.Templating.List {
		if v.Definition != "" && !strings.Contains(v.Definition, "gen_ai_server_request_duration_seconds_count") {
			t.Errorf("variable %s: %s", v.Name, v.Definition)
		}
	}
}

func TestDashboardHasAPanelForEachPromise(t *testing.T) {
	b := parse(t)
	for _, want := range []string{"Time to first token", "Queue wait", "Prefix cache hits", "Swaps", "Evictions", "Failures", "Rescues", "Retries",
		"Refused", "Waiting line", "Device memory", "Model load time", "Model downloads", "Hives", "Workers", "Scheduling decision"} {
		if !slices.ContainsFunc(b.Panels, func(p panel) bool { return p.Title == want }) {
			t.Errorf("no panel %q", want)
		}
	}
	ids := map[int]string{}
	for i, p := range b.Panels {
		if other, twice := ids[p.ID]; twice {
			t.Errorf("panels %q and %q have one id", other, p.Title)
		}
		ids[p.ID] = p.Title
		for _, o := range b.Panels[:i] {
			a, c := p.GridPos, o.GridPos
			if a.X < c.X+c.W && c.X < a.X+a.W && a.Y < c.Y+c.H && c.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, o.Title)
			}
		}
	}
}

func TestAlertsReadWhatIsExported(t *testing.T) {
	rules := string(AlertRules())
	names := used(rules)
	if len(names) < 12 {
		t.Fatalf("only %v", names)
	}
	for _, n := range names {
		if !slices.Contains(known(), n) {
			t.Errorf("the rules read %s, which nobody exports", n)
		}
	}
	tests, err := os.ReadFile("alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1) {
		fires := regexp.MustCompile(`alertname: ` + m[1] + `\n\s+exp_alerts:`)
		if !fires.Match(tests) || !strings.Contains(string(tests), "alertname: "+m[1]+"}") {
			t.Errorf("%s has no test that fires it and one that does not", m[1])
		}
	}
}

func TestPromtoolRunsTheRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		if out, err := promtool(t, args...); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// promtool also accepts each query of the dashboard, with Grafana's variables filled in.
func TestPromtoolReadsTheDashboardsQueries(t *testing.T) {
	var file strings.Builder
	file.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	n := 0
	for _, p := range parse(t).Panels {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$model", ".*").Replace(q.Expr)
			line, err := json.Marshal(expr)
			if err != nil {
				t.Fatal(err)
			}
			n++
			file.WriteString("      - {record: 'q" + strings.Repeat("x", n) + "', expr: " + string(line) + "}\n")
		}
	}
	path := filepath.Join(t.TempDir(), "q.yml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := promtool(t, "check", "rules", path); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestScrapeConfig(t *testing.T) {
	for base, want := range map[string][]string{
		"http://10.0.0.5:7833":       {`scheme: http`, `targets: ["10.0.0.5:7833"]`, `metrics_path: "/metrics"`, `metrics_path: "/metrics/engines"`},
		"https://ai.example.org/q/":  {`scheme: https`, `targets: ["ai.example.org"]`, `metrics_path: "/q/metrics"`},
		"http://[::1]:7833":          {`targets: ["[::1]:7833"]`},
		"not a url":                  {`targets: ["127.0.0.1:7833"]`},
		"http://h\"]}\nx: {y: [\"/z": {`targets: ["127.0.0.1:7833"]`},
	} {
		got := ScrapeConfig(base)
		for _, w := range want {
			if !strings.Contains(string(got), w) {
				t.Errorf("%s: no %s in\n%s", base, w, got)
			}
		}
		dir := t.TempDir()
		for name, b := range map[string][]byte{"prometheus.yml": got, "rbee-alerts.yml": AlertRules()} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := promtool(t, "check", "config", filepath.Join(dir, "prometheus.yml")); err != nil {
			t.Errorf("%s: %v\n%s", base, err, out)
		}
	}
}

func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("RBEE_CI") == "1" {
			t.Fatal("promtool, which checks metric data, is not installed: make deps")
		}
		t.Skip("test data tool: promtool is not installed: make deps")
	}
	out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
	return string(out), err
}

func TestFilesAreCopies(t *testing.T) {
	Grafana()[0] = 'x'
	AlertRules()[0] = 'x'
	if Grafana()[0] != '{' || AlertRules()[0] != '#' {
		t.Error("a caller can change the embedded files")
	}
}
