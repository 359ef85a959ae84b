package hiveapi

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Options of a Client; all of them may be left out.
type Options struct {
	// Dial connects to the hive, e.g. through SSH. It is given the host and port of the base URL.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// TLS makes the client speak TLS with the hive, with a certificate of its own: see ServerTLS.
	TLS *tls.Config
	// HTTPClient replaces the client's own one; Dial is then not used. It must not follow redirects.
	HTTPClient *http.Client
	// Timeout bounds a call that is no stream; default 30 s.
	Timeout time.Duration
	// WatchIdle is the silence after which Watch gives up; default 15 s, three missed beats.
	WatchIdle time.Duration
	// MaxBody bounds an answer; default 32 MiB.
	MaxBody int64
}

// Client talks to one hive. It is safe for concurrent use and makes one attempt per call.
type Client struct {
	base  *url.URL
	token string
	o     Options
	http  *http.Client
	own   *http.Transport
}

// New returns a client for the hive at base ("http://HOST:PORT" or "HOST:PORT"). It connects to nothing yet.
func New(base, token string, o Options) (*Client, error) {
	if !strings.Contains(base, "://") {
		scheme := "http://"
		if o.TLS != nil {
			scheme = "https://"
		}
		base = scheme + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("hiveapi: %.80q is not http://HOST:PORT", base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.WatchIdle <= 0 {
		o.WatchIdle = 15 * time.Second
	}
	if o.MaxBody <= 0 {
		o.MaxBody = 32 << 20
	}
	c := &Client{base: u, token: token, o: o, http: o.HTTPClient}
	if c.http == nil {
		c.own = &http.Transport{DialContext: o.Dial, MaxIdleConnsPerHost: 4, IdleConnTimeout: 60 * time.Second, TLSClientConfig: o.TLS, ForceAttemptHTTP2: false}
		if o.Dial == nil {
			c.own.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext
		}
		c.http = &http.Client{Transport: c.own, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return c, nil
}

// Close drops idle connections. Calls that are under way go on.
func (c *Client) Close() error {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
	return nil
}

// Proof is what a hive answers to a nonce: it shows that the hive knows the token without either side sending it.
func Proof(token, id, nonce string) string {
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("rbee-hive\n" + id + "\n" + nonce))
	return hex.EncodeToString(mac.Sum(nil))
}

// Health asks whether a hive answers. The token is not sent.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.call(ctx, http.MethodGet, PathHealth, nil, nil, &h, false)
	return h, err
}

// Handshake makes the hive prove that it knows the token, which is not sent. With a non-empty id the hive must have
// that one too. Any mismatch is ErrHandshake.
func (c *Client) Handshake(ctx context.Context, id string) (Health, error) {
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return Health{}, fmt.Errorf("hiveapi: %w", err)
	}
	nonce := hex.EncodeToString(raw)
	var h Health
	if err := c.call(ctx, http.MethodGet, PathHealth, url.Values{"nonce": {nonce}}, nil, &h, false); err != nil {
		return Health{}, err
	}
	if id != "" && h.ID != id {
		return h, fmt.Errorf("%w: it is hive %.40q, not %.40q", ErrHandshake, h.ID, id)
	}
	if !hmac.Equal([]byte(h.Proof), []byte(Proof(c.token, h.ID, nonce))) {
		return h, ErrHandshake
	}
	return h, nil
}

// Status is the hive's whole state, once.
func (c *Client) Status(ctx context.Context) (State, error) {
	var s State
	err := c.call(ctx, http.MethodGet, PathStatus, nil, nil, &s, true)
	return s, err
}

// Spawn starts a worker and returns its record as soon as the process runs, most often in state loading: what becomes
// of it is told on the watch stream, or by WaitWorker.
func (c *Client) Spawn(ctx context.Context, r SpawnRequest) (Worker, error) {
	var w Worker
	err := c.call(ctx, http.MethodPost, PathSpawn, nil, r, &w, true)
	return w, err
}

// Workers lists the hive's workers.
func (c *Client) Workers(ctx context.Context) ([]Worker, error) {
	var out struct {
		Workers []Worker `json:"workers"`
	}
	err := c.call(ctx, http.MethodGet, PathWorkers, nil, nil, &out, true)
	return out.Workers, err
}

// ShutdownWorker asks for a worker's end; it returns at once, the watch stream tells when the worker is gone. A worker
// that is gone already is ErrNotFound.
func (c *Client) ShutdownWorker(ctx context.Context, r ShutdownWorkerRequest) error {
	return c.call(ctx, http.MethodPost, PathWorkerShutdown, nil, r, nil, true)
}

// Models lists what the hive's store holds or is fetching.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var out struct {
		Models []Model `json:"models"`
	}
	err := c.call(ctx, http.MethodGet, PathModels, nil, nil, &out, true)
	return out.Models, err
}

// EvictModel removes a model's file from the hive's store; a model that a worker uses is refused with CONFLICT.
func (c *Client) EvictModel(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, PathEvict, url.Values{"model_ref": {ref}}, nil, nil, true)
}

// Engines lists the engines that the hive can run.
func (c *Client) Engines(ctx context.Context) ([]Engine, error) {
	var out struct {
		Engines []Engine `json:"engines"`
	}
	err := c.call(ctx, http.MethodGet, PathEngines, nil, nil, &out, true)
	return out.Engines, err
}

// UseEngine switches to another installed version of an engine.
func (c *Client) UseEngine(ctx context.Context, r UseEngineRequest) error {
	return c.call(ctx, http.MethodPost, PathEngineUse, nil, r, nil, true)
}

// RemoveEngine removes an installed version; the active one is refused with CONFLICT.
func (c *Client) RemoveEngine(ctx context.Context, r UseEngineRequest) error {
	return c.call(ctx, http.MethodPost, PathEngineRemove, nil, r, nil, true)
}

// LogQuery selects log lines: those of one worker, or the hive's own.
type LogQuery struct {
	WorkerID string
	Follow   bool
	Tail     int // lines from the end; 0 = all that is kept
}

// Logs streams text lines until the end, or with Follow until ctx ends or the reader is closed.
func (c *Client) Logs(ctx context.Context, q LogQuery) (io.ReadCloser, error) {
	v := url.Values{}
	if q.WorkerID != "" {
		v.Set("worker_id", q.WorkerID)
	}
	if q.Follow {
		v.Set("follow", "true")
	}
	if q.Tail > 0 {
		v.Set("tail", strconv.Itoa(q.Tail))
	}
	res, err := c.do(ctx, http.MethodGet, PathLogs, v, nil, true, "text/plain")
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Metrics is the Prometheus text of the hive and of its engines, each series with the labels node, worker and model.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	res, err := c.do(ctx, http.MethodGet, PathMetrics, nil, nil, true, "text/plain")
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	return io.ReadAll(io.LimitReader(res.Body, c.o.MaxBody))
}

// Shutdown ends the hive: it answers, stops its workers (or leaves them) and exits.
func (c *Client) Shutdown(ctx context.Context, r ShutdownRequest) error {
	return c.call(ctx, http.MethodPost, PathShutdown, nil, r, nil, true)
}

// call makes one bounded request and decodes the answer into out.
func (c *Client) call(ctx context.Context, method, path string, q url.Values, in, out any, auth bool) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	res, err := c.do(ctx, method, path, q, in, auth, "application/json")
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, c.o.MaxBody+1))
	if err != nil {
		return fmt.Errorf("hiveapi: %s: %w", path, err)
	}
	if int64(len(body)) > c.o.MaxBody {
		return fmt.Errorf("%w: the answer to %s is over %d bytes", ErrProtocol, path, c.o.MaxBody)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%w: %s: %v", ErrProtocol, path, err)
	}
	return nil
}

// do sends a request; a status of 300 and above comes back as an error, with the body closed.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, in any, auth bool, accept string) (*http.Response, error) {
	u := *c.base
	u.Path += path
	u.RawQuery = q.Encode()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("hiveapi: %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("hiveapi: %w", err)
	}
	req.Header.Set("Accept", accept)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if auth {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	RequestFrom(ctx).set(req.Header)
	res, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if fault := tlsFault(err); fault != nil {
			err = fault
		}
		return nil, fmt.Errorf("hive at %s: %w", c.base.Host, err)
	}
	if res.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		_ = res.Body.Close()
		return nil, errorFrom(res, b)
	}
	return res, nil
}
