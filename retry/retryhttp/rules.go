package retryhttp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/queen-rbee/queen-rbee/retry"
)

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the func.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// repeatable reports whether a request may be sent twice: by its method (RFC 9110, 9.2.2) or an idempotency key.
func repeatable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Header.Get("Idempotency-Key") != "" || req.Header.Get("X-Idempotency-Key") != ""
}

func bodyFunc(req *http.Request) func() (io.Reader, error) {
	return func() (io.Reader, error) { return req.GetBody() }
}

// attempt sends the request once, through the host's breaker.
func (c *call) attempt(req *http.Request) (*http.Response, error) {
	c.n++
	c.traced.Store(false)
	c.wrote.Store(false)
	if c.breaker == nil {
		return c.t.base.RoundTrip(req)
	}
	report, err := c.breaker.Allow()
	if err != nil {
		return nil, err
	}
	resp, err := c.t.base.RoundTrip(req)
	class := c.t.o.Classify(resp, err)
	fault := class == retry.Fault || class == retry.FatalStop
	if req.Context().Err() != nil {
		fault = false // the caller left
	}
	if fault && err == nil {
		report(false, errors.New(resp.Status))
	} else {
		report(!fault, err)
	}
	return resp, err
}

// check decides whether another attempt follows, and when.
func (c *call) check(ctx context.Context, resp *http.Response, err error, again bool) bool {
	class := c.t.o.Classify(resp, err)
	if err == nil && class == retry.Stop {
		return false
	}
	reason := ""
	c.delay = c.t.retrier.Backoff(c.n, retryAfter(resp, err))
	deadline, limited := ctx.Deadline()
	switch {
	case ctx.Err() != nil:
		reason = "cancelled"
	case errors.Is(err, retry.ErrOpen):
		reason = "breaker"
	case class == retry.Stop || class == retry.FatalStop || !again || !c.safe && c.mayBeRead(resp, err):
		reason = "permanent"
	case c.n >= c.t.o.Attempts:
		reason = "attempts"
	case limited && time.Now().Add(c.delay).After(deadline):
		reason = "deadline"
	case !c.t.budget.Take():
		reason = "budget"
	}
	if c.t.o.OnEvent != nil {
		e := retry.Event{Op: c.op, Attempt: c.n, Err: err, Delay: c.delay, Final: reason != "", Reason: reason}
		if err == nil {
			e.Err = errors.New(resp.Status)
		}
		if e.Final {
			e.Delay = 0
		}
		c.t.o.OnEvent(e)
	}
	c.reason = reason
	return reason == ""
}

// mayBeRead reports whether the server may have read a byte of the request.
func (c *call) mayBeRead(resp *http.Response, err error) bool {
	if resp != nil {
		return true // it answered
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return c.wrote.Load() || !c.traced.Load()
}

// Classify is the default classification: connection errors and 502 and 504 are faults, 429 and 503 are Busy, every
// other answer stands. 500 stands too: engines answer it to a client's own mistakes. A server that says
// x-should-retry: false is believed.
func Classify(resp *http.Response, err error) retry.Class {
	if err != nil {
		if again, _ := retryablehttp.DefaultRetryPolicy(context.Background(), nil, err); !again {
			return retry.FatalStop // unknown scheme, untrusted certificate, too many redirects
		}
		return retry.Fault
	}
	if resp.Header.Get("X-Should-Retry") == "false" {
		return retry.Stop
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return retry.Busy
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return retry.Fault
	}
	return retry.Stop
}

// retryAfter wraps what a response asks for, so that the backoff finds it.
func retryAfter(resp *http.Response, err error) error {
	if resp == nil {
		return err
	}
	return &retry.RetryAfterError{After: parseRetryAfter(resp.Header, time.Now()), Err: err}
}

// parseRetryAfter reads retry-after-ms, or Retry-After as seconds or as a date; a day at most.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	const most = 24 * 60 * 60 // seconds
	if ms, err := strconv.ParseInt(h.Get("Retry-After-Ms"), 10, 64); err == nil && ms >= 0 {
		return time.Duration(min(ms, most*1000)) * time.Millisecond
	}
	v := h.Get("Retry-After")
	if s, err := strconv.ParseInt(v, 10, 64); err == nil && s >= 0 {
		return time.Duration(min(s, most)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(at.Sub(now), 0), most*time.Second)
	}
	return 0
}

// breaker returns the breaker of a host.
func (t *Transport) breaker(host string) *retry.Breaker {
	if t.o.NoBreaker {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.breakers[host]
	if b == nil && len(t.breakers) < maxHosts {
		o := t.o.Breaker
		o.Name = host
		b = retry.NewBreaker(o)
		t.breakers[host] = b
	}
	return b
}
