package httpserver

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// newTask is POST /v2/tasks.
func (c *call) newTask() error {
	req := &Request{Surface: SurfaceTask, Path: "/v2/tasks", N: 1, ContentType: "application/json"}
	t := taskFields{c: c, req: req}
	body, err := c.object(t.take)
	if err != nil {
		return err
	}
	req.Body = body
	if err := t.check(); err != nil {
		return err
	}
	if wantsEvents(c.r) {
		req.Stream = true
		return c.run(req, View{Format: FormatNative, IDs: true, Model: req.Model})
	}
	req.Detach = true
	job, err := c.submit(req)
	if err != nil {
		return err
	}
	if err := job.Committed(c.r.Context()); err != nil {
		return err
	}
	c.jobHeaders(job)
	return writeJSON(c.w, http.StatusAccepted, accepted{
		JobID: job.ID(), Status: "queued", QueuePosition: job.Position(), EventsURL: "/v2/tasks/" + url.PathEscape(job.ID()) + "/events",
	})
}

type accepted struct {
	JobID         string `json:"job_id"`
	Status        string `json:"status"`
	QueuePosition int    `json:"queue_position"`
	EventsURL     string `json:"events_url"`
}

type taskFields struct {
	c                  *call
	req                *Request
	prompts            int
	priority, deadline string
}

func (t *taskFields) take(key, v []byte) error {
	name, req := string(key), t.req
	switch name {
	case "model":
		return modelField(v, &req.Model)
	case "prompt":
		t.prompts++
		if v[0] != '"' {
			return invalid(name, "prompt must be a string")
		}
		return promptField(name, v, req)
	case "messages":
		t.prompts++
		return messagesField(v, req)
	case "max_tokens":
		return wholeField(name, v, 1, 1<<31-1, &req.MaxTokens)
	case "temperature":
		return rangeField(name, v, 0, 2)
	case "top_p":
		return rangeField(name, v, 0, 1)
	case "top_k":
		return wholeField(name, v, 0, 1<<31-1, nil)
	case "repetition_penalty":
		return rangeField(name, v, 0, 10)
	case "stop":
		return stopField(name, v)
	case "seed":
		return wholeField(name, v, -1<<63, 1<<63-1, nil)
	case "priority":
		return textField(name, v, &t.priority)
	case "session_id":
		if err := textField(name, v, &req.Session); err != nil {
			return err
		}
		return checkSession(name, req.Session)
	case "deadline":
		return textField(name, v, &t.deadline)
	case "node":
		if err := textField(name, v, &req.Node); err != nil || req.Node == "" {
			return err
		}
		return checkName(name, req.Node)
	}
	return unknownField(name)
}

func (t *taskFields) check() (err error) {
	if t.req.Model == "" {
		return invalid("model", "model is missing: GET /v1/models lists what there is")
	}
	if t.prompts != 1 {
		return invalid("prompt", "give either prompt or messages")
	}
	if t.req.Priority, err = parsePriority("priority", t.priority); err != nil {
		return err
	}
	if t.deadline != "" {
		t.req.Deadline, err = parseDeadline("deadline", t.deadline, t.c.now())
	}
	return err
}

func unknownField(name string) error {
	return invalid(name, "unknown field %q", clip(name, 64))
}

func wantsEvents(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// listTasks is GET /v2/tasks.
func (c *call) listTasks() error {
	if c.s.o.Jobs == nil {
		return notAvailable("a job list")
	}
	q, err := c.query("state", "model", "priority", "limit", "cursor", "tenant")
	if err != nil {
		return err
	}
	jq := JobQuery{State: q.Get("state"), Model: q.Get("model"), Priority: q.Get("priority"), Cursor: q.Get("cursor"), Tenant: q.Get("tenant"), Limit: 100}
	switch jq.State {
	case "", "queued", "running", "complete", "failed", "cancelled":
	default:
		return invalid("state", "state must be queued, running, complete, failed or cancelled")
	}
	if jq.Priority != "" {
		if _, err := parsePriority("priority", jq.Priority); err != nil {
			return err
		}
	}
	if v := q.Get("limit"); v != "" {
		if jq.Limit, err = strconv.Atoi(v); err != nil || jq.Limit < 1 || jq.Limit > 1000 {
			return invalid("limit", "limit must be a whole number from 1 to 1000")
		}
	}
	jobs, next, err := c.s.o.Jobs.List(c.r.Context(), c.id, jq)
	if err != nil {
		return err
	}
	for i := range jobs {
		jobs[i].finish()
	}
	return writeJSON(c.w, http.StatusOK, jobList{list(jobs), next})
}

type jobList struct {
	Jobs []JobRecord `json:"jobs"`
	Next string      `json:"next_cursor,omitempty"`
}

func (r *JobRecord) finish() {
	if r.Error != nil && r.Error.Status == 0 {
		info, _ := lookup(r.Error.Code)
		r.Error.Status = info.status
	}
}

// getTask is GET /v2/tasks/{job_id}.
func (c *call) getTask() error {
	id, err := c.jobID()
	if err != nil {
		return err
	}
	q, err := c.query("explain")
	if err != nil {
		return err
	}
	rec, err := c.s.o.Jobs.Get(c.r.Context(), c.id, id)
	if err != nil {
		return err
	}
	rec.finish()
	switch q.Get("explain") {
	case "", "false":
	case "true":
		if rec.Decision, err = c.s.o.Jobs.Explain(c.r.Context(), c.id, id); err != nil {
			return err
		}
	default:
		return invalid("explain", "explain must be true or false")
	}
	return writeJSON(c.w, http.StatusOK, rec)
}

// taskEvents is GET /v2/tasks/{job_id}/events.
func (c *call) taskEvents() error {
	id, err := c.jobID()
	if err != nil {
		return err
	}
	q, err := c.query("format")
	if err != nil {
		return err
	}
	view := View{IDs: true, IncludeUsage: true}
	switch q.Get("format") {
	case "", "native":
		view.Format = FormatNative
	case "openai":
		view.Format = FormatOpenAI
	default:
		return invalid("format", "format must be native or openai")
	}
	if view.LastEventID, err = lastEventID(c.r); err != nil {
		return err
	}
	if c.r.Method == http.MethodHead {
		if _, err := c.s.o.Jobs.Get(c.r.Context(), c.id, id); err != nil {
			return err
		}
		return c.headEvents()
	}
	job, err := c.s.o.Jobs.Attach(c.r.Context(), c.id, id)
	if err != nil {
		return err
	}
	c.w.Header().Set("X-Rbee-Job-Id", id)
	c.w.pace()
	return job.Serve(c.r.Context(), c.w, view)
}

func lastEventID(r *http.Request) (string, error) {
	v := r.Header["Last-Event-Id"]
	if len(v) == 0 || v[0] == "" {
		return "", nil
	}
	if _, err := strconv.ParseUint(v[0], 10, 63); err != nil || len(v) > 1 {
		return "", invalid("Last-Event-ID", "Last-Event-ID must be the number of the last event that was seen")
	}
	return v[0], nil
}

func (c *call) headEvents() error {
	c.w.Header().Set("Content-Type", "text/event-stream")
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// cancelTask is DELETE /v2/tasks/{job_id}.
func (c *call) cancelTask() error {
	id, err := c.jobID()
	if err != nil {
		return err
	}
	rec, err := c.s.o.Jobs.Cancel(c.r.Context(), c.id, id)
	if err != nil {
		return err
	}
	status := "cancelled"
	if rec.State == "complete" || rec.State == "failed" {
		status = rec.State
	}
	return writeJSON(c.w, http.StatusAccepted, cancelled{id, status})
}

type cancelled struct {
	JobID  string `json:"job_id"`
	Status string `json:"status"`
}

func (c *call) jobID() (string, error) {
	if c.s.o.Jobs == nil {
		return "", notAvailable("a job list")
	}
	id := c.vars["job_id"]
	if id == "" || len(id) > 128 || !plain(id) {
		return "", refuse(CodeJobNotFound, "no job %q: GET /v2/tasks lists them", clip(id, 64))
	}
	return id, nil
}

// query parses the query string; a parameter that is not among the names, or given twice, is refused.
func (c *call) query(names ...string) (url.Values, error) {
	if c.r.URL.RawQuery == "" {
		return nil, nil
	}
	q, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		return nil, invalid("", "the query string can't be read")
	}
	for k, v := range q {
		if !slices.Contains(names, k) {
			return nil, invalid(clip(k, 64), "unknown query parameter %q", clip(k, 64))
		}
		if len(v) > 1 || len(v[0]) > 1024 {
			return nil, invalid(k, "query parameter %q is given twice or is too long", k)
		}
	}
	return q, nil
}

func list[T any](v []T) []T {
	if v == nil {
		return []T{}
	}
	return v
}

// rawString reads a member that must be a string for a handler that collects members itself.
func rawString(v []byte) string {
	s, _ := strict.String(v)
	return s
}
