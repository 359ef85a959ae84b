package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
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

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type runOptions struct {
	model       string
	maxTokens   int
	temperature float64
	session     string
}

func (a *cli) run() *cobra.Command {
	o := runOptions{temperature: -1}
	c := &cobra.Command{Use: "run MODEL [PROMPT]", Short: "Ask a model, or chat with it", Args: args(cobra.MinimumNArgs(1)), RunE: func(cmd *cobra.Command, v []string) error {
		o.model = v[0]
		if len(v) > 1 {
			_, err := a.ask(cmd.Context(), o, []message{{"user", strings.Join(v[1:], " ")}})
			return err
		}
		return a.chat(cmd.Context(), o)
	}}
	c.Flags().IntVar(&o.maxTokens, "max-tokens", 0, "length of an answer at most")
	c.Flags().Float64Var(&o.temperature, "temperature", -1, "0 to 2")
	c.Flags().StringVar(&o.session, "session", "", "affinity key")
	return c
}

// chat reads lines until the end of the input and keeps the history of the conversation.
func (a *cli) chat(ctx context.Context, o runOptions) error {
	var history []message
	sc := bufio.NewScanner(a.in)
	sc.Buffer(nil, 1<<20)
	for {
		if !a.quiet {
			_, _ = fmt.Fprint(a.errOut, ">>> ")
		}
		if !sc.Scan() {
			a.note("")
			return sc.Err()
		}
		line := strings.TrimSpace(sc.Text())
		switch line {
		case "":
			continue
		case "/bye", "/exit", "/quit":
			return nil
		case "/clear":
			history = nil
			continue
		}
		history = append(history, message{"user", line})
		answer, err := a.ask(ctx, o, history)
		if err != nil {
			return err
		}
		history = append(history, message{"assistant", answer})
	}
}

// ask streams one answer to stdout and returns it.
func (a *cli) ask(ctx context.Context, o runOptions, history []message) (string, error) {
	body := map[string]any{"model": o.model, "messages": history}
	if o.maxTokens > 0 {
		body["max_tokens"] = o.maxTokens
	}
	if o.temperature >= 0 {
		body["temperature"] = o.temperature
	}
	if o.session != "" {
		body["session_id"] = o.session
	}
	var answer strings.Builder
	ended := false
	err := a.c.Events(ctx, "POST", "/v2/tasks", body, func(ev client.Event) error {
		switch ev.Name {
		case "queued":
			var q struct {
				Position int `json:"queue_position"`
			}
			if json.Unmarshal(ev.Data, &q) == nil && q.Position > 0 {
				a.note("waiting, position %d", q.Position)
			}
		case "token":
			var t struct {
				T string `json:"t"`
			}
			if err := json.Unmarshal(ev.Data, &t); err != nil {
				return err
			}
			answer.WriteString(t.T)
			_, err := io.WriteString(a.out, t.T)
			return err
		case "end":
			ended = true
		case "error":
			var e client.APIError
			if err := json.Unmarshal(ev.Data, &e); err != nil {
				return err
			}
			return &e
		}
		return nil
	})
	if answer.Len() > 0 {
		_, _ = fmt.Fprintln(a.out)
	}
	if err == nil && !ended {
		err = errors.New("the stream ended before the answer did: see rbee job ls")
	}
	return answer.String(), err
}
