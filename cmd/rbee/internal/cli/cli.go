// Package cli is the command line of rbee.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
)

// Exit codes of the contract.
const (
	exitOK            = 0
	exitError         = 1
	exitUnschedulable = 2
	exitUnreachable   = 3
	exitUnauthorized  = 4
	exitUsage         = 64
)

// cli is what the commands share.
type cli struct {
	version      string
	in           io.Reader
	out, errOut  io.Writer
	url, ca      string
	output       string
	quiet, watch bool
	c            *client.Client
	style        style
}

// usageError is a wrong use of the command line.
type usageError struct{ error }

// Main runs a command and returns its exit code.
func Main(version string, args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &cli{version: version, in: in, out: out, errOut: errOut, style: newStyle(out)}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, context.Canceled):
		return exitError // whoever pressed Ctrl-C knows why
	}
	_, _ = fmt.Fprintln(errOut, "rbee:", err)
	return exitCode(err)
}

func exitCode(err error) int {
	var usage usageError
	var api *client.APIError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrUnreachable):
		return exitUnreachable
	case errors.As(err, &api):
		switch api.Code {
		case "NO_HIVE_AVAILABLE", "INSUFFICIENT_VRAM", "SYSTEM_AT_CAPACITY":
			return exitUnschedulable
		case "UNAUTHENTICATED", "FORBIDDEN":
			return exitUnauthorized
		}
		if api.Status == 401 || api.Status == 403 {
			return exitUnauthorized
		}
	}
	if strings.HasPrefix(err.Error(), "unknown command") || strings.HasPrefix(err.Error(), "unknown flag") || strings.HasPrefix(err.Error(), "unknown shorthand") {
		return exitUsage
	}
	return exitError
}

func (a *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "rbee", Short: "The keeper: a thin client of queen-rbee", Version: a.version, SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.connect() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SetVersionTemplate("rbee {{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.url, "url", "", "the queen's address (RBEE_URL)")
	f.StringVar(&a.ca, "ca", "", "`FILE` with the authority of an https queen's certificate, in place of the system's (RBEE_CA)")
	f.StringVarP(&a.output, "output", "o", "table", "table, wide, json or yaml")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "names only, no progress")
	f.BoolVar(&a.watch, "watch", false, "repeat lists every two seconds")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(a.serve(), a.run(), a.status(), a.ls(), a.ps(), a.show(), a.pull(), a.stop(), a.rm(), a.hive(), a.job(), a.worker(), a.engine(),
		a.keys(), a.tenants(), a.policy(), a.models(), a.doctor(), a.wait(), a.logs(), a.config(), a.top(), a.dashboard(), a.install(), a.versionCmd())
	return root
}

// connect checks what all commands take and finds the queen.
func (a *cli) connect() (err error) {
	switch a.output {
	case "table", "wide", "json", "yaml":
	default:
		return usageError{fmt.Errorf("-o is table, wide, json or yaml, not %q", a.output)}
	}
	if a.c, err = client.New(a.url, "", a.ca); err != nil {
		return usageError{err}
	}
	return nil
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, v []string) error {
		if len(v) == 0 {
			return cmd.Help()
		}
		hint := ""
		if near := cmd.SuggestionsFor(v[0]); len(near) > 0 {
			hint = "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usageError{fmt.Errorf("unknown command %q for %q%s", v[0], cmd.CommandPath(), hint)}
	}}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(subs...)
	return c
}

// args makes a wrong number of arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, list []string) error {
		if err := check(cmd, list); err != nil {
			return usageError{err}
		}
		return nil
	}
}

// note writes progress to stderr unless -q was given.
func (a *cli) note(format string, v ...any) {
	if !a.quiet {
		_, _ = fmt.Fprintf(a.errOut, format+"\n", v...)
	}
}

// repeat runs a listing once, or with --watch until it is interrupted.
func (a *cli) repeat(ctx context.Context, list func() error) error {
	for {
		err := list()
		switch {
		case a.watch && errors.Is(err, context.Canceled):
			return nil // the usual end of watching
		case err != nil || !a.watch:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
			a.style.again(a.out)
		}
	}
}

func (a *cli) versionCmd() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print versions", Args: args(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error {
		if a.structured() {
			return a.printOne("Version", record{"version": a.version})
		}
		_, err := fmt.Fprintln(a.out, "rbee", a.version)
		return err
	}}
}
