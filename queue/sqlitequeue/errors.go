package sqlitequeue

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mattn/go-sqlite3"
	"github.com/queen-rbee/queen-rbee/queue"
)

// full reports whether an error says that the disk, or the quota, is full.
func full(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	var se sqlite3.Error
	if !errors.As(err, &se) {
		return false
	}
	return se.Code == sqlite3.ErrFull || se.SystemErrno == syscall.ENOSPC || se.SystemErrno == syscall.EDQUOT ||
		se.ExtendedCode == sqlite3.ErrIoErrSHMSize
}

// busy reports whether another connection has the write lock.
func busy(err error) bool {
	var se sqlite3.Error
	return errors.As(err, &se) && (se.Code == sqlite3.ErrBusy || se.Code == sqlite3.ErrLocked)
}

func corrupt(err error) bool {
	var se sqlite3.Error
	return errors.As(err, &se) && (se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB)
}

// typed wraps a driver's error in the queue's own.
func typed(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case full(err):
		return fmt.Errorf("%w (%s: %w)", queue.ErrStorageFull, path, err)
	case corrupt(err):
		return fmt.Errorf("%w: %s: %w: restore it from a backup, or move it away to begin anew", queue.ErrCorrupt, path, err)
	}
	return fmt.Errorf("sqlitequeue: %s: %w", path, err)
}

func errCorrupt() error { return queue.ErrCorrupt }
