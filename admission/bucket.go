package admission

import "time"

// bucket is a token bucket that can be refunded and overdrawn, which golang.org/x/time/rate's Limiter cannot: a job
// gives back what it reserved and did not use, and pays what it used beyond. at counts nanoseconds of the
// controller's monotonic clock.
type bucket struct {
	level float64
	at    time.Duration
}

// fill brings the bucket to now for a limit per minute (which is its size as well).
func (b *bucket) fill(now time.Duration, limit int64) {
	if now > b.at {
		b.level += float64(limit) * (now - b.at).Minutes()
		b.at = now
	}
	if b.level > float64(limit) {
		b.level = float64(limit)
	}
}

// wait is the time until n can be taken; n above the limit waits for a full bucket.
func (b *bucket) wait(n float64, limit int64) time.Duration {
	if n > float64(limit) {
		n = float64(limit)
	}
	short := n - b.level
	if short <= 0 {
		return 0
	}
	return time.Duration(short / float64(limit) * float64(time.Minute))
}

// window sums usage over the last 24 hours in steps of one hour.
type window struct {
	hours [25]int64 // the current hour and the 24 before it
	hour  int64     // index of the current one
	sum   int64
	jobs  int64
	perJ  [25]int64
}

func (w *window) roll(hour int64) {
	if hour <= w.hour {
		return
	}
	steps := hour - w.hour
	if steps > int64(len(w.hours)) {
		steps = int64(len(w.hours))
	}
	for i := int64(1); i <= steps; i++ {
		slot := (w.hour + i) % int64(len(w.hours))
		w.sum -= w.hours[slot]
		w.jobs -= w.perJ[slot]
		w.hours[slot], w.perJ[slot] = 0, 0
	}
	w.hour = hour
}

func (w *window) add(hour, tokens, jobs int64) {
	w.roll(hour)
	if hour <= w.hour-int64(len(w.hours)) || hour < 0 {
		return
	}
	slot := hour % int64(len(w.hours))
	w.hours[slot] += tokens
	w.perJ[slot] += jobs
	w.sum += tokens
	w.jobs += jobs
}

// free is how many hours pass until at least n of the sum has left the window.
func (w *window) free(n int64) int64 {
	for i := int64(1); i <= int64(len(w.hours)); i++ {
		if n -= w.hours[(w.hour+i)%int64(len(w.hours))]; n <= 0 {
			return i
		}
	}
	return int64(len(w.hours))
}
