package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// firstToken streams one completion and returns the time to its first token; 0 when it was refused.
func (q *queen) firstToken(ctx context.Context, key string) time.Duration {
	began := time.Now()
	res, err := q.do(ctx, "POST", "/v1/completions", `{"model":"demo","prompt":"hello there","max_tokens":10,"stream":true}`, "Authorization", "Bearer "+key)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != 200 {
		_, _ = io.Copy(io.Discard, res.Body)
		return 0
	}
	var first time.Duration
	_ = events(res.Body, func(ev event) bool {
		if first == 0 && strings.Contains(ev.data, `"text"`) {
			first = time.Since(began)
		}
		return true
	})
	return first
}

// steady has n clients of one tenant ask again and again, each so many times, and returns the sorted times.
func (q *queen) steady(ctx context.Context, key string, n, each int) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for range each {
				if ctx.Err() != nil {
					return
				}
				if d := q.firstToken(ctx, key); d > 0 {
					mu.Lock()
					all = append(all, d)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(time.Millisecond)
}

// fleet loads so many workers of the model demo, which take so much of the device that one more has no room: a queen that
// can give a flood more workers than it has requests would prove nothing.
func (q *queen) fleet(admin, ref string, n int) {
	q.t.Helper()
	var hives struct {
		Nodes []struct {
			Devices []struct {
				Free int64 `json:"memory_free"`
			}
		}
	}
	q.until("the hive says what memory it has", 20*time.Second, func() bool {
		_, _, data := q.ask(admin, "GET", "/v2/registry/beehives/list", nil)
		mustUnmarshal(q.t, data, &hives)
		return len(hives.Nodes) == 1 && len(hives.Nodes[0].Devices) > 0 && hives.Nodes[0].Devices[0].Free > 0
	})
	most := int64(0)
	for _, d := range hives.Nodes[0].Devices {
		most = max(most, d.Free)
	}
	entry := fmt.Sprintf(`{"ref":"%s&memory=%dMiB","workers":%d}`, ref, most*3/4/int64(n)>>20, n)
	if status, _, data := q.ask(admin, "PUT", "/v2/models/demo", entry); status != 200 {
		q.t.Fatalf("PUT %s: %d %s", entry, status, data)
	}
	q.until("the workers are loaded", 60*time.Second, func() bool { return q.workers(admin, "idle") == n })
}

// workers counts those in one state, "" for all.
func (q *queen) workers(admin, state string) (n int) {
	q.t.Helper()
	var list struct{ Workers []struct{ State string } }
	_, _, data := q.ask(admin, "GET", "/v2/workers/list", nil)
	mustUnmarshal(q.t, data, &list)
	for _, w := range list.Workers {
		if state == "" || w.State == state {
			n++
		}
	}
	return n
}

// TestFloodIsFair measures a tenant's time to first token alone and beside another tenant's tenfold flood on the same
// workers. The short run only shows that everybody is served; the long one holds the figure of docs/bench/admission.md.
func TestFloodIsFair(t *testing.T) {
	q := start(t, "models: {}\n")
	admin := q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	quiet := q.makeKey(admin, `{"tenant_id":"quiet","scope":"infer"}`).Key
	loud := q.makeKey(admin, `{"tenant_id":"loud","scope":"infer"}`).Key
	const slots = 16
	q.fleet(admin, "sim:demo?ttft=300ms&itl=5ms&slots=1", slots)
	q.firstToken(t.Context(), quiet)
	const clients = 4
	each := long(10, 100)
	alone := q.steady(t.Context(), quiet, clients, each)

	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	var served []time.Duration
	flood.Go(func() { served = q.steady(ctx, loud, clients*10, 1<<20) })
	full := func() bool {
		_, _, data := q.ask(admin, "GET", "/v2/tasks?state=queued&limit=20", nil)
		return strings.Count(data, `"job_id"`) >= 15
	}
	q.until("the flood fills the line", 20*time.Second, full)
	beside := q.steady(t.Context(), quiet, clients, each)
	stop()
	flood.Wait()
	if n := q.workers(admin, ""); n != slots {
		t.Fatalf("%d workers: the flood was given room, which proves nothing", n)
	}
	ratio := float64(percentile(beside, 99)) / float64(percentile(alone, 99))
	t.Logf("time to first token, p50 and p99: alone %s %s (%d), beside the flood %s %s (%d), the flood's own %s %s (%d); p99 ratio %.2f",
		percentile(alone, 50), percentile(alone, 99), len(alone), percentile(beside, 50), percentile(beside, 99), len(beside),
		percentile(served, 50), percentile(served, 99), len(served), ratio)
	if len(alone) != clients*each || len(beside) != clients*each {
		t.Errorf("the quiet tenant was refused: %d and %d of %d", len(alone), len(beside), clients*each)
	}
	if os.Getenv("RBEE_LONG") == "1" && ratio > 1.5 {
		t.Errorf("the flood makes the quiet tenant's p99 %.2f times as long, at most 1.5 is allowed", ratio)
	}
}
