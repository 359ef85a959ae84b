package cli

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
)

// send makes a command that sends one request and says that it was done; done "" says what the queen answered as status.
func (a *cli) send(use, short string, n int, method string, path func([]string) string, body func([]string) any, done string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args(cobra.ExactArgs(n)), RunE: func(cmd *cobra.Command, v []string) error {
		var b any
		if body != nil {
			b = body(v)
		}
		var out record
		if err := a.c.JSON(cmd.Context(), method, path(v), b, &out); err != nil {
			return err
		}
		if len(v) > 0 {
			word := done
			if status, ok := out["status"].(string); ok && done == "" {
				word = status
			}
			a.note("%s: %s", v[0], word)
		}
		if a.structured() {
			return a.printOne("Result", out)
		}
		return nil
	}}
}

func fixed(path string) func([]string) string { return func([]string) string { return path } }
func with(prefix, suffix string) func([]string) string {
	return func(v []string) string { return prefix + url.PathEscape(v[0]) + suffix }
}

// followOperation prints the steps of something long and fails with its reason.
func (a *cli) followOperation(cmd *cobra.Command, path string) error {
	if path == "" {
		return nil
	}
	return a.c.Events(cmd.Context(), "GET", path, nil, func(ev client.Event) error {
		var e struct {
			State, Code, Message string
		}
		if err := json.Unmarshal(ev.Data, &e); err != nil {
			return err
		}
		switch {
		case a.structured():
			if err := a.event("Progress", ev); err != nil {
				return err
			}
		case e.Message != "":
			a.note("%s", e.Message)
		}
		if e.State == "failed" {
			return &client.APIError{Code: e.Code, Message: e.Message}
		}
		return nil
	})
}

func (a *cli) stop() *cobra.Command {
	return &cobra.Command{Use: "stop MODEL", Short: "Unload a model: stop its workers", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(modelNames), RunE: func(cmd *cobra.Command, v []string) error {
		list, err := a.fetch(cmd.Context(), "/v2/workers/list", "workers")
		if err != nil {
			return err
		}
		n := 0
		for _, w := range list {
			if w["model"] == v[0] || w["worker_id"] == v[0] {
				if err := a.c.JSON(cmd.Context(), "POST", "/v2/workers/shutdown", record{"worker_id": w["worker_id"], "drain": true}, nil); err != nil {
					return err
				}
				n++
			}
		}
		if n == 0 {
			return fmt.Errorf("no worker runs %s: rbee ps lists them", v[0])
		}
		a.note("%s: %d worker(s) stopping", v[0], n)
		return nil
	}}
}

func (a *cli) job() *cobra.Command {
	return group("job", "List, show, follow and cancel jobs", a.jobLs(),
		&cobra.Command{Use: "show ID", Short: "Show one job and its decision", Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(jobNames), RunE: func(cmd *cobra.Command, v []string) error {
			var out record
			if err := a.c.JSON(cmd.Context(), "GET", "/v2/tasks/"+url.PathEscape(v[0])+"?explain=true", nil, &out); err != nil {
				return err
			}
			return a.printOne("Job", out, "job_id", "state", "model", "model_ref", "tenant_id", "priority", "worker_id", "node", "attempt", "submitted_at",
				"started_at", "first_token_at", "completed_at", "prompt_tokens", "tokens_out", "error", "decision")
		}},
		a.names(a.send("cancel ID", "Cancel a job", 1, "DELETE", with("/v2/tasks/", ""), nil, ""), jobNames),
		a.jobText("follow ID", "Print a job's text as it comes"), a.jobText("logs ID", "Print what a job has said, and go on while it runs"))
}

func (a *cli) jobLs() *cobra.Command {
	filter := map[string]*string{"state": new(string), "model": new(string), "priority": new(string)}
	var limit int
	c := &cobra.Command{Use: "ls", Short: "List the jobs, newest first", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		q := url.Values{}
		for k, v := range filter {
			if *v != "" {
				q.Set(k, *v)
			}
		}
		if limit > 0 {
			q.Set("limit", strconv.Itoa(limit))
		}
		return a.repeat(cmd.Context(), func() error {
			list, err := a.fetch(cmd.Context(), "/v2/tasks?"+q.Encode(), "jobs")
			if err != nil {
				return err
			}
			return a.print("JobList", list, "job_id", field("JOB", "job_id"), field("MODEL", "model"), field("STATE", "state"), field("TENANT", "tenant_id"), field("TOKENS", "tokens_out"),
				column{head: "AGE", text: func(r record) string { return ageText(r["submitted_at"]) }}, field("WORKER", "worker_id"), wide(field("NODE", "node")),
				wide(field("PRIORITY", "priority")), wide(field("ATTEMPT", "attempt")), wide(field("ERROR", "error")))
		})
	}}
	f := c.Flags()
	f.StringVar(filter["state"], "state", "", "queued, running, complete, failed or cancelled")
	f.StringVar(filter["model"], "model", "", "of this model only")
	f.StringVar(filter["priority"], "priority", "", "interactive or batch")
	f.IntVar(&limit, "limit", 0, "at most so many")
	return c
}

// jobText follows a job's events, from its first one on, and prints its text.
func (a *cli) jobText(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args(cobra.ExactArgs(1)), ValidArgsFunction: a.complete(jobNames), RunE: func(cmd *cobra.Command, v []string) error {
		ended := false
		err := a.c.JobEvents(cmd.Context(), "GET", "/v2/tasks/"+url.PathEscape(v[0])+"/events", nil, a.lost, func(ev client.Event) error {
			var t struct{ T, Code, Message string }
			if err := json.Unmarshal(ev.Data, &t); err != nil {
				return err
			}
			ended = ended || ev.Name == "end"
			switch {
			case ev.Name == "error":
				return &client.APIError{Code: t.Code, Message: t.Message}
			case a.structured():
				return a.event("JobEvent", ev)
			case ev.Name == "token":
				_, err := fmt.Fprint(a.out, t.T)
				return err
			case ev.Name == "end":
				_, err := fmt.Fprintln(a.out)
				return err
			}
			return nil
		})
		if err == nil && !ended {
			err = fmt.Errorf("the stream ended before the job did: rbee job show %s says how it stands", v[0])
		}
		return err
	}}
}

func (a *cli) worker() *cobra.Command {
	var node, device string
	spawn := &cobra.Command{Use: "spawn MODEL", Short: "Start a worker", Args: args(cobra.ExactArgs(1)), RunE: func(cmd *cobra.Command, v []string) error {
		var out record
		body := record{"model_ref": v[0]}
		for k, val := range map[string]string{"node": node, "device": device} {
			if val != "" {
				body[k] = val
			}
		}
		if err := a.c.JSON(cmd.Context(), "POST", "/v2/workers/spawn", body, &out); err != nil {
			return err
		}
		return a.print("WorkerList", []record{out}, "worker_id", field("WORKER", "worker_id"), field("NODE", "node"), field("STATE", "state"))
	}}
	spawn.Flags().StringVar(&node, "node", "", "on this hive")
	spawn.Flags().StringVar(&device, "device", "", "on this device")
	ls := a.ps()
	ls.Use = "ls"
	return group("worker", "List, spawn and stop workers", ls, a.names(spawn, modelNames), a.names(a.send("stop ID", "Stop a worker when it is done", 1, "POST",
		fixed("/v2/workers/shutdown"), func(v []string) any { return record{"worker_id": v[0], "drain": true} }, "stopping"), workerNames))
}

func (a *cli) keys() *cobra.Command {
	var tenant, scope, label string
	var models []string
	var expires time.Duration
	create := &cobra.Command{Use: "create", Short: "Make a key; it is shown this once", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		body := record{"tenant_id": tenant, "scope": scope}
		if label != "" {
			body["label"] = label
		}
		if len(models) > 0 {
			body["models"] = models
		}
		if expires > 0 {
			body["expires_at"] = time.Now().Add(expires).UTC().Format(time.RFC3339)
		}
		var out record
		if err := a.c.JSON(cmd.Context(), "POST", "/v2/keys", body, &out); err != nil {
			return err
		}
		if a.structured() {
			return a.printOne("Key", out)
		}
		a.note("key %s of tenant %s, scope %s; it is shown this once:", text(out["id"]), text(out["tenant_id"]), text(out["scope"]))
		_, err := fmt.Fprintln(a.out, text(out["key"]))
		return err
	}}
	f := create.Flags()
	f.StringVar(&tenant, "tenant", "default", "tenant")
	f.StringVar(&scope, "scope", "infer", "infer, operate or admin; hive for the token of the node that --label names")
	f.StringVar(&label, "label", "", "what you call it")
	f.StringSliceVar(&models, "model", nil, "only these models")
	f.DurationVar(&expires, "expires", 0, "valid for this long")
	return group("key", "Make, list and revoke API keys", create, a.lister("ls", "List the keys", "/v2/keys", "keys", "KeyList", "id", field("KEY", "id"), field("TENANT", "tenant_id"), field("SCOPE", "scope"),
		field("LABEL", "label"), field("CREATED", "created_at"), field("EXPIRES", "expires_at"), field("REVOKED", "revoked_at")),
		a.send("revoke ID", "Revoke a key", 1, "DELETE", with("/v2/keys/", ""), nil, "revoked"))
}

func (a *cli) models() *cobra.Command {
	var ref, engine string
	var slots, context int
	add := &cobra.Command{Use: "add NAME --ref REF", Short: "Offer a model", Args: args(cobra.ExactArgs(1)), RunE: func(cmd *cobra.Command, v []string) error {
		if ref == "" {
			return usageError{fmt.Errorf("say what runs: --ref file:/PATH, hf:ORG/REPO, ollama:NAME or sim:NAME")}
		}
		body := record{"ref": ref}
		if engine != "" {
			body["engine"] = engine
		}
		if slots > 0 {
			body["slots"] = slots
		}
		if context > 0 {
			body["context"] = context
		}
		if err := a.c.JSON(cmd.Context(), "PUT", "/v2/models/"+url.PathEscape(v[0]), body, nil); err != nil {
			return err
		}
		a.note("%s: added", v[0])
		return nil
	}}
	f := add.Flags()
	f.StringVar(&ref, "ref", "", "model reference")
	f.StringVar(&engine, "engine", "", "engine")
	f.IntVar(&slots, "slots", 0, "requests at once")
	f.IntVar(&context, "context", 0, "tokens of context")
	return group("model", "Add and remove models at run time", add,
		a.names(a.send("rm NAME", "Take a model away", 1, "DELETE", with("/v2/models/", ""), nil, "removed"), modelNames))
}
