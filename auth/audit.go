package auth

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Entry is one line of the audit log. Callers fill Actor, Action, Object and Detail; never put a secret or a prompt
// into any of them.
type Entry struct {
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Actor  string    `json:"actor"`
	Action string    `json:"action"`
	Object string    `json:"object,omitempty"`
	Detail string    `json:"detail,omitempty"`
	Prev   string    `json:"prev"` // hash of the line before, 64 hexadecimal digits
}

// Audit appends entries to a JSONL file. Each line holds the SHA-256 of the line before it, and the hash of the last
// line is kept in the store: an edited, reordered or missing line breaks the chain, a cut tail misses the anchor.
type Audit struct {
	mu    sync.Mutex
	file  *os.File
	store Store
	now   func() time.Time
	head  Head
}

// OpenAudit opens or makes the log (mode 0600) and checks it against the anchor in the store: ErrTampered when they
// differ. A last line that was written while the anchor was not (a crash between the two) is accepted.
func OpenAudit(ctx context.Context, path string, store Store, now func() time.Time) (*Audit, error) {
	if now == nil {
		now = time.Now
	}
	anchor, err := store.AuditHead(ctx)
	if err != nil {
		return nil, fmt.Errorf("auth: read audit head: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("auth: open audit log: %w", err)
	}
	head, end, err := verify(f, anchor)
	if err == nil {
		err = f.Truncate(end) // drops a torn last line, nothing else
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("auth: %s: %w", path, err)
	}
	if err := store.SetAuditHead(ctx, head); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("auth: anchor audit head: %w", err)
	}
	return &Audit{file: f, store: store, now: now, head: head}, nil
}

// Record appends one entry, syncs the file and moves the anchor.
func (a *Audit) Record(ctx context.Context, e Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	e.Seq, e.Time, e.Prev = a.head.Entries+1, a.now().UTC(), hex.EncodeToString(a.head.Hash[:])
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("auth: encode audit entry: %w", err)
	}
	if _, err := a.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("auth: write audit log: %w", err)
	}
	if err := a.file.Sync(); err != nil {
		return fmt.Errorf("auth: sync audit log: %w", err)
	}
	a.head = Head{Entries: e.Seq, Hash: sha256.Sum256(line)}
	return a.store.SetAuditHead(ctx, a.head)
}

// Close closes the file.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file.Close()
}

// VerifyAudit reads a log and checks its chain and its end against the anchor. It returns the head it found.
func VerifyAudit(r io.Reader, anchor Head) (Head, error) {
	head, _, err := verify(r, anchor)
	return head, err
}

// verify also returns where the last whole line ends.
func verify(r io.Reader, anchor Head) (head Head, end int64, err error) {
	anchored := anchor.Entries == 0
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			break // a line without its end was torn by a crash before it was anchored; if it was anchored, the end misses it
		}
		if err != nil {
			return head, end, errors.Join(ErrTampered, err)
		}
		end += int64(len(line))
		line = line[:len(line)-1]
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return head, end, fmt.Errorf("%w: line %d is not an entry", ErrTampered, head.Entries+1)
		}
		if e.Seq != head.Entries+1 || e.Prev != hex.EncodeToString(head.Hash[:]) {
			return head, end, fmt.Errorf("%w: line %d does not follow the one before it", ErrTampered, head.Entries+1)
		}
		head = Head{Entries: e.Seq, Hash: sha256.Sum256(line)}
		if head.Entries == anchor.Entries {
			if head.Hash != anchor.Hash {
				return head, end, fmt.Errorf("%w: line %d was changed", ErrTampered, head.Entries)
			}
			anchored = true
		}
	}
	if !anchored {
		return head, end, fmt.Errorf("%w: it ends at entry %d, the anchor says %d", ErrTampered, head.Entries, anchor.Entries)
	}
	if head.Entries > anchor.Entries+1 {
		return head, end, fmt.Errorf("%w: %d entries follow the anchor", ErrTampered, head.Entries-anchor.Entries)
	}
	return head, end, nil
}
