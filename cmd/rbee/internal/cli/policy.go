package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func (a *cli) policy() *cobra.Command {
	show := &cobra.Command{Use: "show", Short: "Show the policy", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.showPolicy(cmd.Context())
	}}
	set := &cobra.Command{Use: "set NAME|FILE", Short: "Set the policy: a built-in one, or a .star or .yaml file", Args: args(cobra.ExactArgs(1)), RunE: func(cmd *cobra.Command, v []string) error {
		body, err := policyBody(v[0])
		if err != nil {
			return err
		}
		if err := a.c.JSON(cmd.Context(), "PUT", "/v2/scheduler/policy", body, nil); err != nil {
			return err
		}
		a.note("%s: in force", text(body["name"]))
		if a.structured() {
			return a.showPolicy(cmd.Context())
		}
		return nil
	}}
	dry := &cobra.Command{Use: "dry-run MODEL [PROMPT]", Short: "Say what would be decided, and why", Args: args(cobra.RangeArgs(1, 2)), ValidArgsFunction: a.complete(modelNames), RunE: func(cmd *cobra.Command, v []string) error {
		job := record{"model": v[0], "prompt": "hello"}
		if len(v) == 2 {
			job["prompt"] = v[1]
		}
		var out struct {
			Decisions []record `json:"decisions"`
		}
		if err := a.c.JSON(cmd.Context(), "POST", "/v2/scheduler/dry-run", record{"jobs": []any{job}}, &out); err != nil {
			return err
		}
		return a.print("DecisionList", out.Decisions, "action", field("ACTION", "action"), field("WORKER", "worker_id"), field("NODE", "node"),
			field("EVICT", "evict"), field("CODE", "code"), field("REASON", "reason"), wide(column{head: "CANDIDATES", text: candidatesText}))
	}}
	return group("policy", "Show, set, try and replay the scheduling policy", show, set, dry, a.replay())
}

func (a *cli) showPolicy(ctx context.Context) error {
	var out record
	if err := a.c.JSON(ctx, "GET", "/v2/scheduler/policy", nil, &out); err != nil {
		return err
	}
	return a.printOne("Policy", out, "name", "language", "mode", "hash", "failures", "available", "source")
}

// candidatesText is what a decision looked at, on one line.
func candidatesText(r record) string {
	lines := strings.Split(decisionText(map[string]any(r)), "\n")
	if len(lines) < 2 {
		return "-"
	}
	return strings.Join(lines[1:], "; ")
}

// replay runs recorded traffic again under other policies.
func (a *cli) replay() *cobra.Command {
	var events string
	c := &cobra.Command{Use: "replay [NAME|FILE]...", Short: "Decide recorded traffic again, under the default policy and others",
		Long: "Decide recorded traffic again, under the default policy and each that is named. The queen records while scheduler.record is set;\n--events FILE takes another recording, a JSON list of its events.",
		RunE: func(cmd *cobra.Command, v []string) error {
			body := record{}
			var list []record
			for _, p := range v {
				one, err := policyBody(p)
				if err != nil {
					return err
				}
				list = append(list, one)
			}
			if list != nil {
				body["policies"] = list
			}
			if events != "" {
				data, err := os.ReadFile(events)
				if err != nil {
					return err
				}
				if !json.Valid(data) {
					return usageError{fmt.Errorf("%s is not JSON", events)}
				}
				body["events"] = json.RawMessage(data)
			}
			var out record
			if err := a.c.JSON(cmd.Context(), "POST", "/v2/scheduler/replay", body, &out); err != nil {
				return err
			}
			return a.printReplay(out)
		}}
	c.Flags().StringVar(&events, "events", "", "file with a recording")
	return c
}

func policyBody(nameOrFile string) (record, error) {
	switch ext := filepath.Ext(nameOrFile); ext {
	case ".star", ".yaml", ".yml":
		source, err := os.ReadFile(nameOrFile)
		if err != nil {
			return nil, err
		}
		lang := "starlark"
		if ext != ".star" {
			lang = "yaml"
		}
		return record{"name": strings.TrimSuffix(filepath.Base(nameOrFile), ext), "language": lang, "source": string(source)}, nil
	}
	if strings.ContainsRune(nameOrFile, filepath.Separator) {
		return nil, usageError{errors.New("a policy's file ends in .star or .yaml")}
	}
	return record{"name": nameOrFile}, nil
}

// printReplay shows how each policy did with the recording.
func (a *cli) printReplay(out record) error {
	if a.structured() {
		return a.printOne("Replay", out)
	}
	var results []record
	list, _ := out["results"].([]any)
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			results = append(results, m)
		}
	}
	a.note("%s jobs, %s measured speeds; the figures compare policies, they don't predict", text(out["jobs"]), text(out["measured_speeds"]))
	seconds := func(head, key string) column {
		return column{head: head, text: func(r record) string { return fmt.Sprintf("%.3f s", number(r[key])) }}
	}
	return a.print("Replay", results, "policy", field("POLICY", "policy"), field("DONE", "done"), seconds("TTFT P50", "ttft_p50_s"), seconds("TTFT P99", "ttft_p99_s"),
		column{head: "CACHE HITS", text: func(r record) string { return fmt.Sprintf("%.1f %%", number(r["hit_percent"])) }},
		field("LOADS", "loads"), field("SWAPS", "swaps"), field("REJECTED", "rejected"), wide(field("COLD", "cold_first_tokens")), wide(seconds("MEAN", "ttft_mean_s")))
}
