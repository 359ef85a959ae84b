package batches

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// Options of a Batches. The zero value is usable.
type Options struct {
	MaxLines    int           // lines of one batch, 0 = 50,000
	MaxFile     int64         // bytes of one file, 0 = 200 MiB
	Concurrency int           // lines of one batch in flight, 0 = 32
	Active      int           // batches that run at once, 0 = 4
	Window      time.Duration // until an unfinished batch expires, 0 = 24 h
	FlushEvery  time.Duration // finished lines are stored at least so often, 0 = 250 ms
	RetryWait   time.Duration // wait after a refusal that names no time, 0 = 1 s
	ReadTimeout time.Duration // longest pause of an upload, 0 = 60 s
	Clock       func() time.Time
	Log         *slog.Logger // nil = discard
}

func (o Options) withDefaults() Options {
	whole := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	span := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	whole(&o.MaxLines, 50_000)
	whole(&o.Concurrency, 32)
	whole(&o.Active, 4)
	if o.MaxFile <= 0 {
		o.MaxFile = 200 << 20
	}
	span(&o.Window, 24*time.Hour)
	span(&o.FlushEvery, 250*time.Millisecond)
	span(&o.RetryWait, time.Second)
	span(&o.ReadTimeout, time.Minute)
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Batches keeps files and runs batches. It is an http.Handler for httpserver.Options.Batches; Run does the work.
type Batches struct {
	store     Store
	submitter httpserver.Submitter
	o         Options
	wake      chan struct{}

	mu      sync.Mutex
	running map[string]context.CancelCauseFunc

	saving     sync.Mutex // held while a batch is read, changed and saved
	cancelling map[string]time.Time
}

var errCancelled = errors.New("the batch was cancelled")

// New makes a Batches over a store and whatever runs jobs.
func New(store Store, submitter httpserver.Submitter, o Options) (*Batches, error) {
	if store == nil || submitter == nil {
		return nil, errors.New("batches: a Store and a Submitter are needed")
	}
	return &Batches{store: store, submitter: submitter, o: o.withDefaults(), wake: make(chan struct{}, 1), running: map[string]context.CancelCauseFunc{},
		cancelling: map[string]time.Time{}}, nil
}

// Run executes batches until the context ends, those that an earlier run left unfinished first. What is unfinished when it
// returns is taken up by the next Run.
func (b *Batches) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, b.o.Active)
	again := time.NewTicker(30 * time.Second) // after a failure of the store
	defer again.Stop()
	for {
		unfinished, err := b.store.Unfinished(ctx)
		if err != nil && ctx.Err() == nil {
			b.o.Log.Error("batches can't be listed", "err", err)
		}
		for _, batch := range unfinished {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			bctx, ok := b.begin(ctx, batch.ID)
			if !ok {
				<-slots
				continue
			}
			wg.Go(func() {
				defer func() { b.finish(batch.ID); <-slots }()
				if err := b.carry(bctx, batch.ID); err != nil && ctx.Err() == nil {
					b.o.Log.Error("batch stopped and will be tried again", "batch", batch.ID, "err", err)
				}
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		case <-again.C:
		}
	}
}

func (b *Batches) begin(ctx context.Context, id string) (context.Context, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running[id] != nil {
		return nil, false
	}
	bctx, cancel := context.WithCancelCause(ctx)
	b.running[id] = cancel
	return bctx, true
}

func (b *Batches) finish(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[id](nil)
	delete(b.running, id)
}

// cancel marks a batch as to be cancelled and stops it. One that is final, or about to be, stays as it is.
func (b *Batches) cancel(ctx context.Context, id string) (Batch, error) {
	b.saving.Lock()
	defer b.saving.Unlock()
	batch, err := b.store.Batch(ctx, id)
	if err != nil || batch.Status.Final() || batch.Status == Finalizing || batch.Status == Cancelling {
		return batch, err
	}
	now := b.o.Clock()
	batch.mark(Cancelling, now)
	if err := b.store.SaveBatch(ctx, batch); err != nil {
		return batch, err
	}
	b.cancelling[id] = now
	b.stop(id)
	b.kick()
	return batch, nil
}

// mark gives the batch a status; the times are copied, so that earlier copies of the batch stay as they are.
func (b *Batch) mark(s Status, at time.Time) {
	b.Status = s
	times := map[Status]time.Time{s: at}
	for k, v := range b.At {
		if k != s {
			times[k] = v
		}
	}
	b.At = times
}

// stop cancels a running batch.
func (b *Batches) stop(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cancel := b.running[id]; cancel != nil {
		cancel(errCancelled)
	}
}

func (b *Batches) kick() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
