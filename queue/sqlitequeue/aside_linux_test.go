//go:build linux && (amd64 || arm64)

package sqlitequeue_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// delayed reports whether the file system has not yet chosen where on the disk a file's bytes go: those of a file that was
// synced have a place (FIEMAP, linux/fiemap.h).
func delayed(t *testing.T, f *os.File) bool {
	t.Helper()
	var m struct {
		start, length            uint64
		flags, mapped, count, _  uint32
		logical, physical, bytes uint64
		_                        [2]uint64
		extent, _, _, _          uint32
	}
	m.length, m.count = 1<<20, 1
	const fiemap, noPlace = 0xc020660b, 2 | 4 // FS_IOC_FIEMAP; FIEMAP_EXTENT_UNKNOWN, FIEMAP_EXTENT_DELALLOC
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fiemap, uintptr(unsafe.Pointer(&m))); errno != 0 {
		t.Skipf("data: the file system here does not say where a file's bytes are: %v", errno)
	}
	return m.mapped == 0 || m.extent&noPlace != 0
}

// TestAsideSyncs looks at what the file system knows of a file before and after.
func TestAsideSyncs(t *testing.T) {
	a := sqlitequeue.NewAside()
	defer a.Close()
	for range 3 {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
		if !delayed(t, f) {
			t.Skip("data: the file system here writes at once")
		}
		if err := a.Sync(f); err != nil {
			t.Fatal(err)
		}
		if delayed(t, f) {
			t.Error("the file has no place on the disk after its sync")
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAsideTellsErrors: a file that can't be synced says so, a closed one too, and the next one is synced.
func TestAsideTellsErrors(t *testing.T) {
	a := sqlitequeue.NewAside()
	defer a.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := a.Sync(w); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a pipe: %v", err)
	}
	if err := a.Sync(f); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Sync(f); err == nil {
		t.Error("a closed file was synced")
	}
	a.Close()
	again, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := a.Sync(again); err != nil { // in the ordinary way
		t.Error(err)
	}
}
