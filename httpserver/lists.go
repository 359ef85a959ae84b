package httpserver

import (
	"errors"
	"net/http"
	"net/url"
)

type openaiModel struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Name    string `json:"name"`
	Loaded  bool   `json:"loaded"`
	Context int    `json:"context_length,omitempty"`
}

func openaiOf(m ModelName) openaiModel {
	created := int64(0)
	if !m.Created.IsZero() {
		created = m.Created.Unix()
	}
	return openaiModel{ID: m.Name, Object: "model", Created: created, OwnedBy: m.OwnedBy, Name: m.Name, Loaded: m.Loaded, Context: m.ContextLength}
}

func (c *call) names() ([]ModelName, error) {
	if c.s.o.Catalog == nil {
		return nil, notAvailable("a model catalog")
	}
	all, err := c.s.o.Catalog.Names(c.r.Context())
	if err != nil {
		return nil, err
	}
	out := all[:0:0]
	for _, m := range all {
		if c.id.MayUse(m.Name) {
			out = append(out, m)
		}
	}
	return out, nil
}

// models is GET /v1/models.
func (c *call) models() error {
	names, err := c.names()
	if err != nil {
		return err
	}
	data := make([]openaiModel, 0, len(names))
	for _, m := range names {
		data = append(data, openaiOf(m))
	}
	return writeJSON(c.w, http.StatusOK, openaiModels{"list", data})
}

type openaiModels struct {
	Object string        `json:"object"`
	Data   []openaiModel `json:"data"`
}

// model is GET /v1/models/{id}; the id may hold encoded slashes.
func (c *call) model() error {
	id, err := c.unescaped("id")
	if err != nil {
		return err
	}
	names, err := c.names()
	if err != nil {
		return err
	}
	for _, m := range names {
		if m.Name == id {
			return writeJSON(c.w, http.StatusOK, openaiOf(m))
		}
	}
	return noModel(id)
}

func noModel(id string) error {
	return &Error{ErrCode: CodeModelNotFound, Param: "model", Message: "no model " + clip(id, 100) + ": GET /v1/models lists what there is"}
}

// unescaped returns a path variable decoded and checked as a name.
func (c *call) unescaped(name string) (string, error) {
	v, err := url.PathUnescape(c.vars[name])
	if err != nil {
		return "", invalid(name, "%s is not properly encoded", name)
	}
	if err := checkModel(v); err != nil {
		return "", err
	}
	return v, nil
}

func (c *call) node() (string, error) {
	q, err := c.query("node")
	if err != nil {
		return "", err
	}
	return q.Get("node"), nil
}

// health is GET /health.
func (c *call) health() error {
	return writeJSON(c.w, http.StatusOK, struct {
		Status  string `json:"status"`
		Version string `json:"version"`
	}{"ok", c.s.o.Version})
}

// ready is GET /ready.
func (c *call) ready() error {
	if c.s.draining.Load() {
		return &Error{ErrCode: CodeShuttingDown, Message: "the server is shutting down", Retry: 5e9}
	}
	if c.s.o.Ready != nil {
		if err := c.s.o.Ready(c.r.Context()); err != nil {
			var coder Coder
			if errors.As(err, &coder) {
				return err
			}
			return &Error{ErrCode: CodeSystemAtCapacity, Message: "not ready yet", Cause: err}
		}
	}
	return writeJSON(c.w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"ready"})
}

func (c *call) handOver(h http.Handler, what string) error {
	if h == nil {
		return notAvailable(what)
	}
	h.ServeHTTP(c.w, c.withIdentity())
	return nil
}

func (c *call) metrics() error       { return c.handOver(c.s.o.Metrics, "metrics") }
func (c *call) engineMetrics() error { return c.handOver(c.s.o.EngineMetrics, "engine metrics") }

// targets is GET /metrics/targets.
func (c *call) targets() error {
	if c.s.o.Targets == nil {
		return notAvailable("scrape targets")
	}
	ts, err := c.s.o.Targets.Targets(c.r.Context())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, list(ts))
}

// openapi is GET /openapi.json.
func (c *call) openapi() error {
	c.w.Header().Set("Content-Type", "application/json")
	_, _ = c.w.Write(c.s.document)
	return nil
}
