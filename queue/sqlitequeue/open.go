// Package sqlitequeue keeps a queue's jobs and a journal's frames in SQLite files. Open gives the queue.Store: a file in
// WAL mode, and a tail file beside it in which a change is acknowledged, synced, before SQLite has it. OpenJournal gives the
// queue.Journal: a second file, and tail files of its own, which make an appended frame survive the death of the
// process within microseconds. Each file is locked for one process.
package sqlitequeue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver
	"github.com/queen-rbee/queen-rbee/queue"
)

// Durability says what a commit survives.
type Durability uint8

const (
	// Power: a commit survives a power cut (synchronous=FULL). The default.
	Power Durability = iota
	// Process: a commit survives the death of the process, not of the machine (synchronous=NORMAL).
	Process
)

// Options adjusts a store or a journal. The zero value is usable.
type Options struct {
	// Durability of the job store; the journal is always synced once a second.
	Durability Durability
	// Address is named beside the pid to whoever finds the file locked.
	Address string
	// Settle is how often a journal moves frames from its tail into SQLite: 1 s when zero. The job store does so half as often.
	Settle time.Duration
	// Linger is how long a buffered frame may be kept from the tail file: 50 ms when zero.
	Linger time.Duration
	// Sync is how often the journal's tail is synced to disk: 1 s when zero.
	Sync time.Duration
	// TailSize is the size at which the journal's tail is emptied: 64 MiB when zero.
	TailSize int64
	// Ended says of a frame's meta that nothing follows it in its stream. A short stream that is over by the time it
	// moves into SQLite is then one row in one table. Nil: never.
	Ended func(meta uint32) bool
	// Clock must not step; nil uses the system's time at the start and elapsed time from then on.
	Clock func() time.Time
	// Logger gets what can't be returned; nil discards.
	Logger *slog.Logger

	fsync    func(*os.File) error // tests of power cuts replace it
	datasync func(*os.File) error // likewise; nil: aside
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Settle, time.Second)
	def(&o.Linger, 50*time.Millisecond)
	def(&o.Sync, time.Second)
	if o.Ended == nil {
		o.Ended = func(uint32) bool { return false }
	}
	if o.TailSize <= 0 {
		o.TailSize = 64 << 20
	}
	if o.Clock == nil {
		o.Clock = queue.SystemClock()
	}
	if o.fsync == nil {
		o.fsync = (*os.File).Sync
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// checkWhole is the size up to which a file is checked page by page when it is opened.
const checkWhole = 64 << 20

// database is one SQLite file: a connection that writes and a pool that reads.
type database struct {
	path   string
	writer *sql.DB
	w      *sql.Conn
	r      *sql.DB
	lock   *os.File
	owned  bool
}

// dsn names a file to the driver, its path escaped.
func dsn(path string, query url.Values) string {
	query.Set("_busy_timeout", "10000")
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// openDatabase locks and opens a file, creating it when there is none, and migrates it.
func openDatabase(ctx context.Context, path string, o Options, synchronous string, steps []string) (*database, error) {
	lock, err := lockFile(path, o.Address)
	if err != nil {
		return nil, err
	}
	d := &database{path: path, lock: lock, owned: true}
	if err := d.open(ctx, synchronous, steps, o); err != nil {
		return nil, errors.Join(typed(path, err), d.close())
	}
	return d, nil
}

func (d *database) open(ctx context.Context, synchronous string, steps []string, o Options) error {
	if err := private(d.path); err != nil {
		return err
	}
	var err error
	if d.writer, err = sql.Open("sqlite3", dsn(d.path, url.Values{"_journal_mode": {"WAL"}, "_synchronous": {synchronous}})); err != nil {
		return err
	}
	d.writer.SetMaxOpenConns(1)
	if d.w, err = d.writer.Conn(ctx); err != nil {
		return err
	}
	if d.r, err = sql.Open("sqlite3", dsn(d.path, url.Values{"_query_only": {"1"}})); err != nil {
		return err
	}
	d.r.SetMaxOpenConns(4)
	d.r.SetMaxIdleConns(4)
	return d.prepare(ctx, synchronous, steps, o)
}

// prepare checks a file and brings it to its newest version.
func (d *database) prepare(ctx context.Context, synchronous string, steps []string, o Options) error {
	for _, p := range []string{
		"PRAGMA journal_mode = WAL", "PRAGMA synchronous = " + synchronous,
		"PRAGMA journal_size_limit = 67108864", "PRAGMA wal_autocheckpoint = 1000",
	} {
		if _, err := d.w.ExecContext(ctx, p); err != nil {
			return err
		}
	}
	if st, err := os.Stat(d.path); err == nil && st.Size() <= checkWhole {
		var verdict string
		if err := d.w.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
			return err
		}
		if verdict != "ok" {
			return fmt.Errorf("%w: %s: %s: restore it from a backup, or move it away to begin anew", errCorrupt(), d.path, verdict)
		}
	}
	if err := migrate(ctx, d.w, d.path, steps); err != nil {
		return err
	}
	return syncDir(filepath.Dir(d.path), o)
}

// syncDir makes the names in a directory survive a power cut: above all, that the rollback journal which the switch
// to WAL used is gone. If it came back, SQLite would roll back into the time before.
func syncDir(path string, o Options) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = o.fsync(dir)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // this file system has no such thing
	}
	return errors.Join(err, dir.Close())
}

// private creates the file with mode 0600 when there is none, narrows it when it is wider, and refuses what is
// not a database.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if st.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return err
		}
	}
	if st.Size() == 0 {
		// SQLite would drop the log of an empty file: refuse, the file must have been lost
		if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
			return fmt.Errorf("%w: %s is empty or missing beside its -wal file: restore it from a backup, or move both away to begin anew", errCorrupt(), path)
		}
		return nil
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(f, head); err != nil || string(head) != "SQLite format 3\x00" {
		return fmt.Errorf("%w: %s is not a SQLite database: restore it from a backup, or move it away to begin anew", errCorrupt(), path)
	}
	return nil
}

// close releases everything that was opened.
func (d *database) close() error {
	var errs []error
	if d.r != nil && d.owned {
		errs = append(errs, d.r.Close())
	}
	if d.w != nil {
		errs = append(errs, d.w.Close())
	}
	if d.writer != nil && d.owned {
		errs = append(errs, d.writer.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}
