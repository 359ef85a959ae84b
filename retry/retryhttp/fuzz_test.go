package retryhttp

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

// Whatever a server says, the wait is between nothing and a day, and a number is what it says.
func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, v := range []string{"", "0", "1", "-1", "120", "1e3", "9223372036854775807", "Sat, 28 Nov 2026 12:00:30 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
		"Saturday, 28-Nov-26 12:00:30 GMT", "Sat Nov 28 12:00:30 2026"} {
		f.Add(v, "")
		f.Add(v, v)
	}
	f.Fuzz(func(t *testing.T, after, ms string) {
		h := http.Header{"Retry-After": {after}}
		if ms != "" {
			h["Retry-After-Ms"] = []string{ms}
		}
		got := parseRetryAfter(h, now)
		const day = 24 * time.Hour
		if got < 0 || got > day {
			t.Fatalf("%q, %q: %v", after, ms, got)
		}
		if n, err := strconv.ParseInt(ms, 10, 64); err == nil && n >= 0 {
			if want := time.Duration(min(n, day.Milliseconds())) * time.Millisecond; got != want {
				t.Errorf("%q ms: %v, not %v", ms, got, want)
			}
			return
		}
		if n, err := strconv.ParseInt(after, 10, 64); err == nil && n >= 0 {
			if want := time.Duration(min(n, int64(day.Seconds()))) * time.Second; got != want {
				t.Errorf("%q s: %v, not %v", after, got, want)
			}
			return
		}
		at, err := http.ParseTime(after)
		if want := min(max(at.Sub(now), 0), day); err == nil && got != want || err != nil && got != 0 {
			t.Errorf("%q: %v", after, got)
		}
	})
}
