package client

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Event is one server-sent event.
type Event struct {
	ID, Name string
	Data     []byte
}

// Events sends a request and calls fn for each event of the answer, until the stream ends or fn returns an error.
func (c *Client) Events(ctx context.Context, method, path string, body any, fn func(Event) error) error {
	res, err := c.Do(ctx, method, path, body, "text/event-stream")
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	return ReadEvents(res.Body, fn)
}

// Patience is how long a stream of a job that was cut is tried to be taken up again: as long as a queen that comes back
// waits for the readers of a job by default.
const Patience = 30 * time.Second

// comeBack is the pause between two tries.
const comeBack = 250 * time.Millisecond

// JobEvents is Events for a job. When the connection is lost before the job has ended, the queen's death included, it
// comes back to the job with the last event's id and goes on after it; lost is told once each time. What the queen
// answers then is final, and so is her absence for longer than Patience.
func (c *Client) JobEvents(ctx context.Context, method, path string, body any, lost func(), fn func(Event) error) error {
	res, err := c.Do(ctx, method, path, body, "text/event-stream")
	if err != nil {
		return err
	}
	job := res.Header.Get("X-Rbee-Job-Id")
	last, ended := "", false
	var refused error
	note := func(ev Event) error {
		if ev.ID != "" {
			last = ev.ID
		}
		ended = ended || ev.Name == "end" || ev.Name == "error"
		refused = fn(ev)
		return refused
	}
	for {
		err = ReadEvents(res.Body, note)
		_ = res.Body.Close()
		switch {
		case refused != nil:
			return refused
		case ended:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case job == "":
			return err
		}
		lost()
		if res, err = c.again(ctx, "/v2/tasks/"+url.PathEscape(job)+"/events", last); err != nil {
			return err
		}
	}
}

// again opens a job's stream after its last event, waiting for a queen that is away or not ready yet.
func (c *Client) again(ctx context.Context, path, last string) (*http.Response, error) {
	deadline := time.Now().Add(Patience)
	for {
		var header []string
		if last != "" {
			header = []string{"Last-Event-ID", last}
		}
		res, err := c.Do(ctx, http.MethodGet, path, nil, "text/event-stream", header...)
		var api *APIError
		away := errors.Is(err, ErrUnreachable) || errors.As(err, &api) && api.Status == http.StatusServiceUnavailable
		if err == nil || !away || time.Now().After(deadline) {
			return res, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(comeBack):
		}
	}
}

// ReadEvents calls fn for each event of a stream until it ends or fn returns an error.
func ReadEvents(r io.Reader, fn func(Event) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	var ev Event
	for sc.Scan() {
		line := sc.Text()
		if line == "" {
			if ev.Data != nil {
				if err := fn(ev); err != nil {
					return err
				}
			}
			ev = Event{}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			ev.ID = value
		case "event":
			ev.Name = value
		case "data":
			if ev.Data != nil {
				ev.Data = append(ev.Data, '\n')
			}
			ev.Data = append(ev.Data, value...)
			if ev.Data == nil {
				ev.Data = []byte{}
			}
		}
	}
	return sc.Err()
}
