package sserelay

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// startedEvent and failEvent are the contract's events as they are journalled.
type startedEvent struct {
	Job     string
	Model   string
	Worker  string
	Node    string
	Attempt int
	Created int64  // what follows is not shown to readers
	As      string // chat or completion: what the job's own client reads
	Usage   bool   // and whether it asked for a chunk with the usage
}

func decodeStarted(data []byte) (e startedEvent, ok bool) {
	ok = eachField(data, func(k, v []byte) bool {
		switch string(k) {
		case "job_id":
			e.Job = unquote(v)
		case "model":
			e.Model = unquote(v)
		case "worker_id":
			e.Worker = unquote(v)
		case "node":
			e.Node = unquote(v)
		case "attempt":
			e.Attempt = number(v)
		case "created":
			e.Created = int64(number(v))
		case "as":
			e.As = unquote(v)
		case "usage":
			e.Usage = string(v) == "true"
		}
		return true
	})
	return e, ok
}

type failEvent struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// appendStamp writes a time as RFC 3339 does, in UTC, with three digits behind the second.
func appendStamp(b []byte, t time.Time) []byte {
	t = t.UTC()
	b = t.AppendFormat(b, time.RFC3339) // a format with a way of its own inside the time package
	ms := t.Nanosecond() / 1e6
	return append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

func decodeEnd(data []byte) Result {
	var r Result
	ok := eachField(data, func(k, v []byte) bool {
		switch string(k) {
		case "tokens_out":
			r.OutputTokens = number(v)
		case "prompt_tokens":
			r.PromptTokens = number(v)
		case "cached_tokens":
			r.CachedTokens = number(v)
		case "decode_time_ms":
			r.Decode = time.Duration(number(v)) * time.Millisecond
		case "stop_reason":
			r.Finish = reasonOf(v)
		}
		return true
	})
	if !ok {
		return Result{Finish: "stop"}
	}
	return r
}

// reasonOf decodes a finish reason.
func reasonOf(raw []byte) string {
	switch string(raw) {
	case `"stop"`, `"length"`, `"tool_calls"`:
		return reason(inner(raw))
	}
	return unquote(raw)
}

// reason is a finish reason as it was between its quotes; the usual ones cost nothing.
func reason(b []byte) string {
	switch string(b) {
	case "stop":
		return "stop"
	case "length":
		return "length"
	case "tool_calls":
		return "tool_calls"
	}
	return string(b)
}

func decodeFailure(data []byte) *Error {
	var e failEvent
	if json.Unmarshal(data, &e) != nil || e.Code == "" {
		e.Code = "INTERNAL"
	}
	return NewError(e.Code, e.Message, nil)
}

// Started records that a worker took the job; again with a higher attempt after a loss.
func (s *Stream) Started(ctx context.Context, workerID, node string, attempt int) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	created := s.state.created
	if created == 0 {
		created = s.o.Created.Unix()
	}
	e := startedEvent{Job: s.id, Model: s.o.Model, Worker: workerID, Node: node, Attempt: attempt, Created: created, Usage: s.asked.usage}
	switch s.asked.format {
	case FormatChat:
		e.As = "chat"
	case FormatCompletion:
		e.As = "completion"
	}
	s.mu.Lock()
	s.worker, s.node = workerID, node
	s.ephemeral.queued = 0
	s.mu.Unlock()
	s.state.noteAttempt(&e)
	m := newMeta(KindStarted, None, 0, 0)
	if s.keep(m, 0, e.append) {
		return nil
	}
	return s.emit(ctx, m, e.append(make([]byte, 0, 256)), s.asksWho())
}

// asksWho reports whether a reader shows who works. The others need not hear of it before there is something to show.
func (s *Stream) asksWho() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.readers, func(r *reader) bool { return r.native })
}

func (st *writerState) noteStarted(data []byte) (worker, node string, was asked) {
	e, ok := decodeStarted(data)
	if !ok {
		return "", "", was
	}
	st.noteAttempt(&e)
	switch e.As {
	case "chat":
		was = asked{FormatChat, e.Usage}
	case "completion":
		was = asked{FormatCompletion, e.Usage}
	}
	return e.Worker, e.Node, was
}

func (st *writerState) noteAttempt(e *startedEvent) {
	if !st.started {
		st.started, st.model, st.created = true, e.Model, e.Created
	}
	st.attempt = e.Attempt
}

// append writes the event, at this moment.
func (e *startedEvent) append(b []byte) []byte {
	b = quote(append(b, `{"job_id":`...), e.Job)
	b = quote(append(b, `,"model":`...), e.Model)
	b = quote(append(b, `,"worker_id":`...), e.Worker)
	b = quote(append(b, `,"node":`...), e.Node)
	b = strconv.AppendInt(append(b, `,"attempt":`...), int64(e.Attempt), 10)
	b = append(appendStamp(append(b, `,"started_at":"`...), time.Now()), '"')
	if e.Created != 0 {
		b = strconv.AppendInt(append(b, `,"created":`...), e.Created, 10)
	}
	if e.As != "" {
		b = quote(append(b, `,"as":`...), e.As)
		if e.Usage {
			b = append(b, `,"usage":true`...)
		}
	}
	return append(b, '}')
}

// End ends the stream well. It returns ErrEnded when the stream has its terminal frame already.
func (s *Stream) End(ctx context.Context, r Result) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	if r.Finish == "" {
		r.Finish = "stop"
	}
	if r.Decode = r.Decode.Truncate(time.Millisecond); s.keep(metaEnd, 0, r.append) {
		s.endGroup(r, nil)
		return nil
	}
	return s.emit(ctx, metaEnd, r.append(make([]byte, 0, 128)), true)
}

const (
	metaEnd  = Meta(KindEnd)
	metaFail = Meta(KindError)
)

// append writes the event.
func (r *Result) append(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"tokens_out":`...), int64(r.OutputTokens), 10)
	b = strconv.AppendInt(append(b, `,"prompt_tokens":`...), int64(r.PromptTokens), 10)
	b = strconv.AppendInt(append(b, `,"cached_tokens":`...), int64(r.CachedTokens), 10)
	b = strconv.AppendInt(append(b, `,"decode_time_ms":`...), r.Decode.Milliseconds(), 10)
	return append(quote(append(b, `,"stop_reason":`...), r.Finish), '}')
}

// Fail ends the stream with an error. It returns ErrEnded when the stream has its terminal frame already.
func (s *Stream) Fail(ctx context.Context, code, message string) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	data, err := json.Marshal(failEvent{Code: code, Message: message})
	if err != nil {
		return err
	}
	if s.keep(metaFail, 0, func(b []byte) []byte { return append(b, data...) }) {
		s.endGroup(Result{}, decodeFailure(data))
		return nil
	}
	return s.emit(ctx, metaFail, data, true)
}

// shutdown ends the stream for its readers; only an attached one gets a terminal frame in the journal.
func (s *Stream) shutdown(ctx context.Context) error {
	if !s.o.Detached {
		return s.Fail(ctx, "SHUTTING_DOWN", "the queen is shutting down; try again in a moment")
	}
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return ErrEnded
	}
	s.broken, s.down = true, true
	s.over()
	s.expireLater()
	s.wake(true)
	return nil
}

// Queued tells native readers the job's place in the waiting line.
func (s *Stream) Queued(position int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ephemeral.queued != 0 && s.ephemeral.position == position {
		return
	}
	s.ephemeral.position = position
	s.ephemeral.queued++
	s.wake(false)
}

// Metrics tells native readers the figures of a running job; a reader sees at most one a second.
func (s *Stream) Metrics(m Metrics) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ephemeral.metrics = m
	s.ephemeral.metricsVer++
	s.wake(false)
}

// bodyHeader is the first line of a body frame.
type bodyHeader struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type"`
}

// Body takes a whole non-streamed answer of a worker. protocol tells what its JSON is: Chat, Completion, Raw for any
// other endpoint's JSON, Bytes for anything else. End or Fail follows from the caller. With a status of 400 or more
// it is the worker's refusal: a reader that has seen nothing yet gets it as it is once Fail follows. body is not to be changed any more:
// a reader may be given it as it is.
func (s *Stream) Body(ctx context.Context, protocol Protocol, status int, header http.Header, body []byte) (Outcome, error) {
	now := time.Now()
	out := Outcome{First: now, Last: now, Complete: true}
	var flags uint8
	if status < 400 {
		if err := out.takeBody(protocol, body); err != nil {
			return out, err
		}
	} else {
		flags = flagRefusal
	}
	h := bodyHeader{status, header.Get("Content-Type")}
	frame := func(b []byte) []byte { return append(appendHeader(b, h.Status, h.ContentType), body...) }
	s.wmu.Lock()
	defer s.wmu.Unlock()
	m := newMeta(KindBody, protocol, flags, out.OutputTokens)
	s.state.note(m, nil)
	if s.keep(m, len(body), frame) {
		s.held.header, s.held.body = h, body
		return out, nil
	}
	return out, s.emit(ctx, m, frame(make([]byte, 0, 128+len(body))), false) // End or Fail follows, and wakes the readers
}

// appendHeader writes the first line of a body frame.
func appendHeader(b []byte, status int, contentType string) []byte {
	b = strconv.AppendInt(append(b, `{"status":`...), int64(status), 10)
	return append(quote(append(b, `,"content_type":`...), contentType), '}', '\n')
}

// takeBody learns the finish reason and the counts of a whole answer.
func (o *Outcome) takeBody(protocol Protocol, body []byte) error {
	if protocol == Bytes {
		return nil
	}
	var c chunk
	ok := c.fields(body)
	known := protocol == Chat || protocol == Completion
	switch {
	case !ok && known:
		return &ProtocolError{What: "its answer is not a JSON object"}
	case !ok:
		return nil
	case c.err != nil && known:
		o.WorkerError = workerError(c.err)
		return o.WorkerError
	}
	o.Finish = reason(finishOf(c.choices))
	var u usage
	c.readUsage(&u)
	o.PromptTokens, o.CachedTokens, o.OutputTokens = u.prompt, u.cached, u.output
	return nil
}
