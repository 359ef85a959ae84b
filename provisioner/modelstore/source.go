package modelstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
)

// source is one place where a file is to be had.
type source struct {
	client *fetch.Client
	url    string
	auth   string
	ref    provisioner.Ref
	peer   bool
}

// What a source may do wrong, beyond an HTTP error.
var (
	errNoRanges = errors.New("the server knows no ranges")
	errChanged  = errors.New("the file changed at its source during the download; try again")
	errPage     = errors.New("the server answered with a web page instead of the file; check the address, or log in there and give a token")
	errStalled  = errors.New("no byte arrived for too long")
	errSize     = errors.New("the source has another size than it should")
)

// softError is a failure in the middle of a body: the same request may succeed later.
type softError struct{ err error }

func (e *softError) Error() string   { return e.err.Error() }
func (e *softError) Unwrap() error   { return e.err }
func (e *softError) Temporary() bool { return true }

// feed reads one file's ranges from its sources: the first that works, peers before the origin.
type feed struct {
	sources []source
	size    int64
	stall   time.Duration

	mu    sync.Mutex
	at    int            // sources[:at] failed
	final map[int]string // where a source redirected to
	etag  string
	peers bool // some bytes came from a peer
}

func (f *feed) current() (int, source, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at >= len(f.sources) {
		return 0, source{}, false
	}
	return f.at, f.sources[f.at], true
}

// giveUp leaves source i for the next one, if there is one.
func (f *feed) giveUp(i int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == i && i+1 < len(f.sources) {
		f.at++
		f.etag = ""
	}
	return f.at > i
}

// open asks source i for n bytes from off (n < 0: all of it, without a range).
func (f *feed) open(ctx context.Context, i int, src source, off, n int64) (*http.Response, error) {
	h := http.Header{"Accept-Encoding": {"identity"}}
	if n >= 0 {
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	f.mu.Lock()
	target, etag := f.final[i], f.etag
	f.mu.Unlock()
	if etag != "" && !strings.HasPrefix(etag, "W/") && n >= 0 && !src.peer {
		h.Set("If-Range", etag)
	}
	var resp *http.Response
	var err error
	if target != "" { // the signed address of a content server: asked again without the way over the hub
		resp, err = src.client.Do(ctx, fetch.Request{URL: target, Header: h, Authorization: sameHostAuth(src, target)})
		var fe *fetch.Error
		if errors.As(err, &fe) && fe.Status >= 400 && fe.Status < 500 && fe.Status != http.StatusTooManyRequests {
			target = "" // it expired
		}
	}
	if target == "" {
		resp, err = src.client.Do(ctx, fetch.Request{URL: src.url, Header: h, Authorization: src.auth})
	}
	if err != nil {
		return nil, err
	}
	if err := f.check(i, src, resp, off, n); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func sameHostAuth(src source, target string) string {
	a, err1 := url.Parse(src.url)
	b, err2 := url.Parse(target)
	if err1 == nil && err2 == nil && a.Scheme == b.Scheme && a.Host == b.Host {
		return src.auth
	}
	return ""
}

// check holds the header of an answer against what was asked for.
func (f *feed) check(i int, src source, resp *http.Response, off, n int64) error {
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && (t == "text/html" || t == "application/xhtml+xml") {
		return errPage
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return fmt.Errorf("the server encodes the file (%.20q) though it was asked not to", e)
	}
	etag := resp.Header.Get("ETag")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.etag != "" && etag != "" && etag != f.etag {
		return errChanged
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		first, last, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if n < 0 || !ok || first != off || last != off+n-1 {
			return errors.New("the server sent another range than it was asked for")
		}
		if total >= 0 && total != f.size {
			return fmt.Errorf("%w: %d bytes and not %d", errSize, total, f.size)
		}
	case http.StatusOK:
		if n >= 0 && (off != 0 || n != f.size) {
			if f.etag != "" && etag != "" && etag != f.etag {
				return errChanged
			}
			return errNoRanges
		}
		if resp.ContentLength >= 0 && resp.ContentLength != f.size {
			return fmt.Errorf("%w: %d bytes and not %d", errSize, resp.ContentLength, f.size)
		}
	default:
		return fmt.Errorf("the server answered %d", resp.StatusCode)
	}
	if etag != "" {
		f.etag = etag
	}
	if final := resp.Request.URL.String(); final != src.url {
		f.final[i] = final
	}
	f.peers = f.peers || src.peer
	return nil
}

func contentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, of, ok2 := strings.Cut(s, "/")
	a, b, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	total = -1
	var err3 error
	if of != "*" {
		total, err3 = strconv.ParseInt(of, 10, 64)
	}
	return first, last, total, err1 == nil && err2 == nil && err3 == nil && first >= 0 && last >= first
}

// stalling reads a body and gives up when no byte arrives for long.
type stalling struct {
	body  io.ReadCloser
	timer *time.Timer
	after time.Duration
}

func (r *stalling) Read(b []byte) (int, error) {
	n, err := r.body.Read(b)
	if n > 0 {
		r.timer.Reset(r.after)
	}
	return n, err
}

// body opens a range and gives its reader; done must be called.
func (f *feed) body(ctx context.Context, i int, src source, off, n int64) (r io.Reader, done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(f.stall, func() { cancel(errStalled) })
	resp, err := f.open(ctx, i, src, off, n)
	if err != nil {
		timer.Stop()
		cause := context.Cause(ctx)
		cancel(nil)
		if errors.Is(cause, errStalled) {
			err = &softError{errStalled}
		}
		return nil, nil, err
	}
	return &stalling{body: resp.Body, timer: timer, after: f.stall}, func() {
		timer.Stop()
		cancel(nil)
		_ = resp.Body.Close()
	}, nil
}

// probe asks for the size of a file of unknown size.
func (s *Store) probe(ctx context.Context, src source) (size int64, etag string, err error) {
	err = s.retry(ctx, "probe", func(ctx context.Context) error {
		resp, err := src.client.Do(ctx, fetch.Request{URL: src.url, Authorization: src.auth, Header: http.Header{"Accept-Encoding": {"identity"}, "Range": {"bytes=0-0"}}})
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && t == "text/html" {
			return errPage
		}
		size, etag = resp.ContentLength, resp.Header.Get("ETag")
		if resp.StatusCode == http.StatusPartialContent {
			_, _, size, _ = contentRange(resp.Header.Get("Content-Range"))
		}
		if size < 0 || size > 1<<50 {
			return errors.New("the server does not say how large the file is")
		}
		return nil
	})
	return size, etag, err
}

// peerSet holds a client for each peer of a request.
type peerSet struct {
	peers   []Peer
	clients []*fetch.Client
}

func (s *Store) peers(peers []Peer) *peerSet {
	set := &peerSet{peers: peers}
	for _, p := range peers {
		set.clients = append(set.clients, fetch.New(fetch.Options{Peers: true, Dial: p.Dial, TLS: s.o.TLS, HeaderTimeout: 10 * time.Second}))
	}
	return set
}

// sources are the peers as places for content.
func (p *peerSet) sources(sum string) []source {
	var out []source
	for i, peer := range p.peers {
		u := strings.TrimRight(peer.URL, "/")
		if at := strings.Index(u, "/v1/files/"); at >= 0 {
			if !strings.HasSuffix(u, sum) {
				continue // the URL of another file
			}
		} else {
			u += "/v1/files/" + sum
		}
		out = append(out, source{client: p.clients[i], url: u, auth: peer.Authorization, peer: true})
	}
	return out
}

func (p *peerSet) close() {
	for _, c := range p.clients {
		c.Close()
	}
}
