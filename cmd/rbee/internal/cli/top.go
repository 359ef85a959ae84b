package cli

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/top"
)

// top shows the fleet live; where stdout is no terminal, once.
func (a *cli) top() *cobra.Command {
	return &cobra.Command{Use: "top", Short: "Watch hives, workers, the line and jobs live", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		first, err := a.fleet(ctx)
		if err != nil {
			return err
		}
		switch {
		case a.structured():
			var fields record
			data, err := json.Marshal(map[string]any{"hives": orEmpty(first.Hives), "workers": orEmpty(first.Workers), "jobs": orEmpty(first.Jobs),
				"queen": first.Queen, "version": first.Version, "tokens_per_second": first.Rate("", time.Now())})
			if err == nil {
				err = json.Unmarshal(data, &fields)
			}
			if err != nil {
				return err
			}
			return a.encode("Top", fields, false)
		case !a.style.terminal || !isTerminal(a.in):
			return a.repeat(ctx, func() error {
				f, err := a.fleet(ctx)
				if err == nil {
					_, err = a.out.Write([]byte(top.View(f, 200, 0, time.Now(), a.word) + "\n"))
				}
				return err
			})
		}
		return top.Run(ctx, first, top.Source{Fetch: a.fleet, Changes: func(ctx context.Context, changed func()) error {
			return a.c.Events(ctx, "GET", "/v2/events", nil, func(client.Event) error { changed(); return nil })
		}}, a.in, a.out, a.word)
	}}
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// word draws a word for top.
func (a *cli) word(s string) string {
	if head, ok := strings.CutPrefix(s, "HEAD:"); ok {
		return a.style.head.Render(head)
	}
	return a.style.word(s).Render(s)
}

// Jobs that top looks at: of the line and of those under way so many, and the last ones that ended.
const (
	topOpen  = "1000"
	topEnded = "200"
)

// fleet reads what top shows.
func (a *cli) fleet(ctx context.Context) (top.Fleet, error) {
	f := top.Fleet{Queen: a.c.Base}
	var health struct{ Version string }
	var hives struct{ Nodes []top.Hive }
	var workers struct{ Workers []top.Worker }
	var queued, running, ended struct {
		Jobs []top.Job
		Next string `json:"next_cursor"`
	}
	for _, get := range []struct {
		path string
		out  any
	}{{"/health", &health}, {"/v2/registry/beehives/list", &hives}, {"/v2/workers/list", &workers},
		{"/v2/tasks?state=queued&limit=" + topOpen, &queued}, {"/v2/tasks?state=running&limit=" + topOpen, &running}, {"/v2/tasks?limit=" + topEnded, &ended}} {
		if err := a.c.JSON(ctx, "GET", get.path, nil, get.out); err != nil {
			return f, err
		}
	}
	f.Version, f.Hives, f.Workers, f.More = health.Version, hives.Nodes, workers.Workers, queued.Next != ""
	f.Jobs = append(running.Jobs, queued.Jobs...)
	known := map[string]bool{}
	for _, j := range f.Jobs {
		known[j.ID] = true
	}
	for _, j := range ended.Jobs {
		if !known[j.ID] && j.State != "queued" && j.State != "running" {
			f.Jobs = append(f.Jobs, j)
		}
	}
	return f, nil
}
