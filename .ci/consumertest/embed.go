package main

import (
	"bytes"
	"context"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// runLimit is how long a page's program may take.
const runLimit = 20 * time.Second

// page is a module's page in docs/embed: one program, and what it prints. The zero value is no page.
type page struct {
	program, output string
}

// embedPage reads docs/embed/NAME.md of a library at the top of the checkout, which must have one; nested modules and
// commands have none.
func embedPage(root string, m mod) (page, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return page{}, err
	}
	name, err := filepath.Rel(abs, m.Dir)
	if err != nil {
		return page{}, err
	}
	if strings.ContainsRune(name, filepath.Separator) {
		return page{}, nil
	}
	file := filepath.Join(abs, "docs", "embed", name+".md")
	data, err := os.ReadFile(file)
	if err != nil {
		return page{}, fmt.Errorf("write the module's page: %w", err)
	}
	programs, outputs := blocks(string(data), "go"), blocks(string(data), "text")
	if len(programs) != 1 || len(outputs) != 1 {
		return page{}, fmt.Errorf("%s: want one ```go block and one ```text block with what it prints, got %d and %d", file, len(programs), len(outputs))
	}
	p := page{programs[0], outputs[0]}
	if tidy, err := format.Source([]byte(p.program)); err != nil || string(tidy) != p.program {
		return page{}, fmt.Errorf("%s: the program is not as gofmt has it: %v", file, err)
	}
	return p, nil
}

// blocks are the fenced blocks of a language.
func blocks(text, language string) []string {
	var all []string
	for {
		_, rest, ok := strings.Cut(text, "\n```"+language+"\n")
		if !ok {
			return all
		}
		body, after, ok := strings.Cut(rest, "\n```\n")
		if !ok {
			return all
		}
		all, text = append(all, body+"\n"), after
	}
}

// runProgram runs what was built and compares what it prints with its page.
func runProgram(path string, p page) error {
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the page's program: %w\n%s%s", err, &out, &errs)
	}
	if got, want := strings.TrimRight(out.String(), "\n"), strings.TrimRight(p.output, "\n"); got != want {
		return fmt.Errorf("the page's program prints\n%s\nand its page says\n%s", got, want)
	}
	return nil
}
