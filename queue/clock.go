package queue

import (
	"sync/atomic"
	"time"
)

// steady is a clock that reads the wall once and then goes by elapsed (monotonic) time: a step of the system clock
// moves nothing.
func steady(wall func() time.Time, elapsed func() time.Duration) func() time.Time {
	start := wall().Round(0).Add(-elapsed())
	return func() time.Time { return start.Add(elapsed()) }
}

// SystemClock returns a clock that starts at the system's time and then goes by elapsed time, the time that the
// machine slept included: a step of the system clock expires nothing and holds nothing for ever. It takes effect
// when the program is started again.
func SystemClock() func() time.Time {
	start, before := time.Now(), suspended()
	var slept, looked atomic.Int64
	elapsed := func() time.Duration {
		d := time.Since(start)
		if last := looked.Load(); int64(d)-last > int64(time.Second) && looked.CompareAndSwap(last, int64(d)) {
			// whole tenths of a second: the two clocks are not read at one instant
			if v := int64((suspended() - before).Round(100 * time.Millisecond)); v > slept.Load() {
				slept.Store(v)
			}
		}
		return d + time.Duration(slept.Load())
	}
	return steady(func() time.Time { return start }, elapsed)
}
