package prommetrics

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/metrics/dashboards"
)

var (
	sample     = regexp.MustCompile(`(?m)^([a-z_:]+)\{([^}]*)\} `)
	labelName  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	selector   = regexp.MustCompile(`\b((?:rbee_|gen_ai_|llamacpp:|vllm:|up\b)[a-z0-9_]*)\s*(\{[^}]*\})?`)
	grouping   = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)`)
	legend     = regexp.MustCompile(`\{\{\s*([a-z_]+)\s*\}\}`)
	annotation = regexp.MustCompile(`\$labels\.([a-z_]+)`)
)

// exported are the labels of each series, bucket, sum and count lines included: the queen's as a scrape has them, those that Prometheus
// adds to a target, and those that the queen puts on the engines' own.
func exported(t *testing.T) map[string][]string {
	p, m := provider(t, Options{NoRuntime: true})
	everything(t, m)
	out := map[string][]string{"up": {"job", "instance"}}
	for _, found := range sample.FindAllStringSubmatch(scrape(t, p), -1) {
		for _, l := range labelName.FindAllStringSubmatch(found[2], -1) {
			if !slices.Contains(out[found[1]], l[1]) {
				out[found[1]] = append(out[found[1]], l[1])
			}
		}
	}
	for _, name := range []string{"llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:tokens_predicted_total", "vllm:num_requests_running",
		"vllm:num_requests_waiting"} {
		out[name] = []string{"hive", "worker", "model"}
	}
	return out
}

// strangers are the labels that an expression wants of series which do not have them, as "series label".
func strangers(expr string, has map[string][]string) []string {
	var out []string
	want := func(text string, labels []string) {
		for _, s := range selector.FindAllStringSubmatch(grouping.ReplaceAllString(text, " "), -1) {
			for _, l := range labels {
				if !slices.Contains(has[s[1]], l) {
					out = append(out, s[1]+" "+l)
				}
			}
		}
	}
	for _, s := range selector.FindAllStringSubmatch(grouping.ReplaceAllString(expr, " "), -1) {
		for _, l := range labelName.FindAllStringSubmatch(s[2], -1) {
			want(s[1], []string{l[1]})
		}
	}
	for _, at := range grouping.FindAllStringSubmatchIndex(expr, -1) {
		labels := strings.FieldsFunc(expr[at[4]:at[5]], func(r rune) bool { return r == ',' || r == ' ' })
		want(grouped(expr, expr[at[2]:at[3]], at[0], at[1]), labels)
	}
	return out
}

// grouped is the part of an expression that a grouping at from..to is about: the parentheses after it, those before it, or both sides.
func grouped(expr, word string, from, to int) string {
	if word != "by" && word != "without" {
		return expr
	}
	if rest := strings.TrimLeft(expr[to:], " \n"); strings.HasPrefix(rest, "(") {
		depth := 0
		for i, r := range rest {
			switch r {
			case '(':
				depth++
			case ')':
				if depth--; depth == 0 {
					return rest[:i]
				}
			}
		}
	}
	return expr[:from]
}

// kept are the labels that a result has: those that it is grouped by, or where it isn't, all of its series'.
func kept(expr string, has map[string][]string) []string {
	var out []string
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		out = append(out, strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' || r == ' ' })...)
	}
	if len(out) == 0 && !regexp.MustCompile(`\b(?:sum|count|min|max|avg)\b`).MatchString(expr) {
		for _, s := range selector.FindAllStringSubmatch(expr, -1) {
			out = append(out, has[s[1]]...)
		}
	}
	return out
}

func TestDashboardsAskForLabelsThatAreThere(t *testing.T) {
	has := exported(t)
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct{ Definition string }
		}
	}
	if err := json.Unmarshal(dashboards.Grafana(), &board); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			asked++
			for _, s := range strangers(q.Expr, has) {
				t.Errorf("panel %q: no such label: %s", p.Title, s)
			}
			for _, l := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
				if !slices.Contains(kept(q.Expr, has), l[1]) {
					t.Errorf("panel %q: its legend names %s, which %s does not keep", p.Title, l[1], q.Expr)
				}
			}
		}
	}
	for _, v := range board.Templating.List {
		if m := regexp.MustCompile(`^label_values\(([a-z_]+), ([a-z_]+)\)$`).FindStringSubmatch(v.Definition); m != nil {
			asked++
			if !slices.Contains(has[m[1]], m[2]) {
				t.Errorf("variable: no such label: %s", v.Definition)
			}
		}
	}
	if asked < 40 {
		t.Errorf("only %d queries were found", asked)
	}
}

func TestAlertsAskForLabelsThatAreThere(t *testing.T) {
	has := exported(t)
	rules := strings.Split(string(dashboards.AlertRules()), "- alert: ")[1:]
	if len(rules) < 12 {
		t.Fatalf("only %d rules were found", len(rules))
	}
	for _, r := range rules {
		name, rest, _ := strings.Cut(r, "\n")
		_, rest, _ = strings.Cut(rest, "expr:")
		expr := regexp.MustCompile(`(?m)^\s+(?:for|labels|annotations):`).Split(rest, 2)[0]
		for _, s := range strangers(expr, has) {
			t.Errorf("%s: no such label: %s", name, s)
		}
		for _, l := range annotation.FindAllStringSubmatch(rest, -1) {
			if !slices.Contains(kept(expr, has), l[1]) {
				t.Errorf("%s: its text names %s, which %s does not keep", name, l[1], expr)
			}
		}
	}
}

// TestStrangers: the check finds what is wrong, wherever it stands.
func TestStrangers(t *testing.T) {
	has := map[string][]string{"rbee_a": {"hive", "le"}, "rbee_b": {"model"}}
	for expr, want := range map[string][]string{
		`sum by (hive) (rate(rbee_a{le="1"}[5m]))`:                       nil,
		`sum by (node) (rate(rbee_a{le="1"}[5m]))`:                       {"rbee_a node"},
		`sum(rbee_a) by (hive, model)`:                                   {"rbee_a model"},
		`rbee_a{node=~"x.*", hive!="y"}`:                                 {"rbee_a node"},
		`sum by (hive) (rbee_a) / sum by (hive) (rbee_b)`:                {"rbee_b hive"},
		`rbee_a * on (hive) rbee_b`:                                      {"rbee_b hive"},
		`histogram_quantile(0.9, sum by (le, model) (rate(rbee_a[1m])))`: {"rbee_a model"},
		`rbee_none{hive="x"}`:                                            {"rbee_none hive"},
	} {
		if got := strangers(expr, has); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
	}
	if got := kept(`sum(rbee_a)`, has); len(got) > 0 {
		t.Errorf("a sum keeps no label: %v", got)
	}
	if got := kept(`rbee_a == 0`, has); !slices.Equal(got, []string{"hive", "le"}) {
		t.Errorf("a plain series keeps its labels: %v", got)
	}
}
