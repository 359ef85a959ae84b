package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func tenantFields() []string {
	return []string{"tenant_id", "rpm", "tpm", "concurrent", "tokens_per_day", "models", "usage"}
}

func (a *cli) tenants() *cobra.Command {
	show := &cobra.Command{Use: "show ID", Short: "Show a tenant's limits and usage", Args: args(cobra.ExactArgs(1)), RunE: func(cmd *cobra.Command, v []string) error {
		t, err := a.tenant(cmd.Context(), v[0])
		if err != nil {
			return err
		}
		if t == nil {
			return fmt.Errorf("no tenant %q has limits of its own or has used anything: rbee tenant ls lists those that have", v[0])
		}
		return a.printOne("Tenant", t, tenantFields()...)
	}}
	return group("tenant", "Show and set tenants' limits", a.lister("ls", "List the tenants", "/v2/tenants", "tenants", "TenantList", "tenant_id", field("TENANT", "tenant_id"), field("RPM", "rpm"),
		field("TPM", "tpm"), field("CONCURRENT", "concurrent"), field("TOKENS/DAY", "tokens_per_day"), field("MODELS", "models"), field("USAGE", "usage")), show, a.setTenant())
}

// tenant is the record of a tenant, nil when there is none.
func (a *cli) tenant(ctx context.Context, id string) (record, error) {
	all, err := a.fetch(ctx, "/v2/tenants", "tenants")
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t["tenant_id"] == id {
			return t, nil
		}
	}
	return nil, nil
}

func (a *cli) setTenant() *cobra.Command {
	limits := map[string]*int64{}
	var models []string
	set := &cobra.Command{Use: "set ID", Short: "Set a tenant's limits; what is not named stays, 0 is none", Args: args(cobra.ExactArgs(1))}
	for _, k := range []string{"rpm", "tpm", "concurrent", "tokens_per_day"} {
		limits[k] = set.Flags().Int64(strings.ReplaceAll(k, "_", "-"), 0, "limit")
	}
	set.Flags().StringSliceVar(&models, "model", nil, `only these models; "" for all`)
	set.RunE = func(cmd *cobra.Command, v []string) error {
		old, err := a.tenant(cmd.Context(), v[0])
		if err != nil {
			return err
		}
		body := record{}
		for k, n := range limits {
			if cmd.Flags().Changed(strings.ReplaceAll(k, "_", "-")) {
				body[k] = *n
			} else if n, ok := old[k]; ok {
				body[k] = n
			}
		}
		if cmd.Flags().Changed("model") {
			body["models"] = append([]string{}, models...)
		} else if m, ok := old["models"]; ok && m != nil {
			body["models"] = m
		}
		var out record
		if err := a.c.JSON(cmd.Context(), "PUT", "/v2/tenants/"+url.PathEscape(v[0]), body, &out); err != nil {
			return err
		}
		return a.printOne("Tenant", out, tenantFields()...)
	}
	return set
}
