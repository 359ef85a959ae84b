package hiveapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const maxEvent = 8 << 20

// Watch calls fn with every event of the hive: the full state first, then each change at once and a beat at least
// every 5 s. It returns fn's error, ctx's, ErrSilent after Options.WatchIdle without a byte, or what broke the stream;
// never nil. The caller connects again; the new stream begins with the full state.
func (c *Client) Watch(ctx context.Context, fn func(Event) error) error {
	return c.WatchEvery(ctx, 0, fn)
}

// WatchEvery is Watch with a beat of the caller's choosing, in whole seconds from 5 s to a minute, for a large fleet: the
// silence after which it gives up is then at least three beats. 0 leaves it to the hive.
func (c *Client) WatchEvery(ctx context.Context, beat time.Duration, fn func(Event) error) error {
	var q url.Values
	idle := c.o.WatchIdle
	if s := int(beat.Round(time.Second) / time.Second); s > 0 {
		q = url.Values{"beat": {strconv.Itoa(s)}}
		idle = max(idle, 3*time.Duration(s)*time.Second)
	}
	return c.streamOf(ctx, http.MethodGet, PathWatch, q, nil, idle, func(_ string, data []byte) error {
		var ev Event
		if err := json.Unmarshal(data, &ev); err != nil {
			return fmt.Errorf("%w: watch: %v", ErrProtocol, err)
		}
		return fn(ev)
	})
}

// errFound ends a Watch whose caller has what it wanted.
var errFound = errors.New("found")

// WaitWorker follows the watch stream until the worker serves, has failed or is gone. progress, when not nil, sees
// every record on the way. A worker that failed is an *Error with its code and message.
func (c *Client) WaitWorker(ctx context.Context, id string, progress func(Worker)) (Worker, error) {
	var last Worker
	look := func(w Worker) error {
		last = w
		if progress != nil {
			progress(w)
		}
		switch w.State {
		case WorkerIdle, WorkerBusy:
			return errFound
		case WorkerFailed:
			return workerError(w)
		}
		return nil
	}
	gone := &Error{Status: http.StatusNotFound, Name: "WORKER_NOT_FOUND", Message: fmt.Sprintf("worker %.64q is not on this hive; spawn it again", id)}
	err := c.Watch(ctx, func(ev Event) error {
		switch {
		case ev.Kind == EventState && ev.State != nil:
			for _, w := range ev.State.Workers {
				if w.WorkerID == id {
					return look(w)
				}
			}
			return gone
		case ev.Kind == EventWorker && ev.Worker != nil && ev.Worker.WorkerID == id:
			return look(*ev.Worker)
		case ev.Kind == EventGone && ev.Worker != nil && ev.Worker.WorkerID == id:
			last = *ev.Worker
			if last.Message != "" {
				return workerError(last)
			}
			return gone
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return last, err
}

func workerError(w Worker) error {
	e := &Error{Status: http.StatusBadGateway, Name: w.ErrorCode, Message: w.Message, Facts: map[string]any{"worker_id": w.WorkerID, "engine": w.Engine}}
	if e.Name == "" {
		e.Name = "WORKER_FAILED"
	}
	if e.Message == "" {
		e.Message = "the worker failed; see its logs"
	}
	return e
}

// StartProvision begins to fetch a model, or joins the download of it that is under way, and returns its first
// progress; the state is ready when the hive has the model already.
func (c *Client) StartProvision(ctx context.Context, r ProvisionRequest) (Progress, error) {
	var p Progress
	err := c.call(ctx, http.MethodPost, PathProvision, nil, r, &p, true)
	return p, err
}

// ProvisionEvents follows a download to its end and calls fn for each event.
func (c *Client) ProvisionEvents(ctx context.Context, id string, fn func(Progress)) (Model, error) {
	var out Model
	err := c.stream(ctx, PathProvision+"/"+id+"/events", c.o.WatchIdle, func(_ string, data []byte) error {
		var p Progress
		if err := json.Unmarshal(data, &p); err != nil {
			return fmt.Errorf("%w: provision: %v", ErrProtocol, err)
		}
		if fn != nil {
			fn(p)
		}
		switch p.State {
		case ModelReady, ModelLoaded:
			if p.Model != nil {
				out = *p.Model
			}
			return errFound
		case ModelFailed:
			return provisionError(p)
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return out, err
}

// Provision has the hive fetch a model and waits for the end. fn, when not nil, sees the progress.
func (c *Client) Provision(ctx context.Context, r ProvisionRequest, fn func(Progress)) (Model, error) {
	p, err := c.StartProvision(ctx, r)
	if err != nil {
		return Model{}, err
	}
	if fn != nil {
		fn(p)
	}
	switch {
	case p.State == ModelReady && p.Model != nil:
		return *p.Model, nil
	case p.State == ModelFailed:
		return Model{}, provisionError(p)
	}
	return c.ProvisionEvents(ctx, p.ID, fn)
}

// InstallEngine has the hive fetch, verify, try and activate a build of an engine, and returns when that is done. fn,
// when not nil, sees the progress. The former version stays, and stays active when anything fails.
func (c *Client) InstallEngine(ctx context.Context, p EnginePackage, fn func(Progress)) error {
	err := c.streamOf(ctx, http.MethodPost, PathEngineInstall, nil, p, c.o.WatchIdle, func(_ string, data []byte) error {
		var pr Progress
		if err := json.Unmarshal(data, &pr); err != nil {
			return fmt.Errorf("%w: install: %v", ErrProtocol, err)
		}
		if fn != nil {
			fn(pr)
		}
		switch pr.State {
		case ModelReady:
			return errFound
		case ModelFailed:
			return provisionError(pr)
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return err
}

func provisionError(p Progress) error {
	e := &Error{Status: http.StatusBadGateway, Name: p.Code, Message: p.Message, Facts: map[string]any{"model_ref": p.ModelRef}}
	if e.Name == "" {
		e.Name = "PROVISION_FAILED"
	}
	return e
}

func (c *Client) stream(ctx context.Context, path string, idle time.Duration, fn func(name string, data []byte) error) error {
	return c.streamOf(ctx, http.MethodGet, path, nil, nil, idle, fn)
}

// streamOf reads server-sent events and gives each one's name and data to fn. Silence for idle ends it with ErrSilent.
func (c *Client) streamOf(ctx context.Context, method, path string, q url.Values, in any, idle time.Duration, fn func(name string, data []byte) error) error {
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(idle, func() { cancel(ErrSilent) })
	defer timer.Stop()
	err := func() error {
		res, err := c.do(sctx, method, path, q, in, true, "text/event-stream")
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		return readEvents(res.Body, func() { timer.Reset(idle) }, fn)
	}()
	if cause := context.Cause(sctx); cause != nil && ctx.Err() == nil && errors.Is(cause, ErrSilent) {
		return fmt.Errorf("%w for %v at %s", ErrSilent, idle, c.base.Host)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// readEvents understands what a hive sends: LF or CRLF lines, event and data fields, comments. alive is called for
// every line. The end of the stream is io.ErrUnexpectedEOF: a hive never ends one by itself.
func readEvents(r io.Reader, alive func(), fn func(name string, data []byte) error) error {
	br := bufio.NewReaderSize(r, 16<<10)
	var name string
	var data []byte
	for {
		line, err := readLine(br, maxEvent)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		alive()
		switch {
		case len(line) == 0:
			if data != nil {
				if err := fn(name, data); err != nil {
					return err
				}
			}
			name, data = "", nil
		case line[0] == ':':
		default:
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "event":
				name = string(value)
			case "data":
				if data != nil {
					data = append(data, '\n')
				}
				if data = append(data, value...); data == nil {
					data = []byte{}
				}
				if len(data) > maxEvent {
					return fmt.Errorf("%w: an event is over %d bytes", ErrProtocol, maxEvent)
				}
			}
		}
	}
}

// readLine returns the next line without its end, bounded.
func readLine(br *bufio.Reader, limit int) ([]byte, error) {
	var long []byte
	for {
		part, err := br.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(long)+len(part) > limit {
			return nil, fmt.Errorf("%w: a line is over %d bytes", ErrProtocol, limit)
		}
		if err != nil {
			long = append(long, part...)
			continue
		}
		if long != nil {
			part = append(long, part...)
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(part, []byte("\n")), []byte("\r")), nil
	}
}
