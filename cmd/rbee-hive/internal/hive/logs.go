package hive

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// logs sends a worker's lines, or the hive's own.
func (h *Hive) logs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	tail, err := strconv.Atoi(q.Get("tail"))
	if q.Get("tail") != "" && (err != nil || tail < 0) {
		refuse(w, http.StatusBadRequest, "INVALID_REQUEST", "tail is a number of lines", nil)
		return
	}
	live := q.Get("follow") == "true" || q.Get("follow") == "1"
	source := func(ctx context.Context, fn func(string) error) error { return h.journal.follow(ctx, tail, live, fn) }
	if id := q.Get("worker_id"); id != "" {
		l, err := h.sup.Log(id)
		if err != nil {
			refuseErr(w, err)
			return
		}
		source = func(ctx context.Context, fn func(string) error) error {
			if live {
				return l.Follow(ctx, tail, fn)
			}
			for _, line := range l.Tail(tail) {
				if err := fn(line); err != nil {
					return err
				}
			}
			return nil
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-h.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
	_ = source(ctx, func(line string) error {
		_ = rc.SetWriteDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(w, line+"\n"); err != nil || !live {
			return err
		}
		return rc.Flush()
	})
}

// metrics is the hive's own numbers and those of its engines, with the labels hive, worker and model.
func (h *Hive) metrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	s := h.feed.snapshot()
	bw := bufio.NewWriter(w)
	defer func() { _ = bw.Flush() }()
	_, _ = fmt.Fprintf(bw, "# TYPE rbee_hive_workers gauge\nrbee_hive_workers{hive=%q} %d\n", s.Node, len(s.Workers))
	for _, d := range s.Devices {
		_, _ = fmt.Fprintf(bw, "rbee_hive_memory_bytes{hive=%q,device=%q,state=\"total\"} %d\n", s.Node, d.ID, d.MemoryTotal)
		_, _ = fmt.Fprintf(bw, "rbee_hive_memory_bytes{hive=%q,device=%q,state=\"free\"} %d\n", s.Node, d.ID, d.MemoryFree)
	}
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: time.Second}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, wk := range s.Workers {
		if wk.Capabilities.Metrics == "" || wk.State != hiveapi.WorkerIdle && wk.State != hiveapi.WorkerBusy {
			continue
		}
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, wk.URL+wk.Capabilities.Metrics, nil)
		if err != nil {
			continue
		}
		if wk.APIKey != "" {
			req.Header.Set("Authorization", "Bearer "+wk.APIKey)
		}
		res, err := client.Do(req)
		if err != nil {
			continue
		}
		if res.StatusCode == http.StatusOK {
			relabel(bw, io.LimitReader(res.Body, 4<<20), fmt.Sprintf("hive=%q,worker=%q,model=%q", s.Node, wk.WorkerID, wk.Model))
		}
		_ = res.Body.Close()
	}
}

// relabel copies Prometheus text, adding labels to every sample and dropping comments, which would repeat.
func relabel(w io.Writer, r io.Reader, labels string) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.IndexAny(line, "{ ")
		if i <= 0 {
			continue
		}
		name, rest := line[:i], line[i:]
		if rest[0] == '{' {
			sep := ","
			if strings.HasPrefix(rest, "{}") {
				sep = ""
			}
			_, _ = fmt.Fprintf(w, "%s{%s%s%s\n", name, labels, sep, rest[1:])
		} else {
			_, _ = fmt.Fprintf(w, "%s{%s}%s\n", name, labels, rest)
		}
	}
}
