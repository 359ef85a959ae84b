package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// style is how text is drawn: with colours on a terminal, unless NO_COLOR is set, and plain everywhere else.
type style struct {
	terminal              bool
	head, good, bad, warn ink
}

// ink is how a terminal is told to draw, as the parameters of its escape sequence; "" is plain.
type ink string

// Render draws a text.
func (i ink) Render(text string) string {
	if i == "" || text == "" {
		return text
	}
	return "\x1b[" + string(i) + "m" + text + "\x1b[0m"
}

func newStyle(out io.Writer) style {
	s := style{terminal: isTerminal(out)}
	if s.terminal && os.Getenv("NO_COLOR") == "" {
		s.head, s.good, s.bad, s.warn = "1", "32", "31", "33"
	}
	return s
}

// isTerminal reports whether a stream is a person's screen or keyboard.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// word colours what says how something is.
func (s style) word(text string) ink {
	switch text {
	case "ok", "online", "idle", "loaded", "ready", "complete":
		return s.good
	case "fail", "failed", "offline", "error", "cancelled":
		return s.bad
	case "warn", "suspect", "draining", "starting", "loading", "downloading", "queued":
		return s.warn
	}
	return ""
}

// table writes rows in columns, the first row being the headings.
func (s style) table(w io.Writer, rows [][]string) error {
	widths := columnWidths(rows)
	var b strings.Builder
	for n, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			drawn := s.word(cell).Render(cell)
			if n == 0 {
				drawn = s.head.Render(cell)
			}
			line.WriteString(drawn)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-runewidth.StringWidth(cell)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fields writes names and values, one pair a line.
func (s style) fields(w io.Writer, rows [][]string) error {
	widths := columnWidths(rows)
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(s.head.Render(row[0]))
		b.WriteString(strings.Repeat(" ", widths[0]-runewidth.StringWidth(row[0])+2))
		b.WriteString(s.word(row[1]).Render(row[1]))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func columnWidths(rows [][]string) (widths []int) {
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	return widths
}

// again parts one showing of a watched list from the next: a clean screen, or an empty line where there is no terminal.
func (s style) again(w io.Writer) {
	if s.terminal {
		_, _ = fmt.Fprint(w, "\x1b[H\x1b[2J")
		return
	}
	_, _ = fmt.Fprintln(w)
}
