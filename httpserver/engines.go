package httpserver

import (
	"context"
	"net/http"
)

// Engines lists and changes the inference engines that are installed on hives.
type Engines interface {
	// List lists those of one hive; node "" is all that are connected.
	List(ctx context.Context, node string) ([]Engine, error)
	// Install begins an installation and returns its id for Feed.
	Install(ctx context.Context, r InstallEngine) (operation string, err error)
	// Use makes an installed version the one that new workers run with.
	Use(ctx context.Context, r EngineVersion) error
	// Remove deletes an installed version that is not in use.
	Remove(ctx context.Context, r EngineVersion) error
}

// Engine is an engine that a hive can run.
type Engine struct {
	Node    string `json:"node"`
	Engine  string `json:"engine"`
	Version string `json:"version"`
	Backend string `json:"backend"`
	Source  string `json:"source"` // builtin, path or installed
	Path    string `json:"path"`
	Active  bool   `json:"active"`
	Message string `json:"message,omitempty"`
}

// InstallEngine asks for an engine. Without a URL the build comes from the operator's catalogue: the one that fits the
// hive's system and devices; with one, SHA256 or DigestURL says what it has to be.
type InstallEngine struct {
	Node      string `json:"node"`
	Engine    string `json:"engine"`
	Version   string `json:"version"`
	Backend   string `json:"backend"`
	URL       string `json:"url"`
	SHA256    string `json:"sha256"`
	DigestURL string `json:"digest_url"`
	Program   string `json:"program"`
}

// EngineVersion names an installed version.
type EngineVersion struct {
	Node    string `json:"node"`
	Engine  string `json:"engine"`
	Version string `json:"version"`
	Backend string `json:"backend"`
}

type engineList struct {
	Engines []Engine `json:"engines"`
}

// engineRoutes are the endpoints for engines, and for the pages that they serve themselves.
func engineRoutes() []*route {
	routes := []*route{
		{method: "GET", path: "/v2/engines", summary: "List the engines on the hives", run: (*call).listEngines, query: "node", answer: engineList{}},
		{method: "POST", path: "/v2/engines/install", summary: "Install an engine on a hive, from the catalogue or from an address", run: (*call).installEngine,
			body: InstallEngine{}, answer: started{}, status: http.StatusAccepted},
		{method: "POST", path: "/v2/engines/use", summary: "Switch to an installed version of an engine", run: (*call).useEngine, body: EngineVersion{}, answer: "object"},
		{method: "DELETE", path: "/v2/engines", summary: "Remove an installed version of an engine", run: (*call).removeEngine, body: EngineVersion{}, answer: "object"},
		{method: "GET", path: "/v2/workers/{worker_id}/proxy", summary: "To the worker's own page", run: (*call).pageRoot, status: http.StatusTemporaryRedirect},
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		rt := &route{method: method, path: "/v2/workers/{worker_id}/proxy/{rest:.*}", summary: "The worker's own page and endpoints, past queue and limits",
			run: (*call).workerPage, answer: "text"}
		if method == "POST" || method == "PUT" {
			rt.body = "object"
		}
		routes = append(routes, rt)
	}
	return routes
}

func (c *call) engines() (Engines, error) {
	if c.s.o.Engines == nil {
		return nil, notAvailable("engines")
	}
	return c.s.o.Engines, nil
}

// listEngines is GET /v2/engines.
func (c *call) listEngines() error {
	es, err := c.engines()
	if err != nil {
		return err
	}
	node, err := c.node()
	if err != nil {
		return err
	}
	all, err := es.List(c.r.Context(), node)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, engineList{list(all)})
}

// installEngine is POST /v2/engines/install.
func (c *call) installEngine() error {
	es, err := c.engines()
	if err != nil {
		return err
	}
	var req InstallEngine
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := checkName("node", req.Node); err != nil {
		return err
	}
	if err := checkName("engine", req.Engine); err != nil {
		return err
	}
	if req.URL != "" {
		if err := required("version", req.Version); err != nil {
			return err
		}
		if req.SHA256 == "" && req.DigestURL == "" {
			return invalid("sha256", "sha256 or digest_url is missing: nothing unverified is installed")
		}
	}
	id, err := es.Install(c.r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, started{Status: "installing", EventsURL: operationURL(id), NodeName: req.Node})
}

// useEngine is POST /v2/engines/use.
func (c *call) useEngine() error { return c.changeEngine(Engines.Use, "active") }

// removeEngine is DELETE /v2/engines.
func (c *call) removeEngine() error { return c.changeEngine(Engines.Remove, "removed") }

func (c *call) changeEngine(change func(Engines, context.Context, EngineVersion) error, state string) error {
	es, err := c.engines()
	if err != nil {
		return err
	}
	var req EngineVersion
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := checkName("node", req.Node); err != nil {
		return err
	}
	if err := required("engine", req.Engine, "version", req.Version); err != nil {
		return err
	}
	if err := change(es, c.r.Context(), req); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"node": req.Node, "engine": req.Engine, "version": req.Version, "state": state})
}
