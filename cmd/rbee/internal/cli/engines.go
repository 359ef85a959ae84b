package cli

import (
	"context"
	"errors"
	"net/url"

	"github.com/spf13/cobra"
)

// engine lists and changes the engines on hives.
func (a *cli) engine() *cobra.Command {
	return group("engine", "List, install, switch and remove inference engines", a.engineLs(), a.engineInstall(),
		a.engineChange("use ENGINE VERSION", "Run new workers with another installed version", "POST", "/v2/engines/use", "active"),
		a.engineChange("rm ENGINE VERSION", "Remove an installed version", "DELETE", "/v2/engines", "removed"))
}

func (a *cli) engineLs() *cobra.Command {
	var hive string
	c := &cobra.Command{Use: "ls", Short: "List the engines on the hives", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		path := "/v2/engines"
		if hive != "" {
			path += "?" + url.Values{"node": {hive}}.Encode()
		}
		return a.repeat(cmd.Context(), func() error {
			list, err := a.fetch(cmd.Context(), path, "engines")
			if err != nil {
				return err
			}
			return a.print("EngineList", list, "engine", field("HIVE", "node"), field("ENGINE", "engine"), field("VERSION", "version"), field("BACKEND", "backend"),
				field("SOURCE", "source"), field("ACTIVE", "active"), field("PATH", "path"), wide(field("MESSAGE", "message")))
		})
	}}
	c.Flags().StringVar(&hive, "hive", "", "of this hive only")
	return c
}

func (a *cli) engineInstall() *cobra.Command {
	var hive string
	flags := map[string]*string{}
	c := &cobra.Command{Use: "install ENGINE [VERSION]", Short: "Install an engine on a hive, from the catalogue or from an address", Args: args(cobra.RangeArgs(1, 2)), RunE: func(cmd *cobra.Command, v []string) error {
		node, err := a.oneHive(cmd.Context(), hive)
		if err != nil {
			return err
		}
		body := record{"node": node, "engine": v[0]}
		if len(v) == 2 {
			body["version"] = v[1]
		}
		for k, val := range flags {
			if *val != "" {
				body[k] = *val
			}
		}
		var out struct {
			EventsURL string `json:"events_url"`
		}
		if err := a.c.JSON(cmd.Context(), "POST", "/v2/engines/install", body, &out); err != nil {
			return err
		}
		return a.followOperation(cmd, out.EventsURL)
	}}
	f := c.Flags()
	f.StringVar(&hive, "hive", "", "on this hive; may be left out when there is only one")
	for name, what := range map[string]string{"backend": "cpu, cuda, rocm, vulkan or metal; what fits the hive by default", "url": "archive, instead of the catalogue's",
		"sha256": "of the archive", "digest_url": "release of the GitHub API that says the archive's sha256", "program": "name of the executable in the archive"} {
		flags[name] = new(string)
		flag := name
		if name == "digest_url" {
			flag = "digest-url"
		}
		f.StringVar(flags[name], flag, "", what)
	}
	return c
}

func (a *cli) engineChange(use, short, method, path, done string) *cobra.Command {
	var hive, backend string
	c := &cobra.Command{Use: use, Short: short, Args: args(cobra.ExactArgs(2)), RunE: func(cmd *cobra.Command, v []string) error {
		node, err := a.oneHive(cmd.Context(), hive)
		if err != nil {
			return err
		}
		if err := a.c.JSON(cmd.Context(), method, path, record{"node": node, "engine": v[0], "version": v[1], "backend": backend}, nil); err != nil {
			return err
		}
		a.note("%s %s on %s: %s", v[0], v[1], node, done)
		return nil
	}}
	c.Flags().StringVar(&hive, "hive", "", "on this hive; may be left out when there is only one")
	c.Flags().StringVar(&backend, "backend", "", "of this backend, where several are installed")
	return c
}

// oneHive is the hive that was named, or the only one.
func (a *cli) oneHive(ctx context.Context, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	list, err := a.fetch(ctx, "/v2/registry/beehives/list", "nodes")
	if err != nil {
		return "", err
	}
	if len(list) != 1 {
		return "", usageError{errors.New("say which hive: --hive NAME; rbee hive ls lists them")}
	}
	return text(list[0]["node_name"]), nil
}
