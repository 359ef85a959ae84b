package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/queen-rbee/queen-rbee/cmd/rbee/internal/client"
)

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type runOptions struct {
	model       string
	system      string
	maxTokens   int
	temperature float64
	seed        int64
	session     string
	noHistory   bool
}

// maxInput bounds a prompt that is read from stdin.
const maxInput = 32 << 20

func (a *cli) run() *cobra.Command {
	o := runOptions{temperature: -1, seed: -1}
	c := &cobra.Command{Use: "run MODEL [PROMPT]", Short: "Ask a model, or chat with it",
		Long: "Ask a model one thing, or chat with it.\n\nWithout a prompt, a terminal begins a chat that remembers what was said (/help tells more);\n" +
			"input that is no terminal is the prompt as a whole. A - among the words of the prompt stands for that input.",
		Args: args(cobra.MinimumNArgs(1)), ValidArgsFunction: a.complete(modelNames), RunE: func(cmd *cobra.Command, v []string) error {
			o.model = v[0]
			if len(v) == 1 && isTerminal(a.in) && isTerminal(a.out) && !a.structured() {
				return a.chat(cmd.Context(), o)
			}
			prompt, err := a.prompt(v[1:])
			if err != nil {
				return err
			}
			got, err := a.ask(cmd.Context(), o, o.begin(prompt))
			if err != nil || !a.structured() {
				return err
			}
			return a.encode("Answer", got, false)
		}}
	f := c.Flags()
	f.StringVar(&o.system, "system", "", "system message")
	f.IntVar(&o.maxTokens, "max-tokens", 0, "length of an answer at most")
	f.Float64Var(&o.temperature, "temperature", -1, "0 to 2")
	f.Int64Var(&o.seed, "seed", -1, "for the same answer again")
	f.StringVar(&o.session, "session", "", "affinity key")
	f.BoolVar(&o.noHistory, "no-history", false, "a chat neither reads nor writes the file of earlier prompts")
	return c
}

// begin is a conversation with its first question.
func (o runOptions) begin(prompt string) (list []message) {
	if o.system != "" {
		list = append(list, message{"system", o.system})
	}
	if prompt != "" {
		list = append(list, message{"user", prompt})
	}
	return list
}

// prompt is the words of the command line, or what stands on stdin.
func (a *cli) prompt(words []string) (string, error) {
	read := func() (string, error) {
		if isTerminal(a.in) {
			a.note("the prompt, then Ctrl-D:")
		}
		data, err := io.ReadAll(io.LimitReader(a.in, maxInput+1))
		if len(data) > maxInput {
			return "", fmt.Errorf("the input is longer than %s", bytesText(float64(maxInput)))
		}
		return strings.TrimSpace(string(data)), err
	}
	if len(words) == 0 {
		words = []string{"-"}
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w != "-" {
			continue
		}
		text, err := read()
		if err != nil {
			return "", err
		}
		out[i] = text
	}
	prompt := strings.TrimSpace(strings.Join(out, " "))
	if prompt == "" {
		return "", usageError{errors.New("there is no prompt: give it as an argument or on stdin")}
	}
	return prompt, nil
}

// ask streams one answer to stdout and returns it with what the queen said of it.
func (a *cli) ask(ctx context.Context, o runOptions, history []message) (record, error) {
	body := map[string]any{"model": o.model, "messages": history}
	if o.maxTokens > 0 {
		body["max_tokens"] = o.maxTokens
	}
	if o.temperature >= 0 {
		body["temperature"] = o.temperature
	}
	if o.seed >= 0 {
		body["seed"] = o.seed
	}
	if o.session != "" {
		body["session_id"] = o.session
	}
	t := &telling{a: a, got: record{"model": o.model}}
	err := a.c.JobEvents(ctx, "POST", "/v2/tasks", body, a.lost, t.event)
	if t.text.Len() > 0 && !a.structured() {
		_, _ = fmt.Fprintln(a.out)
	}
	if err == nil && !t.ended {
		err = errors.New("the stream ended before the answer did: see rbee job ls")
	}
	t.got["text"] = t.text.String()
	return t.got, err
}

// lost says why nothing comes for a while.
func (a *cli) lost() { a.note("the connection to the queen was lost, coming back") }

// telling is an answer as it comes.
type telling struct {
	a     *cli
	text  strings.Builder
	got   record
	ended bool
}

func (t *telling) event(ev client.Event) error {
	switch ev.Name {
	case "queued":
		var q struct {
			Position int `json:"queue_position"`
		}
		if json.Unmarshal(ev.Data, &q) == nil && q.Position > 0 {
			t.a.note("waiting, position %d", q.Position)
		}
	case "started":
		var s record
		if json.Unmarshal(ev.Data, &s) == nil {
			for _, k := range []string{"job_id", "worker_id", "node", "attempt"} {
				t.got[k] = s[k]
			}
		}
	case "token":
		var tok struct {
			T string `json:"t"`
		}
		if err := json.Unmarshal(ev.Data, &tok); err != nil {
			return err
		}
		t.text.WriteString(tok.T)
		if t.a.structured() {
			return nil
		}
		_, err := io.WriteString(t.a.out, tok.T)
		return err
	case "end":
		t.ended = true
		var e record
		if json.Unmarshal(ev.Data, &e) == nil {
			for k, v := range e {
				t.got[k] = v
			}
		}
	case "error":
		var e client.APIError
		if err := json.Unmarshal(ev.Data, &e); err != nil {
			return err
		}
		return &e
	}
	return nil
}

// terminalFile is the keyboard as a file; chat is only begun where it is one.
func (a *cli) terminalFile() *os.File {
	f, _ := a.in.(*os.File)
	return f
}
