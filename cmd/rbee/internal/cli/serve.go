package cli

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func copyTo(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	return err
}

// execQueen replaces this process by queen-rbee, found beside it or on PATH.
func execQueen(list []string) error {
	path, err := findQueen()
	if err != nil {
		return err
	}
	return syscall.Exec(path, append([]string{path}, list...), os.Environ())
}

func findQueen() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "queen-rbee")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("queen-rbee")
	if err != nil {
		return "", errors.New("queen-rbee is neither beside rbee nor on PATH: install it, or run it by its path")
	}
	return path, nil
}

func (a *cli) serve() *cobra.Command {
	return &cobra.Command{Use: "serve [flags of queen-rbee]", Short: "Become queen-rbee", DisableFlagParsing: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE:              func(_ *cobra.Command, v []string) error { return execQueen(v) }}
}
