package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLog(t *testing.T) {
	l := newLog(filepath.Join(t.TempDir(), "x.log"), nil)
	write := func(s string) {
		f, err := l.file()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	if got := l.Tail(5); len(got) != 0 {
		t.Error(got)
	}
	write("one\ntwo\r\nthr")
	if got := l.Tail(0); strings.Join(got, "|") != "one|two" {
		t.Errorf("%q", got)
	}
	write("ee\n")
	if got := l.Tail(2); strings.Join(got, "|") != "two|three" {
		t.Errorf("%q", got)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); l.run(stop, func() bool { return true }) }()
	got := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Follow(ctx, 1, func(s string) error { got <- s; return nil }) }()
	if s := <-got; s != "three" {
		t.Error(s)
	}
	write("four\n")
	if s := <-got; s != "four" {
		t.Error(s)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() { ended <- l.Follow(t.Context(), 0, func(string) error { return nil }) }()
	close(stop)
	<-done
	if err := <-ended; err != nil {
		t.Error("a follower of a worker that is gone:", err)
	}
}

// TestLogIsBounded writes far more than is kept, in memory and on disk.
func TestLogIsBounded(t *testing.T) {
	l := newLog(filepath.Join(t.TempDir(), "x.log"), nil)
	f, err := l.file()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	line := strings.Repeat("x", 1000)
	for i := range 10_000 {
		if _, err := fmt.Fprintf(f, "%d %s\n", i, line); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = f.WriteString(strings.Repeat("y", 1<<20) + "\nlast\n")
	got := l.Tail(0)
	if l.size > maxLogBytes+maxLogLine || got[len(got)-1] != "last" || len(got[len(got)-2]) > maxLogLine {
		t.Errorf("%d bytes kept, %d lines, last %.20q", l.size, len(got), got[len(got)-1])
	}
	if info, err := os.Stat(l.path); err != nil || info.Size() > maxLogFile {
		t.Error(info.Size(), err)
	}
	// The worker goes on appending behind the cut.
	_, _ = f.WriteString("after\n")
	if got := l.Tail(1); got[0] != "after" {
		t.Error(got)
	}
}
