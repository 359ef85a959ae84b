package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// MaxRedirects is how many redirects are followed.
const MaxRedirects = 5

// Options tune a Client. The zero value reaches the public internet by https only.
type Options struct {
	// Allow names hosts ("hub.lan", "127.0.0.1:8080", "https://hub.lan") that may be reached by plain
	// http and at addresses that are refused otherwise. A name without a port allows all its ports.
	Allow []string
	// Peers makes this a client for other machines of the fleet: any http or https URL, private
	// addresses included, metadata addresses not, no redirect at all.
	Peers bool
	// Dial, when given, replaces the network, for a way through a tunnel. Nothing is checked then.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// HeaderTimeout bounds the wait for a response's header; 0 means 30 s.
	HeaderTimeout time.Duration
	UserAgent     string
	TLS           *tls.Config // for private certificate authorities; nil means the system's
}

// Client makes requests. It is safe for concurrent use.
type Client struct {
	o     Options
	http  *http.Client
	allow map[string]bool
}

// New returns a Client. Close it.
func New(o Options) *Client {
	if o.HeaderTimeout <= 0 {
		o.HeaderTimeout = 30 * time.Second
	}
	if o.UserAgent == "" {
		o.UserAgent = "rbee"
	}
	c := &Client{o: o, allow: map[string]bool{}}
	for _, a := range o.Allow {
		c.allow[allowKey(a)] = true
	}
	check := Check
	if o.Peers {
		check = checkPeer
	}
	guarded := &net.Dialer{Timeout: 10 * time.Second, Control: control(check)}
	open := &net.Dialer{Timeout: 10 * time.Second}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if c.allowed(addr) {
			return open.DialContext(ctx, network, addr)
		}
		return guarded.DialContext(ctx, network, addr)
	}
	if o.Dial != nil {
		dial = o.Dial
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: dial, TLSClientConfig: o.TLS, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: o.HeaderTimeout,
			MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
			MaxResponseHeaderBytes: 256 << 10, ReadBufferSize: 64 << 10, ForceAttemptHTTP2: false,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// allowKey reduces what an operator writes to host or host:port.
func allowKey(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		s = u.Host
		if u.Port() == "" {
			switch u.Scheme {
			case "https":
				s += ":443"
			case "http":
				s += ":80"
			}
		}
	}
	return strings.ToLower(strings.Trim(s, "/"))
}

// allowed says that host:port was named by the operator.
func (c *Client) allowed(addr string) bool {
	addr = strings.ToLower(addr)
	if c.allow[addr] {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (c.allow[host] || c.allow["["+host+"]"])
}

// Error is a request that failed. The URL carries no query and no credentials, for those can be secret.
type Error struct {
	URL     string
	Status  int // 0: no answer
	Message string
	After   time.Duration // Retry-After
	Header  http.Header   // of the answer, for a caller that knows the server
	Err     error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.URL + ": " + e.Message
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// RetryAfter is what the server asked for, 0 where it did not.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Temporary says that the same request may succeed later: no answer, too many requests, a server's fault.
func (e *Error) Temporary() bool {
	var blocked *BlockedError
	if errors.As(e.Err, &blocked) {
		return false
	}
	return e.Status == 0 && e.Err != nil || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500
}

// Request is one to make.
type Request struct {
	Method        string // GET where empty
	URL           string
	Header        http.Header
	Authorization string // sent to the URL's own host only
	NoFollow      bool   // give a redirect back instead of following it
}

// Do makes the request and follows redirects by the rules of this package. A response that is neither a
// success nor, with NoFollow, a redirect is an *Error and its body is closed.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, &Error{URL: "the URL", Message: "can't be read"}
	}
	first := u
	for hop := 0; ; hop++ {
		if err := c.checkURL(u); err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), nil)
		if err != nil {
			return nil, &Error{URL: redact(u), Message: "can't be requested"}
		}
		req.Header = r.Header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("User-Agent", c.o.UserAgent)
		if r.Authorization != "" && sameHost(u, first) {
			req.Header.Set("Authorization", r.Authorization)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			var ue *url.Error
			if errors.As(err, &ue) { // it repeats the URL, with its query
				err = ue.Err
			}
			return nil, &Error{URL: redact(u), Message: "no answer", Err: err}
		}
		if resp.StatusCode < 300 || resp.StatusCode == http.StatusNotModified {
			return resp, nil
		}
		next := resp.Header.Get("Location")
		if resp.StatusCode >= 400 || next == "" {
			return nil, statusError(u, resp)
		}
		if r.NoFollow {
			return resp, nil
		}
		_ = resp.Body.Close()
		switch {
		case c.o.Peers:
			return nil, &Error{URL: redact(u), Status: resp.StatusCode, Message: "another machine of the fleet must not redirect"}
		case hop == MaxRedirects:
			return nil, &Error{URL: redact(first), Status: resp.StatusCode, Message: "more than five redirects"}
		}
		if u, err = u.Parse(next); err != nil {
			return nil, &Error{URL: redact(first), Status: resp.StatusCode, Message: "redirects to something that is no URL"}
		}
	}
}

// checkURL refuses what need not be dialled to be refused.
func (c *Client) checkURL(u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	switch {
	case u.Hostname() == "" || u.User != nil || u.Opaque != "":
		return &Error{URL: redact(u), Message: "the URL needs a host and must not hold credentials"}
	case u.Scheme == "https":
	case u.Scheme == "http" && (c.o.Peers || c.allowed(net.JoinHostPort(u.Hostname(), port))):
	default:
		return &Error{URL: redact(u), Message: "only https is followed, except to hosts that an operator allowed"}
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && c.o.Dial == nil && !c.o.Peers && !c.allowed(net.JoinHostPort(u.Hostname(), port)) {
		if err := Check(a); err != nil {
			return &Error{URL: redact(u), Message: "not connected", Err: err}
		}
	}
	return nil
}

func sameHost(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host)
}

func redact(u *url.URL) string {
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

func statusError(u *url.URL, resp *http.Response) error {
	_ = resp.Body.Close()
	e := &Error{URL: redact(u), Status: resp.StatusCode, Header: resp.Header, Message: fmt.Sprintf("answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))}
	if s := resp.Header.Get("Retry-After"); s != "" {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 {
			e.After = time.Duration(min(n, 3600)) * time.Second
		} else if t, err := http.ParseTime(s); err == nil {
			e.After = min(max(0, time.Until(t)), time.Hour)
		}
	}
	return e
}
