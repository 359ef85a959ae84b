package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver, for everybody alike
	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"maragu.dev/goqite"
)

// subject is a queue under measurement.
type subject interface {
	enqueue(ctx context.Context) error
	// work takes one job and completes it; ok is false when there is none.
	work(ctx context.Context) (ok bool, err error)
	close() error
}

// openDB opens SQLite as the anchors' authors advise, with an fsync per commit.
func openDB(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one writer at a time either way; more connections only wait in SQLite
	return db, nil
}

type ours struct {
	s *sqlitequeue.Store
	q *queue.Queue
	b []byte
}

func newOurs(ctx context.Context, path string) (*ours, error) {
	s, err := sqlitequeue.Open(ctx, path, sqlitequeue.Options{})
	if err != nil {
		return nil, err
	}
	return &ours{s: s, q: queue.New(s, queue.Options{Max: -1}), b: payload()}, nil
}

func (o *ours) enqueue(ctx context.Context) error {
	_, err := o.q.Enqueue(ctx, queue.Job{Tenant: "t", Model: "m", Payload: o.b})
	return err
}

func (o *ours) work(ctx context.Context) (bool, error) {
	j, err := o.q.Next(ctx, queue.ClaimOptions{Worker: "w"})
	if errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, o.q.Finish(context.Background(), j.Lease, queue.Result{})
}

func (o *ours) close() error { return errors.Join(o.q.Close(), o.s.Close()) }

type goq struct {
	db *sql.DB
	q  *goqite.Queue
	b  []byte
}

func newGoqite(ctx context.Context, path string) (*goq, error) {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "maragu.dev/goqite").Output()
	if err != nil {
		return nil, fmt.Errorf("run from the bench directory: %w", err)
	}
	schema, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "schema_sqlite.sql"))
	if err != nil {
		return nil, err
	}
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	if _, err := db.ExecContext(ctx, string(schema)); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &goq{db: db, q: goqite.New(goqite.NewOpts{DB: db, Name: "jobs", Timeout: time.Hour}), b: payload()}, nil
}

func (g *goq) enqueue(ctx context.Context) error { return g.q.Send(ctx, goqite.Message{Body: g.b}) }

func (g *goq) work(ctx context.Context) (bool, error) {
	m, err := g.q.Receive(context.WithoutCancel(ctx))
	if err != nil || m == nil {
		return false, err
	}
	return true, g.q.Delete(context.WithoutCancel(ctx), m.ID)
}

func (g *goq) close() error { return g.db.Close() }

// riverJob is River's way of saying what a job is.
type riverJob struct {
	Payload string `json:"payload"`
	Sent    int64  `json:"sent"`
}

// Kind implements river.JobArgs.
func (riverJob) Kind() string { return "bench" }

type riverWorker struct {
	river.WorkerDefaults[riverJob]
	started func(delay time.Duration)
}

// Work implements river.Worker.
func (w *riverWorker) Work(_ context.Context, j *river.Job[riverJob]) error {
	if w.started != nil {
		w.started(time.Duration(time.Now().UnixNano() - j.Args.Sent))
	}
	return nil
}

type rvr struct {
	db *sql.DB
	c  *river.Client[*sql.Tx]
	p  string
}

func newRiver(ctx context.Context, path string, poll time.Duration, started func(time.Duration)) (*rvr, error) {
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	driver := riversqlite.New(db)
	quiet := slog.New(slog.DiscardHandler)
	m, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet})
	if err == nil {
		_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	cfg := &river.Config{Logger: quiet}
	if started != nil {
		workers := river.NewWorkers()
		river.AddWorker(workers, &riverWorker{started: started})
		cfg.Workers, cfg.FetchCooldown, cfg.FetchPollInterval = workers, min(poll, time.Millisecond), poll
		cfg.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}}
	}
	c, err := river.NewClient(driver, cfg)
	if err == nil && started != nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &rvr{db: db, c: c, p: string(payload())}, nil
}

func (r *rvr) enqueue(ctx context.Context) error {
	_, err := r.c.Insert(ctx, riverJob{Payload: r.p, Sent: time.Now().UnixNano()}, nil)
	return err
}

func (r *rvr) work(context.Context) (bool, error) { return false, errors.New("river works by itself") }

func (r *rvr) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(ignoreNotStarted(r.c.Stop(ctx)), r.db.Close())
}

func ignoreNotStarted(err error) error {
	if err != nil && strings.Contains(err.Error(), "not started") {
		return nil
	}
	return err
}

// plain is the least that can be done: a prepared insert, a commit each.
type plain struct {
	db *sql.DB
	st *sql.Stmt
	b  []byte
}

func newPlain(ctx context.Context, path string) (*plain, error) {
	db, err := openDB(path)
	if err != nil {
		return nil, err
	}
	_, err = db.ExecContext(ctx, `CREATE TABLE jobs (key INTEGER PRIMARY KEY, tenant TEXT, model TEXT, state TEXT,
		submitted INTEGER, payload BLOB) STRICT`)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	st, err := db.PrepareContext(ctx, `INSERT INTO jobs (tenant, model, state, submitted, payload) VALUES (?, ?, ?, ?, ?)`)
	return &plain{db: db, st: st, b: payload()}, err
}

func (p *plain) enqueue(ctx context.Context) error {
	_, err := p.st.ExecContext(ctx, "t", "m", "queued", time.Now().UnixMicro(), p.b)
	return err
}

func (p *plain) work(context.Context) (bool, error) { return false, errors.New("only writes") }

func (p *plain) close() error { return p.db.Close() }
