package retryhttp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queen-rbee/queen-rbee/retry"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaky answers the given statuses in turn, 0 meaning that the connection is cut after the request was read, then 200.
func flaky(t *testing.T, statuses ...int) (*httptest.Server, *atomic.Int32) {
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		i := int(n.Add(1)) - 1
		switch {
		case i >= len(statuses):
			w.Write(body)
		case statuses[i] == 0:
			panic(http.ErrAbortHandler)
		default:
			w.WriteHeader(statuses[i])
		}
	}))
	t.Cleanup(s.Close)
	return s, &n
}

func client(t *testing.T, o Options) *http.Client {
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	if o.Initial == 0 {
		o.Initial = time.Millisecond
	}
	return Wrap(&http.Client{Transport: base}, o)
}

func do(t *testing.T, c *http.Client, method, url, body string, header ...string) (string, int, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), resp.StatusCode, err
}

func TestSafeRequestsAreRepeatedWithTheirBody(t *testing.T) {
	s, n := flaky(t, 502, 0, 503)
	got, status, err := do(t, client(t, Options{}), "PUT", s.URL, "payload")
	if err != nil || status != 200 || got != "payload" || n.Load() != 4 {
		t.Fatalf("%q %d %v after %d", got, status, err, n.Load())
	}
}

func TestPostIsNotSentAgainOnceItMayHaveBeenRead(t *testing.T) {
	for _, status := range []int{0, 502, 503, 429} {
		s, n := flaky(t, status, status)
		do(t, client(t, Options{}), "POST", s.URL, "x")
		if n.Load() != 1 {
			t.Errorf("after %d the server read the POST %d times", status, n.Load())
		}
	}
	s, n := flaky(t, 0, 502)
	got, _, err := do(t, client(t, Options{}), "POST", s.URL, "x", "Idempotency-Key", "k1")
	if err != nil || got != "x" || n.Load() != 3 {
		t.Errorf("with a key: %q %v after %d", got, err, n.Load())
	}
}

// refuser fails the first dials.
type refuser struct{ left atomic.Int32 }

func (r *refuser) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if r.left.Add(-1) >= 0 {
		return nil, errors.New("no route yet")
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

func TestPostIsSentAgainWhenNoByteLeft(t *testing.T) {
	s, n := flaky(t)
	r := &refuser{}
	r.left.Store(2)
	base := &http.Transport{DialContext: r.dial}
	defer base.CloseIdleConnections()
	c := Wrap(&http.Client{Transport: base}, Options{Initial: time.Millisecond})
	got, _, err := do(t, c, "POST", s.URL, "x")
	if err != nil || got != "x" || n.Load() != 1 {
		t.Fatalf("%q %v after %d", got, err, n.Load())
	}
}

func TestBodyThatCannotBeRewoundIsSentOnce(t *testing.T) {
	s, n := flaky(t, 503, 503)
	c := client(t, Options{})
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", s.URL, io.MultiReader(strings.NewReader("x")))
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 503 || n.Load() != 1 {
		t.Fatalf("%d after %d", resp.StatusCode, n.Load())
	}
}

func TestAnswersThatStand(t *testing.T) {
	for _, status := range []int{400, 404, 500, 501} {
		s, n := flaky(t, status, status)
		if _, got, err := do(t, client(t, Options{}), "GET", s.URL, ""); err != nil || got != status || n.Load() != 1 {
			t.Errorf("%d: got %d %v after %d", status, got, err, n.Load())
		}
	}
}

func TestLastAnswerIsReturned(t *testing.T) {
	s, n := flaky(t, 503, 503, 503, 503, 503, 503)
	if _, got, err := do(t, client(t, Options{Attempts: 3}), "GET", s.URL, ""); err != nil || got != 503 || n.Load() != 3 {
		t.Errorf("got %d %v after %d", got, err, n.Load())
	}
}

func TestRetryAfterIsHonouredAndCapped(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"7": 7 * time.Second, "": 0, "x": 0, "-1": 0, "99999999999": 24 * time.Hour,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := parseRetryAfter(http.Header{"Retry-After": {v}}, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
	var asked []time.Duration
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(429)
	}))
	defer srv.Close()
	c := client(t, Options{Attempts: 2, MaxRetryAfter: 2 * time.Millisecond, OnEvent: func(e retry.Event) { asked = append(asked, e.Delay) }})
	if _, got, err := do(t, c, "GET", srv.URL, ""); err != nil || got != 429 {
		t.Fatal(got, err)
	}
	if len(asked) != 2 || asked[0] != 2*time.Millisecond || asked[1] != 0 {
		t.Errorf("delays %v", asked)
	}
}

func TestBreakerPerHost(t *testing.T) {
	bad, n := flaky(t, 502, 502, 502, 502, 502, 502, 502, 502)
	good, _ := flaky(t)
	c := client(t, Options{Attempts: 1, Breaker: retry.BreakerOptions{Failures: 3}})
	for range 6 {
		do(t, c, "GET", bad.URL, "")
	}
	if n.Load() != 3 {
		t.Errorf("%d requests reached a host that fails", n.Load())
	}
	if _, _, err := do(t, c, "GET", bad.URL, ""); !errors.Is(err, retry.ErrOpen) {
		t.Errorf("open breaker: %v", err)
	}
	if _, status, err := do(t, c, "GET", good.URL, ""); err != nil || status != 200 {
		t.Errorf("other host: %d %v", status, err)
	}
}

// TestFault26RetryStormHTTP: a server that always answers 503 sees at most 1.2 attempts a request.
func TestFault26RetryStormHTTP(t *testing.T) {
	var hits atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		w.WriteHeader(503)
	}))
	defer srv.Close()
	c := client(t, Options{})
	const callers, each = 8, 50
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				do(t, c, "GET", srv.URL, "")
			}
		})
	}
	wg.Wait()
	ratio := float64(hits.Load()) / (callers * each)
	t.Logf("%d requests, %d attempts, %.3fx", callers*each, hits.Load(), ratio)
	if ratio > 1.2 || ratio < 1.05 {
		t.Errorf("%.3f attempts a request", ratio)
	}
}
