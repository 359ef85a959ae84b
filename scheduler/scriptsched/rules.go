package scriptsched

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"go.starlark.net/syntax"
)

// ruleFile is the YAML form of a policy: the first rule whose conditions all hold decides.
type ruleFile struct {
	Rules   []rule `yaml:"rules"`
	Default string `yaml:"default"` // a selector; "" = native
}

type rule struct {
	Name string    `yaml:"name"`
	When condition `yaml:"when"`
	Then action    `yaml:"then"`
}

type condition struct {
	Model       string            `yaml:"model"` // exact, or with a * at its end
	Tenant      string            `yaml:"tenant"`
	Priority    string            `yaml:"priority"`
	Session     *bool             `yaml:"session"`
	Labels      map[string]string `yaml:"labels"`
	PromptOver  *int              `yaml:"prompt_over"`
	PromptUnder *int              `yaml:"prompt_under"`
	WaitingOver *int              `yaml:"waiting_over"`
	WaitedUnder *int              `yaml:"waited_under"`
	Hours       string            `yaml:"hours"` // "22-6"
}

type action struct {
	Queue  string            `yaml:"queue"`
	Reject string            `yaml:"reject"`
	Use    string            `yaml:"use"`   // a selector
	Label  map[string]string `yaml:"label"` // only workers and hives that carry these
	Node   string            `yaml:"node"`
}

// selectors of `use` and `default`.
var selectors = []string{"native", "cheapest", "soonest", "least_loaded", "least_pending", "most_cached", "most_free_slots", "fastest", "fastest_decode", "random_worker", "sticky"}

// Rules compiles YAML rules to Starlark source.
func Rules(name string, src []byte) (string, error) {
	if len(src) > maxSource {
		return "", &ScriptError{File: name, Err: fmt.Errorf("the source has %d bytes: at most %d", len(src), maxSource)}
	}
	var f ruleFile
	if err := yaml.NewDecoder(bytes.NewReader(src), yaml.Strict()).Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return "", &ScriptError{File: name, Err: fmt.Errorf("%s", strings.TrimSpace(err.Error()))}
	}
	var b strings.Builder
	b.WriteString("def schedule(job, workers, hives):\n")
	for i, r := range f.Rules {
		if err := writeRule(&b, r); err != nil {
			return "", &ScriptError{File: name, Err: fmt.Errorf("rule %d %s: %w", i+1, quote(r.Name), err)}
		}
	}
	use, err := selector(f.Default, "workers")
	if err != nil {
		return "", &ScriptError{File: name, Err: fmt.Errorf("default: %w", err)}
	}
	fmt.Fprintf(&b, "    return %s\n", use)
	return b.String(), nil
}

func quote(s string) string { return syntax.Quote(s, false) }

func selector(use, workers string) (string, error) {
	switch {
	case use == "" || use == "native":
		return "native()", nil
	case !slices.Contains(selectors, use):
		return "", fmt.Errorf("%q is not a selector: use one of %s", use, strings.Join(selectors, ", "))
	case use == "sticky":
		return "route(sticky(" + workers + ", job.session or job.tenant or job.id))", nil
	}
	return "route(" + use + "(" + workers + "))", nil
}

func writeRule(b *strings.Builder, r rule) error {
	conds, err := r.When.conditions()
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "    # %s\n    if %s:\n", strings.Map(printable, r.Name), strings.Join(conds, " and "))
	a := r.Then
	set := 0
	for _, on := range []bool{a.Queue != "", a.Reject != "", a.Use != "" || len(a.Label) > 0 || a.Node != ""} {
		if on {
			set++
		}
	}
	if set != 1 {
		return errors.New("then: want exactly one of queue, reject, or use with label and node")
	}
	switch {
	case a.Queue != "":
		fmt.Fprintf(b, "        return queue(%s)\n", quote(a.Queue))
	case a.Reject != "":
		fmt.Fprintf(b, "        return reject(%s)\n", quote(a.Reject))
	default:
		return a.write(b)
	}
	return nil
}

func printable(r rune) rune {
	if r < ' ' {
		return ' '
	}
	return r
}

// write is the selection among the workers that carry labels; where none has the model, it is loaded on a
// hive that carries them.
func (a action) write(b *strings.Builder) error {
	use := a.Use
	if use == "" {
		use = "cheapest"
	}
	only := len(a.Label) > 0 || a.Node != ""
	if use == "native" && !only {
		b.WriteString("        return native()\n")
		return nil
	}
	if use == "native" {
		use = "cheapest"
	}
	b.WriteString("        ws, hs = workers, online(hives)\n")
	if a.Node != "" {
		fmt.Fprintf(b, "        ws = by_node(ws, %s)\n        hs = [h for h in hs if h.name == %s]\n", quote(a.Node), quote(a.Node))
	}
	for _, k := range sortedKeys(a.Label) {
		fmt.Fprintf(b, "        ws = by_label(ws, %s, %s)\n", quote(k), quote(a.Label[k]))
		if a.Node == "" {
			fmt.Fprintf(b, "        hs = hives_with(hs, %s, %s)\n", quote(k), quote(a.Label[k]))
		}
	}
	sel, err := selector(use, "ws")
	if err != nil {
		return err
	}
	pick := strings.TrimSuffix(strings.TrimPrefix(sel, "route("), ")")
	fmt.Fprintf(b, "        w = %s\n        if w:\n            return route(w)\n", pick)
	if !only {
		b.WriteString("        return native()\n")
		return nil
	}
	b.WriteString("        if ws:\n            return queue(\"waiting for a worker that the rule allows\")\n" +
		"        for h in hs:\n            if fits(h):\n                return provision(h)\n" +
		"        return queue(\"no hive that the rule allows has room\")\n")
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (c condition) conditions() ([]string, error) {
	conds := []string{"True"}
	add := func(format string, a ...any) { conds = append(conds, fmt.Sprintf(format, a...)) }
	if head, ok := strings.CutSuffix(c.Model, "*"); ok {
		add("job.model.startswith(%s)", quote(head))
	} else if c.Model != "" {
		add("job.model == %s", quote(c.Model))
	}
	if c.Tenant != "" {
		add("job.tenant == %s", quote(c.Tenant))
	}
	if c.Priority != "" {
		if c.Priority != "batch" && c.Priority != "interactive" {
			return nil, fmt.Errorf("priority %q: want interactive or batch", c.Priority)
		}
		if c.Priority == "batch" {
			add("is_batch(job)")
		} else {
			add("not is_batch(job)")
		}
	}
	if c.Session != nil {
		add("bool(job.session) == %s", map[bool]string{true: "True", false: "False"}[*c.Session])
	}
	for _, k := range sortedKeys(c.Labels) {
		add("job.labels.get(%s) == %s", quote(k), quote(c.Labels[k]))
	}
	for _, n := range []struct {
		v    *int
		form string
	}{{c.PromptOver, "job.prompt_tokens > %d"}, {c.PromptUnder, "job.prompt_tokens < %d"}, {c.WaitingOver, "waiting(job.model) > %d"}, {c.WaitedUnder, "job.waited < %d"}} {
		if n.v != nil {
			add(n.form, *n.v)
		}
	}
	if c.Hours != "" {
		var from, to int
		if n, err := fmt.Sscanf(c.Hours, "%d-%d", &from, &to); err != nil || n != 2 || from < 0 || from > 24 || to < 0 || to > 24 {
			return nil, fmt.Errorf("hours %q: want from-to, such as 22-6", c.Hours)
		}
		add("between(%d, %d)", from, to)
	}
	return conds, nil
}
