package retryhttp

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/queen-rbee/queen-rbee/retry"
)

// Options tune a Transport. The zero value is usable.
type Options struct {
	Attempts      int                                     // in all, 0 = 5
	Initial       time.Duration                           // ceiling of the first delay, 0 = 1 s
	Max           time.Duration                           // highest ceiling, 0 = 60 s
	MaxRetryAfter time.Duration                           // cap of what a server may ask for, 0 = Max
	Budget        *retry.Budget                           // nil = one with its defaults, shared by all requests
	NoBreaker     bool                                    // do without a breaker per host
	Breaker       retry.BreakerOptions                    // of each host's breaker; Name is the host
	Classify      func(*http.Response, error) retry.Class // nil = Classify
	OnEvent       func(retry.Event)                       // after each failed attempt; Op is "METHOD HOST"
	Rand          func() float64                          // in [0, 1)
}

// Transport is an http.RoundTripper that repeats what is safe to repeat.
type Transport struct {
	base     http.RoundTripper
	o        Options
	retrier  *retry.Retrier
	budget   *retry.Budget
	mu       sync.Mutex
	breakers map[string]*retry.Breaker
}

const maxHosts = 1000 // breakers kept; more hosts than that go without

// NewTransport wraps base; nil means http.DefaultTransport.
func NewTransport(base http.RoundTripper, o Options) *Transport {
	if base == nil {
		base = http.DefaultTransport
	}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Classify == nil {
		o.Classify = Classify
	}
	if o.Budget == nil {
		o.Budget = retry.NewBudget(retry.BudgetOptions{})
	}
	return &Transport{base: base, o: o, budget: o.Budget, breakers: make(map[string]*retry.Breaker),
		retrier: retry.New(retry.Options{Initial: o.Initial, Max: o.Max, MaxRetryAfter: o.MaxRetryAfter, NoBudget: true, Rand: o.Rand})}
}

// Wrap returns a copy of c whose transport repeats what is safe to repeat.
func Wrap(c *http.Client, o Options) *http.Client {
	wrapped := *c
	wrapped.Transport = NewTransport(c.Transport, o)
	return &wrapped
}

// CloseIdleConnections closes those of the wrapped transport.
func (t *Transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// call is one request with its attempts.
type call struct {
	t       *Transport
	op      string
	safe    bool // may be sent again whatever became of it
	n       int
	traced  atomic.Bool // the transport tells what it does
	wrote   atomic.Bool // header bytes may have left
	delay   time.Duration
	reason  string // why no further attempt followed
	breaker *retry.Breaker
}

// RoundTrip sends the request, again where that is safe. The last response is returned as it is; the error of the
// last of several attempts is wrapped in *retry.ExhaustedError.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c := &call{t: t, op: req.Method + " " + req.URL.Host, safe: repeatable(req), breaker: t.breaker(req.URL.Host)}
	t.budget.Request()
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		resp, err := c.attempt(req)
		c.check(req.Context(), resp, err, false)
		return resp, err
	}
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GetConn:      func(string) { c.traced.Store(true) },
		WroteHeaders: func() { c.wrote.Store(true) },
	})
	outer := req.Body
	if outer != nil {
		defer outer.Close() // each attempt has a body of its own
	}
	rr := &retryablehttp.Request{Request: req.Clone(ctx)}
	if req.GetBody != nil {
		if err := rr.SetBody(retryablehttp.ReaderFunc(bodyFunc(req))); err != nil {
			return nil, err
		}
		rr.ContentLength = req.ContentLength
	}
	client := &retryablehttp.Client{
		HTTPClient: &http.Client{Transport: roundTripper(c.attempt),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		RetryMax: t.o.Attempts - 1,
		CheckRetry: func(ctx context.Context, resp *http.Response, err error) (bool, error) {
			return c.check(ctx, resp, err, true), nil
		},
		Backoff:      func(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return c.delay },
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	resp, err := client.Do(rr)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	if err != nil && c.n > 1 {
		err = &retry.ExhaustedError{Op: c.op, Attempts: c.n, Reason: c.reason, Err: err}
	}
	return resp, err
}
