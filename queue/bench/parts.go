package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queen-rbee/queen-rbee/queue"
	"github.com/queen-rbee/queen-rbee/queue/sqlitequeue"
)

// makers opens each subject by name.
func makers(ctx context.Context) map[string]func(path string) (subject, error) {
	return map[string]func(string) (subject, error){
		"ours":   func(p string) (subject, error) { return newOurs(ctx, p) },
		"goqite": func(p string) (subject, error) { return newGoqite(ctx, p) },
		"River":  func(p string) (subject, error) { return newRiver(ctx, p, 0, nil) },
		"plain":  func(p string) (subject, error) { return newPlain(ctx, p) },
	}
}

// turns measures the named subjects in turn, b.n times, each on a fresh file, and returns the medians.
func (b *bench) turns(ctx context.Context, names []string, fn func(subject) (float64, error)) (map[string]float64, error) {
	all := map[string][]float64{}
	for range b.n {
		for _, name := range names {
			path, clean, err := b.path(name)
			if err != nil {
				return nil, err
			}
			s, err := makers(ctx)[name](path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			v, err := fn(s)
			if err = errors.Join(err, s.close()); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			clean()
			all[name] = append(all[name], v)
		}
	}
	out := map[string]float64{}
	for name, v := range all {
		out[name] = median(v)
	}
	return out, nil
}

func (b *bench) enqueue(ctx context.Context) error {
	for _, c := range []struct {
		callers int
		anchors map[string]float64
	}{
		{256, map[string]float64{"goqite": 15, "River": 10}},
		{16, map[string]float64{"goqite": 2}},
		{1, map[string]float64{"plain": 0.8}},
	} {
		names := []string{"ours"}
		for _, a := range []string{"goqite", "River", "plain"} {
			if c.anchors[a] > 0 {
				names = append(names, a)
			}
		}
		got, err := b.turns(ctx, names, func(s subject) (float64, error) {
			return rate(c.callers, b.d, func(int) error { return s.enqueue(ctx) })
		})
		if err != nil {
			return err
		}
		for _, a := range names[1:] {
			ratio := got["ours"] / got[a]
			b.row(fmt.Sprintf("enqueue, %d caller(s), against %s", c.callers, a), perSecond(got["ours"]), perSecond(got[a]),
				ratio, fmt.Sprintf("at least %gx", c.anchors[a]), ratio >= c.anchors[a])
		}
	}
	return nil
}

// work measures 256 workers that claim and complete what was stored before.
func (b *bench) work(ctx context.Context) error {
	got, err := b.turns(ctx, []string{"ours", "goqite"}, func(s subject) (float64, error) {
		fill, callers := 40_000, 256
		if _, slow := s.(*goq); slow {
			fill = 3_000
		}
		var left atomic.Int64
		left.Store(int64(fill))
		var wg sync.WaitGroup
		var failed atomic.Value
		for range callers {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if err := s.enqueue(ctx); err != nil {
						failed.Store(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err, ok := failed.Load().(error); ok {
			return 0, err
		}
		wctx, cancel := context.WithTimeout(ctx, b.d)
		defer cancel()
		var n atomic.Int64
		start := time.Now()
		_, err := rate(callers, b.d, func(int) error {
			ok, err := s.work(wctx)
			if ok {
				n.Add(1)
			}
			return err
		})
		return float64(n.Load()) / time.Since(start).Seconds(), err
	})
	if err != nil {
		return err
	}
	ratio := got["ours"] / got["goqite"]
	b.row("claim and complete, 256 workers, against goqite", perSecond(got["ours"]), perSecond(got["goqite"]), ratio, "at least 15x", ratio >= 15)
	return nil
}

// every is the time between two jobs of the latency part.
const every = 10 * time.Millisecond

// latency measures from the call of enqueue to the start of the work, at 100 jobs a second.
func (b *bench) latency(ctx context.Context) error {
	n := int(3 * b.d / every)
	mine, err := b.ourLatency(ctx, n)
	if err != nil {
		return err
	}
	best := time.Hour
	for _, poll := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		theirs, err := b.riverLatency(ctx, n, poll)
		if err != nil {
			return err
		}
		best = min(best, theirs)
	}
	ratio := float64(mine) / float64(best)
	b.row("enqueue to start, p50 at 100 jobs/s, against River with its best polling of 1, 5 and 20 ms",
		mine.Round(10*time.Microsecond).String(), best.Round(10*time.Microsecond).String(), ratio, "at most 0.2", ratio <= 0.2)
	return nil
}

func (b *bench) ourLatency(ctx context.Context, n int) (time.Duration, error) {
	path, clean, err := b.path("ours")
	if err != nil {
		return 0, err
	}
	defer clean()
	o, err := newOurs(ctx, path)
	if err != nil {
		return 0, err
	}
	var took []time.Duration
	done := make(chan error, 1)
	go func() {
		for range n {
			j, err := o.q.Next(ctx, queue.ClaimOptions{Worker: "w"})
			if err == nil {
				took = append(took, time.Since(j.Submitted))
				err = o.q.Finish(ctx, j.Lease, queue.Result{})
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range n {
		time.Sleep(every)
		if _, err := o.q.Submit(queue.Job{Submitted: time.Now(), Payload: o.b}); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(<-done, o.close()); err != nil {
		return 0, err
	}
	return median(took), nil
}

func (b *bench) riverLatency(ctx context.Context, n int, poll time.Duration) (time.Duration, error) {
	path, clean, err := b.path("river")
	if err != nil {
		return 0, err
	}
	defer clean()
	var mu sync.Mutex
	var took []time.Duration
	r, err := newRiver(ctx, path, poll, func(d time.Duration) { mu.Lock(); took = append(took, d); mu.Unlock() })
	if err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	for range n {
		time.Sleep(every)
		wg.Go(func() { _ = r.enqueue(ctx) }) // the delay is counted from here, as above
	}
	wg.Wait()
	time.Sleep(200 * time.Millisecond)
	if err := r.close(); err != nil {
		return 0, err
	}
	mu.Lock()
	defer mu.Unlock()
	if len(took) < n/2 {
		return 0, fmt.Errorf("river ran %d jobs of %d", len(took), n)
	}
	return median(took), nil
}

// claim measures a claim with few and with a million finished rows beside it.
func (b *bench) claim(ctx context.Context) error {
	p50 := func(finished int) (time.Duration, error) {
		path, clean, err := b.path("claim")
		if err != nil {
			return 0, err
		}
		defer clean()
		s, err := sqlitequeue.Open(ctx, path, sqlitequeue.Options{})
		if err != nil {
			return 0, err
		}
		defer s.Close()
		if err := fillFinished(ctx, s, finished); err != nil {
			return 0, err
		}
		q := queue.New(s, queue.Options{})
		defer q.Close()
		for range 600 {
			if _, err := q.Submit(queue.Job{Model: "m", Payload: payload()}); err != nil {
				return 0, err
			}
		}
		var took []time.Duration
		for range 500 {
			t := time.Now()
			if _, err := q.Next(ctx, queue.ClaimOptions{Worker: "w"}); err != nil {
				return 0, err
			}
			took = append(took, time.Since(t))
		}
		return median(took), nil
	}
	small, err := p50(1000)
	if err != nil {
		return err
	}
	large, err := p50(1_000_000)
	if err != nil {
		return err
	}
	ratio := float64(large) / float64(small)
	b.row("claim p50, 1,000,000 finished rows against 1,000", large.Round(time.Microsecond).String(),
		small.Round(time.Microsecond).String(), ratio, "at most 1.5", ratio <= 1.5)
	return nil
}

// ready measures how long a program takes to have its queue again: opening the file and Recover.
func (b *bench) ready(ctx context.Context) error {
	path, clean, err := b.path("ready")
	if err != nil {
		return err
	}
	defer clean()
	s, err := sqlitequeue.Open(ctx, path, sqlitequeue.Options{})
	if err != nil {
		return err
	}
	err = fillFinished(ctx, s, 100_000)
	q := queue.New(s, queue.Options{})
	for range 10_000 {
		if err == nil {
			_, err = q.Submit(queue.Job{Tenant: "t", Model: "m", Payload: make([]byte, 2048)})
		}
	}
	if err = errors.Join(err, q.Close(), s.Close()); err != nil {
		return err
	}
	begin := time.Now()
	if s, err = sqlitequeue.Open(ctx, path, sqlitequeue.Options{}); err != nil {
		return err
	}
	q = queue.New(s, queue.Options{})
	jobs, err := q.Recover(ctx)
	took := time.Since(begin)
	if err = errors.Join(err, q.Close(), s.Close()); err == nil && len(jobs) != 10_000 {
		err = fmt.Errorf("%d jobs were recovered", len(jobs))
	}
	b.row("ready with 10,000 waiting jobs of 2 KB and 100,000 finished ones", took.Round(time.Millisecond).String(), "-",
		took.Seconds()/2, "at most 2 s", took <= 2*time.Second)
	return err
}

// fillFinished stores finished jobs in large groups.
func fillFinished(ctx context.Context, s *sqlitequeue.Store, n int) error {
	q := queue.New(queue.NewMemory(), queue.Options{})
	for done := 0; done < n; {
		var ops []*queue.Op
		for range min(10_000, n-done) {
			rec, err := q.Prepare(queue.Job{Tenant: "t", Model: "m"})
			if err != nil {
				return err
			}
			rec.State, rec.Completed = queue.Complete, rec.Submitted
			ops = append(ops, &queue.Op{Kind: queue.OpInsert, Record: rec, Scrub: true})
		}
		if err := s.Apply(ctx, ops); err != nil {
			return err
		}
		done += len(ops)
	}
	return nil
}

// journal measures 200 streams of 20 frames a second, each appended before it would be emitted.
func (b *bench) journal(ctx context.Context) error {
	const streams, perSec = 200, 20
	path, clean, err := b.path("journal")
	if err != nil {
		return err
	}
	defer clean()
	j, err := sqlitequeue.OpenJournal(ctx, path, sqlitequeue.Options{})
	if err != nil {
		return err
	}
	// the pace itself costs timers and wake-ups: measured alone, it is taken off
	idle, _, _, err := pace(streams, perSec, 3*b.d, func(int, uint64, []byte) error { return nil })
	if err != nil {
		return err
	}
	used, frames, took, err := pace(streams, perSec, 5*b.d, func(s int, seq uint64, data []byte) error {
		return j.Append(ctx, fmt.Sprintf("job_%d", s), seq, 1, data)
	})
	if err = errors.Join(err, j.Close()); err != nil {
		return err
	}
	per := used - idle
	b.row(fmt.Sprintf("journal, 200 streams x 20 frames/s appended before emitted (%d frames): CPU per frame", frames),
		fmt.Sprintf("%.1f us", per), fmt.Sprintf("pace alone %.1f us", idle), per/10, "at most 10 us", per <= 10)
	p50 := median(took)
	b.row("the same: p50 of the added delay", p50.Round(100*time.Nanosecond).String(), "-", float64(p50)/2e6, "under 2 ms", p50 < 2*time.Millisecond)
	return nil
}

// pace calls fn for frames of many streams at a steady rate; it returns microseconds of CPU per frame and how long
// the calls took.
func pace(streams, perSec int, d time.Duration, fn func(stream int, seq uint64, data []byte) error) (float64, int, []time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var first error
	var wg sync.WaitGroup
	gap := time.Second / time.Duration(perSec)
	start, used := time.Now(), cpu()
	for s := range streams {
		wg.Go(func() {
			time.Sleep(gap * time.Duration(s) / time.Duration(streams))
			tick := time.NewTicker(gap)
			defer tick.Stop()
			var took []time.Duration
			var err error
			for seq := uint64(1); err == nil && time.Since(start) < d; seq++ {
				<-tick.C
				data := fmt.Appendf(nil, "data: {\"id\":\"chatcmpl-%d\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,"+
					"\"model\":\"tiny\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"finish_reason\":null}]}\n\n", s, seq)
				t := time.Now()
				err = fn(s, seq, data)
				took = append(took, time.Since(t))
			}
			mu.Lock()
			all = append(all, took...)
			first = errors.Join(first, err)
			mu.Unlock()
		})
	}
	wg.Wait()
	return float64((cpu() - used).Microseconds()) / float64(len(all)), len(all), all, first
}
