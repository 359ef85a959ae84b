package cli

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// fetch reads a list reply of the queen.
func (a *cli) fetch(ctx context.Context, path, key string) ([]record, error) {
	var reply map[string]any
	if err := a.c.JSON(ctx, "GET", path, nil, &reply); err != nil {
		return nil, err
	}
	list, _ := reply[key].([]any)
	out := make([]record, 0, len(list))
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// lister makes a command that prints one list.
func (a *cli) lister(use, short, path, key, kind, name string, columns ...column) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.repeat(cmd.Context(), func() error {
			list, err := a.fetch(cmd.Context(), path, key)
			if err != nil {
				return err
			}
			return a.print(kind, list, name, columns...)
		})
	}}
}

func (a *cli) ls() *cobra.Command {
	return a.lister("ls", "List the models", "/v2/models/catalog", "models", "ModelList", "model",
		field("MODEL", "model"), field("STATE", "state"), field("REF", "model_ref"),
		column{head: "SIZE", text: func(r record) string { return bytesText(r["size_bytes"]) }},
		column{head: "MEMORY", text: func(r record) string { return bytesText(r["memory_estimate"]) }},
		wide(field("CONTEXT", "context_length")), wide(field("NODES", "node")))
}

func (a *cli) workerColumns() []column {
	return []column{field("WORKER", "worker_id"), field("MODEL", "model"), field("NODE", "node"), field("STATE", "state"),
		{head: "SLOTS", text: func(r record) string { return text(r["slots_free"]) + "/" + text(r["slots_total"]) }},
		{head: "MEMORY", text: func(r record) string { return bytesText(r["memory_bytes"]) }},
		{head: "AGE", text: func(r record) string { return ageText(r["started_at"]) }},
		wide(field("ENGINE", "engine")), wide(field("DEVICE", "device")), wide(field("PID", "pid")), wide(field("URL", "url"))}
}

func (a *cli) ps() *cobra.Command {
	return a.lister("ps", "List the workers", "/v2/workers/list", "workers", "WorkerList", "worker_id", a.workerColumns()...)
}

func (a *cli) doctor() *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Check the installation", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		list, err := a.fetch(cmd.Context(), "/v2/doctor", "checks")
		if err != nil {
			return err
		}
		if err := a.print("CheckList", list, "name", field("CHECK", "name"), field("STATUS", "status"), field("MESSAGE", "message"), field("REMEDY", "remedy")); err != nil {
			return err
		}
		for _, c := range list {
			if c["status"] == "fail" {
				return fmt.Errorf("%s: %s", text(c["name"]), text(c["message"]))
			}
		}
		return nil
	}}
}

func (a *cli) status() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show hives, workers and jobs at a glance", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.repeat(cmd.Context(), func() error { return a.glance(cmd.Context()) })
	}}
}

func (a *cli) glance(ctx context.Context) error {
	var health record
	if err := a.c.JSON(ctx, "GET", "/health", nil, &health); err != nil {
		return err
	}
	hives, err := a.fetch(ctx, "/v2/registry/beehives/list", "nodes")
	if err != nil {
		return err
	}
	workers, err := a.fetch(ctx, "/v2/workers/list", "workers")
	if err != nil {
		return err
	}
	jobs := record{}
	for _, state := range []string{"queued", "running"} {
		list, err := a.fetch(ctx, "/v2/tasks?limit=1000&state="+state, "jobs")
		if err != nil {
			return err
		}
		jobs[state] = float64(len(list))
	}
	if a.structured() {
		return a.printOne("Status", record{"queen": a.c.Base, "health": health, "hives": hives, "workers": workers, "jobs": jobs})
	}
	_, _ = fmt.Fprintf(a.out, "queen  %s  %s  %s\n", a.c.Base, a.style.word(text(health["status"])).Render(text(health["status"])), text(health["version"]))
	_, _ = fmt.Fprintf(a.out, "jobs   %s running, %s queued\n\n", text(jobs["running"]), text(jobs["queued"]))
	if err := a.print("HiveList", hives, "node_name", a.hiveColumns()...); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(a.out)
	return a.print("WorkerList", workers, "worker_id", a.workerColumns()...)
}

func (a *cli) show() *cobra.Command {
	return &cobra.Command{Use: "show MODEL", Short: "Show one model", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(modelNames), RunE: func(cmd *cobra.Command, v []string) error {
		list, err := a.fetch(cmd.Context(), "/v2/models/catalog", "models")
		if err != nil {
			return err
		}
		for _, m := range list {
			if m["model"] == v[0] || m["model_ref"] == v[0] {
				return a.printOne("Model", m, "model", "model_ref", "state", "node", "size_bytes", "memory_estimate", "context_length", "parameters", "sha256", "engine", "message")
			}
		}
		return fmt.Errorf("there is no model %s: rbee ls lists them", v[0])
	}}
}

func (a *cli) wait() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "wait", Short: "Wait until the queen is ready", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		for {
			err := a.c.JSON(ctx, "GET", "/ready", nil, nil)
			if err == nil {
				a.note("ready: %s", a.c.Base)
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("not ready after %s: %w", timeout, err)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}}
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this long")
	return c
}

func (a *cli) logs() *cobra.Command {
	var node, worker string
	var follow bool
	var tail int
	c := &cobra.Command{Use: "logs", Short: "Print the log of a hive or worker", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.copyLogs(cmd.Context(), node, worker, follow, tail)
	}}
	f := c.Flags()
	f.StringVar(&node, "node", "", "hive")
	f.StringVar(&worker, "worker", "", "worker id")
	f.BoolVarP(&follow, "follow", "f", false, "go on as lines come")
	f.IntVar(&tail, "tail", 100, "begin with this many lines")
	return c
}

func (a *cli) copyLogs(ctx context.Context, node, worker string, follow bool, tail int) error {
	q := url.Values{"tail": {fmt.Sprint(tail)}}
	for k, v := range map[string]string{"node": node, "worker_id": worker} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if follow {
		q.Set("follow", "true")
	}
	res, err := a.c.Do(ctx, "GET", "/v2/logs?"+q.Encode(), nil, "text/plain")
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	return copyTo(a.out, res.Body)
}

func (a *cli) config() *cobra.Command {
	c := group("config", "Make, check, show and import the queen's configuration")
	init := &cobra.Command{Use: "init [FILE]", Short: "Write a first configuration", Args: args(cobra.MaximumNArgs(1)), RunE: func(_ *cobra.Command, v []string) error {
		path := "queen.yaml"
		if len(v) == 1 {
			path = v[0]
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if _, err := f.WriteString(firstConfig); err != nil {
			return err
		}
		a.note("wrote %s; start with: rbee serve --config %s", path, path)
		return nil
	}}
	for _, verb := range []string{"check", "show"} {
		c.AddCommand(&cobra.Command{Use: verb + " [FILE]", Short: "Let queen-rbee " + verb + " a configuration", Args: args(cobra.MaximumNArgs(1)), RunE: func(_ *cobra.Command, v []string) error {
			list := []string{"config", verb}
			if len(v) == 1 {
				list = append([]string{"--config", v[0]}, list...)
			}
			return execQueen(list)
		}})
	}
	c.AddCommand(init, a.configImport())
	return c
}

const firstConfig = `# The queen's configuration; every key can be left out. docs/configuration.md explains each.
listen: 127.0.0.1:7833
# tls: {cert: /etc/rbee/tls/fullchain.pem, key: /etc/rbee/tls/privkey.pem}   # HTTPS; clients in other places should get nothing less
models:
  demo: {ref: "sim:demo"}        # a simulator, not a language model
  # stories: {ref: "file:/path/to/model.gguf", engine: llama.cpp, slots: 2, context: 4096, ttl: 10m}
hives:
  - {name: local, mode: local}
  # - {name: gpu1, mode: network, ssh: "ops@gpu1", identity: ~/.ssh/id_ed25519}
`
