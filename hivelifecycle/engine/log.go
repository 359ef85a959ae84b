package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

const (
	maxLogFile  = 8 << 20
	maxLogBytes = 256 << 10
	maxLogLine  = 16 << 10
)

// Log is the output of one worker. The worker writes into a file, so that it does not mind our death; the Log reads
// that file and keeps the newest 256 KiB of lines. The file is cut when it reaches 8 MiB.
type Log struct {
	path string
	onLn func(line string)

	mu      sync.Mutex
	lines   []string
	first   int // number of lines[0] since the beginning
	size    int
	offset  int64
	partial []byte
	changed chan struct{} // closed and replaced with every new line
	closed  bool

	readMu sync.Mutex // one reader of the file at a time
	wake   chan struct{}
	watch  int // followers
}

func newLog(path string, onLine func(string)) *Log {
	return &Log{path: path, onLn: onLine, changed: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// skipTo starts reading at most n bytes before the file's present end, for a worker that is taken over.
func (l *Log) skipTo(n int64) {
	if info, err := os.Stat(l.path); err == nil && info.Size() > n {
		l.offset = info.Size() - n
	}
}

// file opens the log for a worker to append to.
func (l *Log) file() (*os.File, error) {
	return os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// note writes a line of our own into the log.
func (l *Log) note(line string) {
	f, err := l.file()
	if err != nil {
		return
	}
	_, _ = f.WriteString("[rbee] " + line + "\n")
	_ = f.Close()
	l.read()
}

// run reads the file until stop is closed: often while somebody follows or busy says so, else once a second.
func (l *Log) run(stop <-chan struct{}, busy func() bool) {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-l.wake:
		case <-stop:
			l.read()
			l.mu.Lock()
			l.closed = true
			l.notifyLocked()
			l.mu.Unlock()
			return
		}
		l.read()
		l.mu.Lock()
		fast := l.watch > 0
		l.mu.Unlock()
		if fast || busy() {
			t.Reset(100 * time.Millisecond)
		} else {
			t.Reset(time.Second)
		}
	}
}

// read takes in what is new in the file.
func (l *Log) read() {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	info, err := os.Stat(l.path)
	if err != nil {
		return
	}
	l.mu.Lock()
	if info.Size() < l.offset {
		l.offset = 0
	}
	offset := l.offset
	l.mu.Unlock()
	if info.Size() == offset {
		return
	}
	f, err := os.OpenFile(l.path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.ReadAt(buf, offset)
		offset += int64(n)
		l.add(buf[:n], offset)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				return
			}
			break
		}
	}
	if offset > maxLogFile && f.Truncate(0) == nil {
		l.mu.Lock()
		l.offset = 0
		l.mu.Unlock()
	}
}

func (l *Log) add(b []byte, offset int64) {
	var fresh []string
	l.mu.Lock()
	l.offset = offset
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if len(l.partial) < maxLogLine {
				l.partial = append(l.partial, b...)
			}
			break
		}
		line := append(l.partial, b[:i]...)
		l.partial, b = nil, b[i+1:]
		fresh = append(fresh, string(bytes.TrimSuffix(line[:min(len(line), maxLogLine)], []byte("\r"))))
	}
	for _, s := range fresh {
		l.lines = append(l.lines, s)
		l.size += len(s) + 1
	}
	drop := 0
	for l.size > maxLogBytes && drop < len(l.lines)-1 {
		l.size -= len(l.lines[drop]) + 1
		drop++
	}
	if drop > 0 {
		l.lines = append([]string(nil), l.lines[drop:]...)
		l.first += drop
	}
	if len(fresh) > 0 {
		l.notifyLocked()
	}
	l.mu.Unlock()
	if l.onLn != nil {
		for _, s := range fresh {
			l.onLn(s)
		}
	}
}

func (l *Log) notifyLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Tail returns the last n lines that are kept, all of them when n is 0.
func (l *Log) Tail(n int) []string {
	l.read()
	l.mu.Lock()
	defer l.mu.Unlock()
	from := 0
	if n > 0 && n < len(l.lines) {
		from = len(l.lines) - n
	}
	return append([]string(nil), l.lines[from:]...)
}

// Follow calls fn with the last n lines (0 = all that are kept) and then with each new one, until fn fails, ctx ends
// or the worker is gone.
func (l *Log) Follow(ctx context.Context, n int, fn func(line string) error) error {
	l.read()
	l.mu.Lock()
	l.watch++
	next := l.first
	if n > 0 && n < len(l.lines) {
		next += len(l.lines) - n
	}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.watch--
		l.mu.Unlock()
	}()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	for {
		l.mu.Lock()
		next = max(next, l.first)
		batch := append([]string(nil), l.lines[next-l.first:]...)
		changed, closed := l.changed, l.closed
		l.mu.Unlock()
		for _, line := range batch {
			if err := fn(line); err != nil {
				return err
			}
		}
		next += len(batch)
		if closed {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
