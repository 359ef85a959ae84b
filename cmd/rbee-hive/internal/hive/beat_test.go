package hive

import (
	"context"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func TestAskedBeat(t *testing.T) {
	for query, want := range map[string]time.Duration{"": beatEvery, "beat=x": beatEvery, "beat=1": beatEvery, "beat=20": 20 * time.Second, "beat=99999": beatMost} {
		q, _ := url.ParseQuery(query)
		if got := askedBeat(q); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
}

// The last watcher that asks decides, also while the hive is not beating yet.
func TestBeatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Hive{beats: make(chan time.Duration, 1), feed: newFeed(hiveapi.State{})}
		h.setBeat(10 * time.Second)
		h.setBeat(30 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { h.beat(ctx); close(done) }()
		synctest.Wait()
		if len(h.beats) != 0 {
			t.Error("the new interval was not taken")
		}
		cancel()
		<-done
	})
}
