package hive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/queen-rbee/queen-rbee/metrics/correlate"
)

const (
	maxHiveLog   = 8 << 20
	maxHiveLines = 2000
)

// journal is where the hive's own log goes: a ring for /v1/logs and a file that is cut when it gets large.
type journal struct {
	mu      sync.Mutex
	lines   []string
	first   int
	changed chan struct{}
	out     io.Writer
	file    *os.File // the same file as out when it is one that we may cut
	written int64
}

// openJournal writes to stderr; detached, to DIR/hive.log unless stderr is that file already.
func openJournal(dir string, detached bool, stderr io.Writer) (*journal, error) {
	j := &journal{out: stderr, changed: make(chan struct{})}
	path := filepath.Join(dir, "hive.log")
	if f, ok := stderr.(*os.File); ok {
		a, aerr := f.Stat()
		b, berr := os.Stat(path)
		if aerr == nil && berr == nil && os.SameFile(a, b) {
			j.file, j.written = f, a.Size()
			return j, nil
		}
	}
	if !detached {
		return j, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil {
		j.written = info.Size()
	}
	j.file, j.out = f, f
	return j, nil
}

// Write takes one line from slog.
func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(bytes.TrimRight(b, "\n")))
	if len(j.lines) > maxHiveLines {
		drop := len(j.lines) - maxHiveLines/2
		j.lines = append([]string(nil), j.lines[drop:]...)
		j.first += drop
	}
	close(j.changed)
	j.changed = make(chan struct{})
	if j.file != nil {
		if j.written += int64(len(b)); j.written > maxHiveLog {
			if err := j.file.Truncate(0); err == nil {
				j.written = 0
			}
		}
	}
	// A reader that has gone away is no reason to end: the ring has the line.
	if n, err := j.out.Write(b); err != nil && !errors.Is(err, syscall.EPIPE) {
		return n, err
	}
	return len(b), nil
}

// follow calls fn with the last n lines (0 = all) and, when live, with each new one until ctx ends.
func (j *journal) follow(ctx context.Context, n int, live bool, fn func(string) error) error {
	j.mu.Lock()
	next := j.first
	if n > 0 && n < len(j.lines) {
		next += len(j.lines) - n
	}
	j.mu.Unlock()
	for {
		j.mu.Lock()
		next = max(next, j.first)
		batch := append([]string(nil), j.lines[next-j.first:]...)
		changed := j.changed
		j.mu.Unlock()
		for _, line := range batch {
			if err := fn(line); err != nil {
				return err
			}
		}
		next += len(batch)
		if !live {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// newLogger writes to the journal; lines that name a worker or a model carry the correlation id of what it is for.
func newLogger(j *journal, c config, level *slog.LevelVar, lookup correlate.Lookup) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(j, o)
	if c.logFormat == "json" {
		h = slog.NewJSONHandler(j, o)
	}
	return slog.New(correlate.New(h, lookup)).With("hive", c.name)
}
