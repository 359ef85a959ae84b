package cli

import (
	"os"
	"path/filepath"
	"strings"
)

// maxHistory is how many prompts are remembered.
const maxHistory = 1000

// history is the prompts of earlier chats, oldest first, in a file that only its owner can read. It is a convenience: where
// the file can't be used, the chat goes on without it.
type history struct {
	lines []string
	file  *os.File
}

// historyFile is where prompts are remembered: rbee/history in $XDG_STATE_HOME or ~/.local/state.
func historyFile() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "rbee", "history")
}

// openHistory reads the file, shortens it when it has grown, and opens it for more.
func openHistory() *history {
	h := &history{}
	path := historyFile()
	if path == "" || os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return h
	}
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return h
	}
	if text := strings.TrimSuffix(string(data), "\n"); text != "" {
		h.lines = strings.Split(text, "\n")
	}
	if n := len(h.lines); n > 2*maxHistory {
		h.lines = h.lines[n-maxHistory:]
		shorter := path + ".new"
		if os.WriteFile(shorter, []byte(strings.Join(h.lines, "\n")+"\n"), 0o600) != nil || os.Rename(shorter, path) != nil {
			_ = os.Remove(shorter)
		}
	}
	h.file, _ = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return h
}

// Add implements term.History; the same line twice is kept once.
func (h *history) Add(entry string) {
	entry = strings.TrimSpace(strings.ReplaceAll(entry, "\n", " "))
	if entry == "" || len(h.lines) > 0 && h.lines[len(h.lines)-1] == entry {
		return
	}
	h.lines = append(h.lines, entry)
	if h.file != nil {
		_, _ = h.file.WriteString(entry + "\n")
	}
}

// Len implements term.History.
func (h *history) Len() int { return len(h.lines) }

// At implements term.History: 0 is the newest.
func (h *history) At(i int) string { return h.lines[len(h.lines)-1-i] }

func (h *history) close() {
	if h.file != nil {
		_ = h.file.Close()
	}
}
