package sqlitequeue

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
)

// LockedError says who holds a store's file. errors.Is(err, queue.ErrLocked) is true.
type LockedError struct {
	Path    string
	PID     int
	Address string
}

// Error implements error.
func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	if e.Address != "" {
		who += " at " + e.Address
	}
	return fmt.Sprintf("sqlitequeue: %s is held by %s: stop that one or use another data directory", e.Path, who)
}

// Is makes errors.Is(err, queue.ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == queue.ErrLocked }

// Code returns the stable code of the error.
func (e *LockedError) Code() string { return "INTERNAL" }

// holder is what the lock file says of its holder.
type holder struct {
	PID     int    `json:"pid"`
	Address string `json:"address,omitempty"`
}

// lockFile takes the lock beside a store's file, or says who has it. The kernel frees it when the holder dies.
func lockFile(path, address string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqlitequeue: lock: %w", err)
	}
	// a holder that was just killed frees its lock in a moment
	for wait := time.Millisecond; ; wait *= 2 {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || wait > 256*time.Millisecond {
			break
		}
		time.Sleep(wait)
	}
	if err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("sqlitequeue: lock %s: %w", path, err)
		}
		var h holder
		_ = json.NewDecoder(f).Decode(&h) // an unreadable note leaves the holder unnamed
		return nil, &LockedError{Path: path, PID: h.PID, Address: h.Address}
	}
	note, err := json.Marshal(holder{PID: os.Getpid(), Address: address})
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(note, 0)
	}
	if err != nil && !full(err) { // on a full disk the lock holds without its note
		f.Close()
		return nil, fmt.Errorf("sqlitequeue: lock %s: %w", path, err)
	}
	return f, nil
}
