package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const body = `{"model":"idle","stream":true,"messages":[{"role":"user","content":"hello"}]}`

// load holds streams open and reads them.
type load struct {
	o   options
	url string
	tls *tls.Config
	h2  bool

	tokens atomic.Int64
	broken atomic.Int64
	conns  atomic.Int64
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (l *load) connections() int64 { return l.conns.Load() }

// start opens all streams, and returns when each has said something.
func (l *load) start() error {
	l.ctx, l.cancel = context.WithCancel(context.Background())
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	first := make(chan error, l.o.streams)
	var shared *http.Client
	for n := 0; n < l.o.streams; {
		<-pace.C
		for range max(1, l.o.ramp/100) {
			if n == l.o.streams {
				break
			}
			client := shared
			if l.h2 && n%l.o.share == 0 {
				var err error
				if client, err = l.client(); err != nil {
					return err
				}
				shared = client
			}
			n++
			l.wg.Go(func() { l.stream(client, sync.OnceFunc(func() { first <- nil }), first) })
		}
	}
	for range l.o.streams {
		if err := <-first; err != nil {
			return err
		}
	}
	return nil
}

// stop ends all streams.
func (l *load) stop() {
	if l.cancel != nil {
		l.cancel()
		l.wg.Wait()
	}
}

// client speaks HTTP/2 over one connection, which is made here.
func (l *load) client() (*http.Client, error) {
	l.conns.Add(1)
	p := &http.Protocols{}
	p.SetHTTP2(true)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: l.tls, Protocols: p, HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: true}}}
	req, err := http.NewRequestWithContext(l.ctx, http.MethodGet, l.url+"/health", nil)
	if err != nil {
		return nil, err
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return c, res.Body.Close()
}

// stream reads one stream until the end of the load; said is called with its first token.
func (l *load) stream(client *http.Client, said func(), failed chan<- error) {
	err := l.read(client, said)
	if l.ctx.Err() != nil {
		return
	}
	l.broken.Add(1)
	select {
	case failed <- fmt.Errorf("a stream ended: %w", err):
	default:
	}
}

func (l *load) read(client *http.Client, said func()) error {
	var r io.Reader
	if client != nil {
		req, err := http.NewRequestWithContext(l.ctx, http.MethodPost, l.url+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK || res.ProtoMajor != 2 {
			return fmt.Errorf("%s %s", res.Proto, res.Status)
		}
		r = res.Body
	} else {
		c, err := l.dial()
		if err != nil {
			return err
		}
		defer context.AfterFunc(l.ctx, func() { _ = c.Close() })()
		defer func() { _ = c.Close() }()
		r = c
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 512), 4096)
	last := ""
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "data:") {
			l.tokens.Add(1)
			said()
		} else if t := sc.Text(); t != "" {
			last = t
		}
	}
	return fmt.Errorf("after %q: %w", last, errors.Join(sc.Err(), io.ErrUnexpectedEOF))
}

// dial opens a connection of HTTP/1.1 and sends the request.
func (l *load) dial() (c net.Conn, err error) {
	scheme, host, _ := strings.Cut(l.url, "://")
	d := &net.Dialer{Timeout: 30 * time.Second}
	if scheme == "https" {
		config := l.tls.Clone()
		config.NextProtos = []string{"http/1.1"}
		c, err = (&tls.Dialer{NetDialer: d, Config: config}).DialContext(l.ctx, "tcp", host)
	} else {
		c, err = d.DialContext(l.ctx, "tcp", host)
	}
	if err != nil {
		return nil, err
	}
	l.conns.Add(1)
	_, err = fmt.Fprintf(c, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, len(body), body)
	return c, err
}
