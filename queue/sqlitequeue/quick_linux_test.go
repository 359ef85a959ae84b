//go:build linux && (amd64 || arm64)

package sqlitequeue_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

func scratch(t *testing.T, dir, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestQuickWriterWritesTheSame: pieces of any size, also overlapping ones and ones behind the end, leave the file that
// WriteAt leaves.
func TestQuickWriterWritesTheSame(t *testing.T) {
	dir := t.TempDir()
	quick, plain := scratch(t, dir, "quick"), scratch(t, dir, "plain")
	rnd := rand.New(rand.NewPCG(1, 9))
	var q sqlitequeue.QuickWriter
	for i := range 500 {
		b := make([]byte, rnd.IntN(1<<rnd.IntN(16)))
		for k := range b {
			b[k] = byte(rnd.Uint32())
		}
		off := rnd.Int64N(1 << 18)
		done, err := q.WriteAt(quick, b, off)
		if err != nil {
			t.Fatalf("piece %d of %d bytes: %v", i, len(b), err)
		}
		if !done { // interrupted, say
			if _, err := quick.WriteAt(b, off); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := plain.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	same(t, quick, plain)
}

func same(t *testing.T, a, b *os.File) {
	t.Helper()
	x, err := os.ReadFile(a.Name())
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(x, y) {
		t.Errorf("the files differ: %d and %d bytes", len(x), len(y))
	}
}

// TestTailPutsPiecesOfAnySize: around the size from which the ordinary way is taken, and empty ones.
func TestTailPutsPiecesOfAnySize(t *testing.T) {
	f := scratch(t, t.TempDir(), "tail")
	var pieces [][]byte
	for i, n := range []int{28, 0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 7, 100 << 10, 3} {
		pieces = append(pieces, bytes.Repeat([]byte{byte('a' + i)}, n))
	}
	if err := sqlitequeue.TailPut(f, pieces); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, bytes.Join(pieces, nil)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestQuickWriterFailsTheSame: on a closed file, one that may only be read, and a full disk, the tail's error is the one of
// WriteAt.
func TestQuickWriterFailsTheSame(t *testing.T) {
	dir := t.TempDir()
	closed := scratch(t, dir, "closed")
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(scratch(t, dir, "read-only").Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	for name, tc := range map[string]struct {
		f    *os.File
		want error
	}{"closed": {closed, os.ErrClosed}, "read-only": {readOnly, syscall.EBADF}} {
		failsTheSame(t, name, tc.f, tc.want)
	}
}

func TestQuickWriterOnAFullDisk(t *testing.T) {
	dir := smallDisk(t)
	f := scratch(t, dir, "tail")
	free := ballast(t, dir)
	failsTheSame(t, "full", f, syscall.ENOSPC)
	free()
	if err := sqlitequeue.TailPut(f, [][]byte{[]byte("there is room again")}); err != nil {
		t.Error(err)
	}
}

func failsTheSame(t *testing.T, name string, f *os.File, want error) {
	t.Helper()
	piece := bytes.Repeat([]byte("x"), 9000)
	err := sqlitequeue.TailPut(f, [][]byte{piece})
	_, plain := f.WriteAt(piece, 0)
	var p, q *os.PathError
	if !errors.Is(err, want) || !errors.Is(plain, want) || !errors.As(err, &p) || !errors.As(plain, &q) || *p != *q {
		t.Errorf("%s: %v, WriteAt says %v", name, err, plain)
	}
}
