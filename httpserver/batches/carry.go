package batches

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// run is one batch being executed. The batch itself is guarded by mu: workers count, the collector stores.
type run struct {
	*Batches
	mu    sync.Mutex
	batch Batch
	done  map[int]bool // lines that an earlier run finished
	out   chan Line
}

// carry takes a batch from whatever status it has to a final one. An error means: try again later.
func (b *Batches) carry(ctx context.Context, id string) error {
	batch, err := b.store.Batch(ctx, id)
	if err != nil || batch.Status.Final() {
		return err
	}
	r := &run{Batches: b, batch: batch, done: map[int]bool{}}
	if r.batch.Status == Validating {
		if ok, err := r.validate(ctx); err != nil || !ok {
			return r.excuse(ctx, err)
		}
	}
	if r.batch.Status == InProgress {
		if err := r.execute(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errCancelled) {
		return ctx.Err()
	}
	return r.finalize(context.WithoutCancel(ctx))
}

// excuse lets a batch that was cancelled while it was validated end as cancelled.
func (r *run) excuse(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errCancelled) {
		return r.finalize(context.WithoutCancel(ctx))
	}
	return err
}

func (r *run) setStatus(ctx context.Context, s Status) error {
	r.mu.Lock()
	r.batch.mark(s, r.o.Clock())
	r.mu.Unlock()
	return r.save(ctx, nil)
}

// save stores the batch, and finished lines with it. A cancellation that came in meanwhile is kept.
func (r *run) save(ctx context.Context, lines []Line) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	at, cancelled := r.cancelling[r.batch.ID]
	switch {
	case r.batch.Status.Final():
		delete(r.cancelling, r.batch.ID)
	case cancelled:
		r.batch.mark(Cancelling, at)
	}
	batch := r.batch
	r.mu.Unlock()
	if len(lines) == 0 {
		return r.store.SaveBatch(ctx, batch)
	}
	return r.store.SaveLines(ctx, batch, lines)
}

// execute runs every line that has no result yet and stores results as they come.
func (r *run) execute(ctx context.Context) error {
	if err := r.recall(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithDeadlineCause(ctx, r.batch.Expires, context.DeadlineExceeded)
	defer cancel()
	r.out = make(chan Line, r.o.Concurrency)
	work := make(chan inputLine)
	var workers sync.WaitGroup
	for range r.o.Concurrency {
		workers.Go(func() {
			for l := range work {
				if res, ok := r.perform(ctx, l); ok {
					r.out <- res
				}
			}
		})
	}
	stored := make(chan error, 1)
	go func() { stored <- r.collect(context.WithoutCancel(ctx)) }()
	err := r.lines(ctx, func(l inputLine) error {
		if r.done[l.number] {
			return nil
		}
		select {
		case work <- l:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(work)
	workers.Wait()
	close(r.out)
	if serr := <-stored; serr != nil {
		return serr
	}
	if ctx.Err() != nil { // expired, cancelled, or the program ends: carry knows which
		return nil
	}
	return err
}

// recall reads which lines have results.
func (r *run) recall(ctx context.Context) error {
	r.batch.Completed, r.batch.Failed = 0, 0
	for after := 0; ; {
		lines, err := r.store.Lines(ctx, r.batch.ID, after, 1000)
		if err != nil || len(lines) == 0 {
			return err
		}
		for _, l := range lines {
			r.done[l.Number] = true
			r.count(l)
		}
		after = lines[len(lines)-1].Number
	}
}

func (r *run) count(l Line) {
	if l.Failed {
		r.batch.Failed++
	} else {
		r.batch.Completed++
	}
}

// collect stores finished lines in groups.
func (r *run) collect(ctx context.Context) error {
	tick := time.NewTicker(r.o.FlushEvery)
	defer tick.Stop()
	var group []Line
	var failed error
	flush := func() {
		if len(group) == 0 || failed != nil {
			return
		}
		r.mu.Lock()
		for _, l := range group {
			r.count(l)
		}
		r.mu.Unlock()
		if failed = r.save(ctx, group); failed != nil {
			r.stop(r.batch.ID)
		}
		group = group[:0]
	}
	for {
		select {
		case l, ok := <-r.out:
			if !ok {
				flush()
				return failed
			}
			if group = append(group, l); len(group) >= 256 {
				flush()
			}
		case <-tick.C:
			flush()
		}
	}
}

// finalize writes the output and error files and gives the batch its final status.
func (r *run) finalize(ctx context.Context) error {
	final := Completed
	if r.batch.Completed+r.batch.Failed < r.batch.Total {
		final = Expired
	}
	if r.batch.Status != Cancelling {
		if err := r.setStatus(ctx, Finalizing); err != nil {
			return err
		}
	}
	if r.batch.Status == Cancelling {
		final = Cancelled
	}
	if err := r.recount(ctx, final == Expired); err != nil {
		return err
	}
	var err error
	if r.batch.Output, err = r.write(ctx, false); err != nil {
		return err
	}
	if r.batch.ErrorFile, err = r.write(ctx, true); err != nil {
		return err
	}
	if err := r.setStatus(ctx, final); err != nil {
		return err
	}
	return r.store.DropLines(ctx, r.batch.ID)
}

// recount takes the counts from the stored lines; for an expired batch it adds an error for each line that did not run.
func (r *run) recount(ctx context.Context, expired bool) error {
	clear(r.done)
	if err := r.recall(ctx); err != nil || !expired {
		return err
	}
	var missing []Line
	err := r.lines(ctx, func(l inputLine) error {
		if !r.done[l.number] {
			missing = append(missing, failure(r.batch.ID, l, "batch_expired", "this line did not run before the batch's window ended"))
		}
		if len(missing) == 1000 {
			err := r.save(ctx, missing)
			missing = missing[:0]
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.save(ctx, missing); err != nil {
		return err
	}
	return r.recall(ctx)
}

// write makes the output or the error file; "" when it would be empty.
func (r *run) write(ctx context.Context, failed bool) (string, error) {
	kind := "output"
	if failed {
		kind = "error"
	}
	f := File{ID: "file-" + r.batch.ID + "-" + kind, Tenant: r.batch.Tenant, Name: r.batch.ID + "_" + kind + ".jsonl", Purpose: "batch_output", Created: r.o.Clock()}
	if err := r.store.DeleteFile(ctx, f.ID); err != nil { // of an earlier try
		return "", err
	}
	var buf bytes.Buffer
	flush := func() error {
		err := r.store.WriteChunk(ctx, f.ID, f.Chunks, buf.Bytes())
		f.Bytes += int64(buf.Len())
		f.Chunks++
		buf.Reset()
		return err
	}
	for after := 0; ; {
		lines, err := r.store.Lines(ctx, r.batch.ID, after, 500)
		if err != nil {
			return "", err
		}
		if len(lines) == 0 {
			break
		}
		for _, l := range lines {
			after = l.Number
			if l.Failed != failed {
				continue
			}
			buf.Write(l.Data)
			buf.WriteByte('\n')
			if buf.Len() >= chunkSize {
				if err := flush(); err != nil {
					return "", err
				}
			}
		}
	}
	if buf.Len() > 0 {
		if err := flush(); err != nil {
			return "", err
		}
	}
	if f.Bytes == 0 {
		return "", nil
	}
	if err := r.store.SaveFile(ctx, f); err != nil {
		return "", fmt.Errorf("save %s file: %w", kind, err)
	}
	return f.ID, nil
}
