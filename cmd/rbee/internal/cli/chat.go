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

	"golang.org/x/term"
)

const chatHelp = `/clear    forget the conversation
/system   TEXT: begin anew with this system message
/model    NAME: go on with another model
/history  show the conversation
/bye      end (so do Ctrl-C and Ctrl-D at the prompt)
"""       begin and end a text of several lines
Ctrl-C while an answer comes ends that answer; the arrow keys bring back earlier prompts.`

// chat talks with a model at a terminal and keeps the conversation.
func (a *cli) chat(ctx context.Context, o runOptions) error {
	keys := a.terminalFile()
	line := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, a.errOut}, ">>> ")
	if !o.noHistory {
		past := openHistory()
		line.History = past
		defer past.close()
	}
	a.note("%s: /help shows what a chat understands", o.model)
	c := &conversation{a: a, o: o, list: o.begin("")}
	for {
		said, err := readPrompt(keys, line)
		switch {
		case errors.Is(err, io.EOF):
			a.note("")
			return nil
		case err != nil:
			return err
		}
		if done, err := c.say(ctx, said); done || err != nil {
			return err
		}
	}
}

// readPrompt reads one line, or several between two lines of three quotes. The terminal is raw only meanwhile, so that
// Ctrl-C works as ever while an answer comes.
func readPrompt(keys *os.File, line *term.Terminal) (string, error) {
	old, err := term.MakeRaw(int(keys.Fd()))
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(int(keys.Fd()), old) }()
	if w, h, err := term.GetSize(int(keys.Fd())); err == nil && w > 0 {
		_ = line.SetSize(w, h)
	}
	line.SetBracketedPasteMode(true)
	defer line.SetBracketedPasteMode(false)
	const quotes = `"""`
	text, err := line.ReadLine()
	pasted := errors.Is(err, term.ErrPasteIndicator)
	if err != nil && !pasted {
		return "", err
	}
	rest, many := strings.CutPrefix(strings.TrimSpace(text), quotes)
	if !many {
		return text, nil
	}
	line.SetPrompt("... ")
	defer line.SetPrompt(">>> ")
	lines := []string{rest}
	for {
		if last := lines[len(lines)-1]; strings.HasSuffix(last, quotes) {
			lines[len(lines)-1] = strings.TrimSuffix(last, quotes)
			return strings.TrimSpace(strings.Join(lines, "\n")), nil
		}
		next, err := line.ReadLine()
		if err != nil && !errors.Is(err, term.ErrPasteIndicator) {
			return "", err
		}
		lines = append(lines, strings.TrimRight(next, " "))
	}
}

// conversation is what was said so far.
type conversation struct {
	a    *cli
	o    runOptions
	list []message
}

// say does what a line asks for; done ends the chat.
func (c *conversation) say(ctx context.Context, said string) (done bool, err error) {
	said = strings.TrimSpace(said)
	word, rest, _ := strings.Cut(said, " ")
	switch word {
	case "":
	case "/bye", "/exit", "/quit":
		return true, nil
	case "/help", "/?":
		c.a.note(chatHelp)
	case "/clear":
		c.list = c.o.begin("")
	case "/system":
		c.o.system = strings.TrimSpace(rest)
		c.list = c.o.begin("")
	case "/model":
		if rest != "" {
			c.o.model = strings.TrimSpace(rest)
		}
		c.a.note("%s", c.o.model)
	case "/history":
		for _, m := range c.list {
			c.a.note("%s: %s", m.Role, m.Content)
		}
	default:
		if strings.HasPrefix(word, "/") && !strings.Contains(word[1:], "/") {
			c.a.note("there is no %s: /help shows what there is", word)
			return false, nil
		}
		return c.turn(ctx, said)
	}
	return false, nil
}

// turn asks one question. An answer that fails or is cut short leaves the chat alive; only a queen that can't be
// reached, or that refuses the key, ends it.
func (c *conversation) turn(ctx context.Context, said string) (done bool, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // Ctrl-C ends the answer, not the program
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ended := make(chan os.Signal, 1)
	go func() {
		select {
		case s := <-signals:
			ended <- s
			cancel()
		case <-ctx.Done():
		}
	}()
	got, err := c.a.ask(ctx, c.o, append(c.list[:len(c.list):len(c.list)], message{"user", said}))
	answer, _ := got["text"].(string)
	if answer != "" { // what was heard is part of the conversation, whole or not
		c.list = append(c.list, message{"user", said}, message{"assistant", answer})
	}
	if err == nil {
		return false, nil
	}
	select {
	case s := <-ended:
		c.a.note("(stopped)")
		return s == syscall.SIGTERM, nil
	default:
	}
	switch exitCode(err) {
	case exitUnreachable, exitUnauthorized:
		return true, err
	}
	_, err = fmt.Fprintln(c.a.errOut, "rbee:", err)
	return false, err
}
