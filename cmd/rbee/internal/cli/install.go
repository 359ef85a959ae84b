package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/units"
)

type installOptions struct {
	user, dryRun, now bool
	queen, config     string
	root              string
}

func (a *cli) install() *cobra.Command {
	var o installOptions
	c := &cobra.Command{Use: "install", Short: "Make systemd run the queen on this machine",
		Long: "Write a hardened systemd unit for the queen, the user that she runs as and a first configuration (one that exists stays),\n" +
			"and make systemd read them. Hives need no unit from here: the queen makes theirs on the machines that she is given.",
		Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return a.doInstall(cmd.Context(), o) }}
	f := c.Flags()
	f.BoolVar(&o.user, "user", false, "a unit of your own, without root, that runs while you are logged in (or for ever with loginctl enable-linger)")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the files and commands, change nothing")
	f.BoolVar(&o.now, "now", false, "start the queen too, and at every boot")
	f.StringVar(&o.queen, "queen", "", "path of queen-rbee; beside rbee or on PATH by default")
	f.StringVar(&o.config, "config", "", "the configuration that the queen uses; /etc/rbee/queen.yaml or ~/.config/rbee/queen.yaml by default")
	f.StringVar(&o.root, "root", "", "write below this directory and run nothing, for packages and images")
	return c
}

func (a *cli) doInstall(ctx context.Context, o installOptions) error {
	var err error
	if o.queen == "" {
		if o.queen, err = findQueen(); err != nil {
			return err
		}
	}
	if o.queen, err = filepath.Abs(o.queen); err != nil {
		return err
	}
	if o.config != "" {
		if o.config, err = filepath.Abs(o.config); err != nil {
			return err
		}
	}
	if o.root != "" {
		if o.root, err = filepath.Abs(o.root); err != nil {
			return err
		}
	}
	home, err := os.UserHomeDir()
	if err != nil && o.user {
		return err
	}
	plan, err := units.New(units.Options{User: o.user, Queen: o.queen, Config: o.config, Home: home})
	if err != nil {
		return usageError{err}
	}
	if o.dryRun {
		return a.printPlan(plan)
	}
	if !o.user && o.root == "" {
		if os.Getuid() != 0 {
			return errors.New("a unit of the machine needs root: sudo rbee install, or rbee install --user for one of your own")
		}
		if hidden(o.queen) {
			return fmt.Errorf("%s lies where the unit's own user can't read: put the programs into /usr/local/bin first, or name others with --queen", o.queen)
		}
	}
	for _, file := range plan.Files {
		if err := a.writeFile(filepath.Join(o.root, file.Path), file); err != nil {
			return err
		}
	}
	if o.root != "" {
		return nil
	}
	if o.now {
		plan.Commands = append(plan.Commands, plan.Start)
	}
	for _, argv := range plan.Commands {
		a.note("%s", strings.Join(argv, " "))
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
		}
	}
	if !o.now {
		a.note("start the queen, now and at every boot: %s", strings.Join(plan.Start, " "))
	}
	return nil
}

// hidden reports whether a program lies in somebody's home or in a directory that the unit does not share.
func hidden(path string) bool {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for _, dir := range []string{"/root/", "/home/", "/tmp/", "/var/tmp/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

// writeFile puts a file in place as a whole; what is there already stays where the plan says so.
func (a *cli) writeFile(path string, file units.File) error {
	if _, err := os.Stat(path); err == nil && file.Keep {
		a.note("kept   %s", path)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, []byte(file.Text), os.FileMode(file.Mode)); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	a.note("wrote  %s", path)
	return nil
}

// printPlan shows what an installation would do.
func (a *cli) printPlan(p units.Plan) error {
	if a.structured() {
		files := make([]record, len(p.Files))
		for i, f := range p.Files {
			files[i] = record{"path": f.Path, "mode": fmt.Sprintf("%04o", f.Mode), "text": f.Text, "keep": f.Keep}
		}
		return a.encode("InstallPlan", record{"files": files, "commands": p.Commands, "start": p.Start}, false)
	}
	var b strings.Builder
	for _, f := range p.Files {
		kept := ""
		if f.Keep {
			kept = ", unless there is one"
		}
		fmt.Fprintf(&b, "# %s (mode %04o%s)\n%s\n", f.Path, f.Mode, kept, f.Text)
	}
	b.WriteString("# then\n")
	for _, argv := range append(p.Commands, p.Start) {
		b.WriteString(strings.Join(argv, " ") + "\n")
	}
	_, err := a.out.Write([]byte(b.String()))
	return err
}
