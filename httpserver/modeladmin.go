package httpserver

import (
	"net/http"
)

type modelList struct {
	Models []Model `json:"models"`
}

func (c *call) modelAdmin() (Models, error) {
	if c.s.o.Models == nil {
		return nil, notAvailable("model management")
	}
	return c.s.o.Models, nil
}

// modelsOnHives is GET /v2/models/list.
func (c *call) modelsOnHives() error {
	if c.s.o.Catalog == nil {
		return notAvailable("a model catalog")
	}
	node, err := c.node()
	if err != nil {
		return err
	}
	ms, err := c.s.o.Catalog.OnHives(c.r.Context(), node)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, modelList{list(ms)})
}

// catalog is GET /v2/models/catalog.
func (c *call) catalog() error {
	if c.s.o.Catalog == nil {
		return notAvailable("a model catalog")
	}
	if _, err := c.query(); err != nil {
		return err
	}
	ms, err := c.s.o.Catalog.Union(c.r.Context())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, modelList{list(ms)})
}

type modelOnNode struct {
	Node     string `json:"node"`
	ModelRef string `json:"model_ref"`
}

func (m modelOnNode) check(nodeNeeded bool) error {
	if m.Node != "" || nodeNeeded {
		if err := checkName("node", m.Node); err != nil {
			return err
		}
	}
	if err := required("model_ref", m.ModelRef); err != nil {
		return err
	}
	return checkModelRef("model_ref", m.ModelRef)
}

type downloading struct {
	DownloadID string `json:"download_id"`
	EventsURL  string `json:"events_url"`
}

// download is POST /v2/models/download.
func (c *call) download() error {
	ms, err := c.modelAdmin()
	if err != nil {
		return err
	}
	var req modelOnNode
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := req.check(false); err != nil {
		return err
	}
	id, err := ms.Download(c.r.Context(), req.Node, req.ModelRef)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, downloading{id, operationURL(id)})
}

// cancelOperation is DELETE /v2/operations/{id}. A download can be cancelled, nothing else.
func (c *call) cancelOperation() error {
	ms, err := c.modelAdmin()
	if err != nil {
		return err
	}
	id, err := c.name("id")
	if err != nil {
		return err
	}
	if err := ms.CancelDownload(c.r.Context(), id); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, map[string]string{"download_id": id, "status": "cancelled"})
}

// evictModel is DELETE /v2/models.
func (c *call) evictModel() error {
	ms, err := c.modelAdmin()
	if err != nil {
		return err
	}
	var req modelOnNode
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := req.check(true); err != nil {
		return err
	}
	if err := ms.Evict(c.r.Context(), req.Node, req.ModelRef); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"node": req.Node, "model_ref": req.ModelRef, "state": "absent"})
}

// putModel is PUT /v2/models/{name}.
func (c *call) putModel() error {
	ms, err := c.modelAdmin()
	if err != nil {
		return err
	}
	name, err := c.unescaped("name")
	if err != nil {
		return err
	}
	b, err := c.rawObject()
	if err != nil {
		return err
	}
	m, err := ms.Put(c.r.Context(), name, b)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, m)
}

// deleteModel is DELETE /v2/models/{name}.
func (c *call) deleteModel() error {
	ms, err := c.modelAdmin()
	if err != nil {
		return err
	}
	name, err := c.unescaped("name")
	if err != nil {
		return err
	}
	if err := ms.Delete(c.r.Context(), name); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"model": name, "state": "removed"})
}
