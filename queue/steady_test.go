package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestFault14ClockSteps steps the wall clock by an hour and a day, both ways, under a queue and a journal: nothing
// expires early, nothing is held for ever. As a control the same queue with the bare wall clock must go wrong.
func TestFault14ClockSteps(t *testing.T) {
	early, n, control := 0, 0, 0
	for _, step := range []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour} {
		n++
		wrong, err := stepClock(t.Context(), step, func(wall func() time.Time, elapsed func() time.Duration) func() time.Time {
			return steady(wall, elapsed)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range wrong {
			t.Errorf("a step of %v: %s", step, w)
			early++
		}
		wrong, err = stepClock(t.Context(), step, func(wall func() time.Time, _ func() time.Duration) func() time.Time { return wall })
		if err != nil {
			t.Fatal(err)
		}
		if len(wrong) > 0 {
			control++
		}
	}
	if control != n {
		t.Errorf("the control went wrong in %d of %d rounds only: the test can't tell a step", control, n)
	}
	t.Logf("row 14 clock steps: rounds %d, survived %d, lost %d (the control with the wall clock went wrong %d times)", n, n-early, early, control)
}

// stepClock runs a queue and a journal over a step of the wall clock and returns what went wrong.
func stepClock(ctx context.Context, step time.Duration, mk func(func() time.Time, func() time.Duration) func() time.Time) (wrong []string, err error) {
	var mu sync.Mutex // the queue's writer reads the clock too
	wallNow, gone := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC), time.Duration(0)
	pass := func(d, jump time.Duration) {
		mu.Lock()
		wallNow, gone = wallNow.Add(d+jump), gone+d
		mu.Unlock()
	}
	clock := mk(func() time.Time { mu.Lock(); defer mu.Unlock(); return wallNow },
		func() time.Duration { mu.Lock(); defer mu.Unlock(); return gone })
	q := New(NewMemory(), Options{Clock: clock, Lease: time.Minute, Pace: -1, Retention: 2 * time.Hour})
	defer q.Close()
	j := NewMemoryJournal(clock)
	var jobs []Job
	for range 2 {
		if _, err := q.Enqueue(ctx, Job{}); err != nil {
			return nil, err
		}
		job, err := q.Next(ctx, ClaimOptions{})
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, job)
	}
	waits, err := q.Enqueue(ctx, Job{Deadline: clock().Add(10 * time.Minute)})
	if err == nil {
		err = q.Finish(ctx, jobs[1].Lease, Result{})
	}
	if err == nil {
		err = j.Append(ctx, "s", 1, 0, nil)
	}
	if err != nil {
		return nil, err
	}
	expect := func(when string, want map[string]State) {
		q.Sweep()
		if err := q.Housekeep(ctx); err != nil {
			wrong = append(wrong, err.Error())
		}
		for id, state := range want {
			if job, err := q.Get(ctx, id); err != nil || job.State != state {
				wrong = append(wrong, fmt.Sprintf("%s a job is %s, should be %s (%v)", when, job.State, state, err))
			}
		}
	}
	pass(50*time.Second, step)
	expect("after the step", map[string]State{jobs[0].ID: Running, jobs[1].ID: Complete, waits.ID: Queued})
	if n, err := j.Expire(ctx, clock().Add(-30*time.Minute)); n != 0 || err != nil {
		wrong = append(wrong, fmt.Sprintf("%d streams expired (%v)", n, err))
	}
	pass(11*time.Second, 0)
	expect("a lease later", map[string]State{jobs[0].ID: Queued})
	pass(10*time.Minute, 0)
	expect("after the deadline", map[string]State{waits.ID: Failed})
	return wrong, nil
}

// TestCutoffFollowsElapsedTime: a moment that was computed from time.Now means its age, whatever the wall clock says.
func TestCutoffFollowsElapsedTime(t *testing.T) {
	now := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // a clock that is years off
	got := Cutoff(time.Now().Add(-time.Hour), now)
	if d := now.Sub(got); d < time.Hour || d > time.Hour+time.Minute {
		t.Errorf("an hour became %v", d)
	}
	fixed := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := Cutoff(fixed, now); !got.Equal(fixed) {
		t.Errorf("a fixed time became %v", got)
	}
}

// TestLineKeepsOrder compares the treap with sorting.
func TestLineKeepsOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	c := newClass()
	var all []*entry
	for i := range 2000 {
		if len(all) > 0 && rnd.IntN(3) == 0 {
			k := rnd.IntN(len(all))
			c.remove(all[k])
			all[k] = all[len(all)-1]
			all = all[:len(all)-1]
			continue
		}
		e := &entry{rec: Record{Rank: int64(rnd.IntN(50)), Key: int64(i + 1)}}
		c.insert(e)
		all = append(all, e)
	}
	var last *entry
	n := 0
	for w := c.walk(); w.peek() != nil; w.step() {
		if e := w.peek(); last != nil && !last.less(e) {
			t.Fatalf("%d/%d comes after %d/%d", e.rec.Rank, e.rec.Key, last.rec.Rank, last.rec.Key)
		}
		last = w.peek()
		n++
	}
	if n != len(all) || n != c.n {
		t.Errorf("%d entries, want %d", n, len(all))
	}
}

// TestMinter checks that ids sort by time, hold their key and differ, also when the clock goes back.
func TestMinter(t *testing.T) {
	m := newMinter(nil)
	now := time.Now()
	last, seen := "", map[string]bool{}
	for i := range 5000 {
		id, key := m.next(now.Add(time.Duration(i%7-3) * time.Second))
		got, ok := ParseID(id)
		if !ok || got != key || seen[id] || id <= last {
			t.Fatalf("id %q after %q, key %d %d", id, last, key, got)
		}
		seen[id], last = true, id
	}
	if key := KeyBefore(now.Add(time.Hour)); key <= m.last {
		t.Errorf("KeyBefore(in an hour) = %d, a key is %d", key, m.last)
	}
	if _, err := New(NewMemory(), Options{}).Get(context.Background(), "job_../../etc"); err == nil {
		t.Error("a made-up id was found")
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("job_07yrmyfd13735p3hanbhg")
	f.Add("job_zzzzzzzzzzzzzzzzzzzzz")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		key, ok := ParseID(s)
		if !ok {
			return
		}
		again, ok := ParseID(makeID(key, 1))
		if !ok || again != key || key <= 0 {
			t.Errorf("%q: key %d, again %d", s, key, again)
		}
	})
}
