package httpserver

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// progressData is what the events of an operation carry, as far as a pull shows it.
type progressData struct {
	State   string `json:"state"`
	SHA256  string `json:"sha256"`
	Done    int64  `json:"bytes_done"`
	Total   int64  `json:"bytes_total"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type pullLine struct {
	Status    string `json:"status,omitempty"`
	Digest    string `json:"digest,omitempty"`
	Total     int64  `json:"total,omitempty"`
	Completed int64  `json:"completed,omitempty"`
	Error     string `json:"error,omitempty"`
}

// ollamaPull is POST /api/pull: a download, followed to its end.
func (c *call) ollamaPull() error {
	ms, err := c.modelAdmin()
	if err != nil {
		return err
	}
	if c.s.o.Feed == nil {
		return notAvailable("an event feed")
	}
	var q struct {
		Model  string `json:"model"`
		Name   string `json:"name"`
		Stream *bool  `json:"stream"`
	}
	if err := c.ollama(&q); err != nil {
		return err
	}
	name, err := c.ollamaModel(q.Model, q.Name)
	if err != nil {
		return err
	}
	id, err := ms.Download(c.r.Context(), "", name)
	if err != nil {
		return err
	}
	ctx, cancel := c.follow()
	defer cancel()
	events, err := c.s.o.Feed.Events(ctx, id, 0)
	if err != nil {
		return err
	}
	if q.Stream != nil && !*q.Stream {
		return c.awaitPull(ctx, events)
	}
	return c.followPull(ctx, events)
}

// awaitPull answers once, when the download has ended.
func (c *call) awaitPull(ctx context.Context, events <-chan Event) error {
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				return writeJSON(c.w, http.StatusOK, pullLine{Status: "success"})
			}
			if line := pullOf(ev); line.Error != "" {
				return refuse(CodeProvisionFailed, "%s", line.Error)
			}
		case <-ctx.Done():
			return c.ended(ctx)
		}
	}
}

func (c *call) ended(ctx context.Context) error {
	if err := c.r.Context().Err(); err != nil {
		return err
	}
	return refuse(CodeShuttingDown, "the server is shutting down: the download goes on when it is back")
}

// followPull answers with one JSON line per change.
func (c *call) followPull(ctx context.Context, events <-chan Event) error {
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	c.w.pace()
	c.w.WriteHeader(http.StatusOK)
	w := &sse{w: c.w, rc: http.NewResponseController(c.w)}
	line := pullLine{Status: "pulling manifest"}
	again := time.NewTicker(c.s.o.PingEvery) // a quiet download repeats its last line, so that nobody cuts it
	defer again.Stop()
	for {
		if err := w.write(append(jsonOf(line), '\n')); err != nil || line.Error != "" || line.Status == "success" {
			return err
		}
		select {
		case ev, ok := <-events:
			line = pullLine{Status: "success"}
			if ok {
				line = pullOf(ev)
			}
		case <-again.C:
		case <-ctx.Done():
			line = pullLine{Error: "the server is shutting down"}
			if c.r.Context().Err() != nil {
				return c.r.Context().Err()
			}
		}
	}
}

func pullOf(ev Event) pullLine {
	var p progressData
	if json.Unmarshal(ev.Data, &p) != nil {
		return pullLine{Status: ev.Type}
	}
	if ev.Type == "error" || p.State == "failed" {
		if p.Message == "" {
			p.Message = "the download failed"
		}
		return pullLine{Error: p.Message}
	}
	if ev.Type == "end" {
		return pullLine{Status: "success"}
	}
	line := pullLine{Status: p.State, Total: p.Total, Completed: p.Done}
	if p.Total > 0 {
		line.Status = "pulling model"
		line.Digest = "sha256:" + p.SHA256
	}
	if line.Status == "" {
		line.Status = "pulling model"
	}
	return line
}
