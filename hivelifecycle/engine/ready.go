package engine

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// prober asks workers how they are. Its connections are not kept: llama-server closes them behind its own back.
type prober struct{ http *http.Client }

func newProber() *prober {
	return &prober{http: &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// health is the status code of the health path; 0 when nobody answers.
func (p *prober) health(ctx context.Context, address, path, key string) int {
	res, err := p.get(ctx, address, path, key)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	_ = res.Body.Close()
	return res.StatusCode
}

func (p *prober) get(ctx context.Context, address, path, key string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	return p.http.Do(req)
}

// ready returns when the worker answers its health path with success: refused, then 503 while it loads, then 200. It
// asks often at first, since small models load in milliseconds.
func (p *prober) ready(ctx context.Context, address, path, key string, poke <-chan struct{}) error {
	began := time.Now()
	t := time.NewTimer(2 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-poke:
		case <-ctx.Done():
			return ctx.Err()
		}
		actx, cancel := context.WithTimeout(ctx, 2*time.Second)
		code := p.health(actx, address, path, key)
		cancel()
		if code >= 200 && code < 300 {
			return nil
		}
		// A small share of the time that has passed: the wait adds little to any load, and asking costs little.
		t.Reset(max(2*time.Millisecond, min(time.Since(began)/20, 100*time.Millisecond)))
	}
}

// requests is how many requests a worker has, running and waiting; ok is false when it can't say.
func (p *prober) requests(ctx context.Context, address, path, key string, a adapter) (n int, ok bool) {
	if path == "" || a.running == "" {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, err := p.get(ctx, address, path, key)
	if err != nil {
		return 0, false
	}
	defer func() { _ = res.Body.Close() }()
	sc := bufio.NewScanner(io.LimitReader(res.Body, 1<<20))
	for sc.Scan() {
		name, value := splitMetric(sc.Text())
		if name != a.running && name != a.waiting {
			continue
		}
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || f < 0 || f > 1e6 {
			return 0, false
		}
		ok = ok || name == a.running
		n += int(f)
	}
	return n, ok
}

// splitMetric takes a line of Prometheus text apart, dropping its labels.
func splitMetric(line string) (name, value string) {
	if line == "" || line[0] == '#' {
		return "", ""
	}
	i := strings.IndexAny(line, "{ ")
	if i < 0 {
		return "", ""
	}
	name = line[:i]
	if line[i] == '{' {
		j := strings.LastIndexByte(line, '}')
		if j < i {
			return "", ""
		}
		i = j + 1
	}
	f := strings.Fields(line[min(i, len(line)):])
	if len(f) == 0 {
		return "", ""
	}
	return name, f[0]
}
