package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// source says where a list of names comes from, for completion in a shell.
type source struct{ path, key, name string }

func modelNames() source  { return source{"/v2/models/catalog", "models", "model"} }
func hiveNames() source   { return source{"/v2/registry/beehives/list", "nodes", "node_name"} }
func workerNames() source { return source{"/v2/workers/list", "workers", "worker_id"} }
func jobNames() source    { return source{"/v2/tasks", "jobs", "job_id"} }

// complete offers names that the queen knows for a command's first argument, and nothing when she does not answer at once.
func (a *cli) complete(of func() source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(given) > 0 || a.connect() != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s := of()
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		list, err := a.fetch(ctx, s.path, s.key)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, r := range list {
			out = append(out, text(r[s.name]))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// names gives a command completion of its first argument.
func (a *cli) names(c *cobra.Command, s func() source) *cobra.Command {
	c.ValidArgsFunction = a.complete(s)
	return c
}
