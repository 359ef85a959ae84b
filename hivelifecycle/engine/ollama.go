package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// loadOllama makes a fresh Ollama have the model and load it: pull when it is not there, then an empty generate with
// keep_alive -1, as its API documents.
func (w *worker) loadOllama(ctx context.Context) error {
	name := strings.TrimPrefix(w.plan.ModelName, "ollama:")
	show, err := w.ollama(ctx, "/api/show", map[string]any{"model": name})
	if err != nil {
		return err
	}
	_ = show.Body.Close()
	if show.StatusCode == http.StatusNotFound {
		if err := w.pullOllama(ctx, name); err != nil {
			return err
		}
	}
	res, err := w.ollama(ctx, "/api/generate", map[string]any{"model": name, "keep_alive": -1, "stream": false})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("ollama can't load %.80s: %s", name, clip(string(b)))
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	return err
}

func (w *worker) pullOllama(ctx context.Context, name string) error {
	res, err := w.ollama(ctx, "/api/pull", map[string]any{"model": name, "stream": true})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(nil, 1<<20)
	done := false
	for sc.Scan() {
		var p struct {
			Status, Error    string
			Total, Completed float64
		}
		if json.Unmarshal(sc.Bytes(), &p) != nil {
			continue
		}
		if p.Error != "" {
			return fmt.Errorf("ollama can't fetch %.80s: %s", name, clip(p.Error))
		}
		if p.Total > 0 {
			w.update(func(r *Worker) { r.Progress = min(p.Completed/p.Total, 0.99) })
		}
		done = done || p.Status == "success"
	}
	if err := sc.Err(); err != nil {
		return err
	}
	if !done {
		return fmt.Errorf("ollama stopped fetching %.80s without saying why", name)
	}
	return nil
}

func (w *worker) ollama(ctx context.Context, path string, body any) (*http.Response, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.plan.Address+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return w.s.prober.http.Do(req)
}
