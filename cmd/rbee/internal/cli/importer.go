package cli

import (
	"fmt"
	"os"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/llamaswap"
)

// configImport prints another program's configuration as ours.
func (a *cli) configImport() *cobra.Command {
	return group("import", "Turn another program's configuration into the queen's", &cobra.Command{Use: "llama-swap FILE", Short: "Print a llama-swap configuration as the queen's, and on stderr what has no equivalent",
		Args: args(cobra.ExactArgs(1)), RunE: func(_ *cobra.Command, v []string) error {
			data, err := os.ReadFile(v[0])
			if err != nil {
				return err
			}
			out, notes, err := llamaswap.Import(data)
			if err != nil {
				return fmt.Errorf("%s: %w", v[0], err)
			}
			text, err := yaml.Marshal(out)
			if err != nil {
				return err
			}
			for _, n := range notes {
				if _, err := fmt.Fprintln(a.errOut, n); err != nil {
					return err
				}
			}
			_, err = a.out.Write(text)
			return err
		}})
}
