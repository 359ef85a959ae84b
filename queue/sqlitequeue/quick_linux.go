//go:build linux && (amd64 || arm64)

package sqlitequeue

import (
	"os"
	"syscall"
	"unsafe"
)

// quickWriter writes without telling the scheduler. Only one goroutine at a time may use it.
type quickWriter struct {
	raw syscall.RawConn
	fn  func(fd uintptr) bool
	b   []byte
	off int64
	n   int
	err error
}

// writeAt is pwrite(2), once; done is false when it was interrupted, or had no room, or the file
// is closed: the whole of it is to be tried in the ordinary way.
func (w *quickWriter) writeAt(f *os.File, b []byte, off int64) (done bool, err error) {
	if len(b) == 0 {
		return false, nil
	}
	if w.raw == nil {
		if w.raw, err = f.SyscallConn(); err != nil {
			return false, nil
		}
		w.fn = func(fd uintptr) bool {
			n, _, errno := syscall.RawSyscall6(syscall.SYS_PWRITE64, fd, uintptr(unsafe.Pointer(&w.b[0])), uintptr(len(w.b)), uintptr(w.off), 0, 0)
			if w.n, w.err = int(n), nil; errno != 0 {
				w.n, w.err = 0, errno
			}
			return true
		}
	}
	w.b, w.off = b, off
	err = w.raw.Write(w.fn)
	w.b = nil
	switch {
	case err != nil, w.err == syscall.EINTR: // a closed file, say, which the ordinary way has a name for
		return false, nil
	case w.err != nil:
		return true, &os.PathError{Op: "write", Path: f.Name(), Err: w.err}
	}
	return w.n == len(b), nil // else the ordinary way says why
}

// datasync is fdatasync(2).
func datasync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno error
	if err := raw.Control(func(fd uintptr) {
		for errno = syscall.Fdatasync(int(fd)); errno == syscall.EINTR; errno = syscall.Fdatasync(int(fd)) {
		}
	}); err != nil {
		return err
	}
	if errno != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: errno}
	}
	return nil
}

// cramped reports whether the file's disk has next to no room left.
func cramped(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var st syscall.Statfs_t
	err = raw.Control(func(fd uintptr) {
		if syscall.Fstatfs(int(fd), &st) != nil {
			st.Bavail = 1 << 62 // unknown: SQLite will say
		}
	})
	return err == nil && st.Bavail < crampedAt/max(uint64(st.Bsize), 1)
}
