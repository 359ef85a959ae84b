package httpserver

import (
	"context"
	"net/http"
	"net/url"
)

func (c *call) workers() (Workers, error) {
	if c.s.o.Workers == nil {
		return nil, notAvailable("workers")
	}
	return c.s.o.Workers, nil
}

func (c *call) hives() (Hives, error) {
	if c.s.o.Hives == nil {
		return nil, notAvailable("hives")
	}
	return c.s.o.Hives, nil
}

// listWorkers is GET /v2/workers/list.
func (c *call) listWorkers() error {
	ws, err := c.workers()
	if err != nil {
		return err
	}
	node, err := c.node()
	if err != nil {
		return err
	}
	all, err := ws.List(c.r.Context(), node)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, workerList{list(all)})
}

type workerList struct {
	Workers []Worker `json:"workers"`
}

type healthList struct {
	Workers []WorkerHealth `json:"workers"`
}

// workersHealth is GET /v2/workers/health.
func (c *call) workersHealth() error {
	ws, err := c.workers()
	if err != nil {
		return err
	}
	node, err := c.node()
	if err != nil {
		return err
	}
	all, err := ws.Health(c.r.Context(), node)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, healthList{list(all)})
}

// spawn is POST /v2/workers/spawn.
func (c *call) spawn() error {
	ws, err := c.workers()
	if err != nil {
		return err
	}
	var req SpawnRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := required("model_ref", req.ModelRef); err != nil {
		return err
	}
	if err := checkModelRef("model_ref", req.ModelRef); err != nil {
		return err
	}
	if req.Node != "" {
		if err := checkName("node", req.Node); err != nil {
			return err
		}
	}
	out, err := ws.Spawn(c.r.Context(), req)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, out)
}

type shutdownWorker struct {
	WorkerID string `json:"worker_id"`
	Drain    *bool  `json:"drain"`
}

// shutdownWorker is POST /v2/workers/shutdown; it drains unless told otherwise.
func (c *call) shutdownWorker() error {
	ws, err := c.workers()
	if err != nil {
		return err
	}
	var req shutdownWorker
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := checkName("worker_id", req.WorkerID); err != nil {
		return err
	}
	drain := req.Drain == nil || *req.Drain
	if err := ws.Shutdown(c.r.Context(), req.WorkerID, drain); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, map[string]string{"worker_id": req.WorkerID, "state": "draining"})
}

// registerWorker is POST /v2/workers/register.
func (c *call) registerWorker() error {
	ws, err := c.workers()
	if err != nil {
		return err
	}
	var w Worker
	if err := c.decode(&w); err != nil {
		return err
	}
	if err := checkName("worker_id", w.WorkerID); err != nil {
		return err
	}
	if err := w.check(); err != nil {
		return err
	}
	if c.id.Scope == ScopeHive && c.id.Node != "" && w.Node != "" && w.Node != c.id.Node {
		return refuse(CodeForbidden, "this token belongs to another hive")
	}
	if err := ws.Register(c.r.Context(), c.id.Node, w); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"worker_id": w.WorkerID, "state": "registered"})
}

// maxSlots bounds what a worker may say that it can do at once.
const maxSlots = 65_536

// check looks at what somebody says of a worker.
func (w *Worker) check() error {
	if err := required("url", w.URL, "model", w.Model); err != nil {
		return err
	}
	if err := checkWorkerURL(w.URL); err != nil {
		return err
	}
	if err := checkModel(w.Model); err != nil {
		return err
	}
	switch {
	case w.Protocol != "" && w.Protocol != "openai" && w.Protocol != "execute":
		return invalid("protocol", "protocol must be openai or execute")
	case w.SlotsTotal < 0 || w.SlotsTotal > maxSlots:
		return invalid("slots_total", "slots_total must be from 0 to %d", maxSlots)
	case w.SlotsFree < 0 || w.SlotsFree > max(w.SlotsTotal, 1):
		return invalid("slots_free", "slots_free must be from 0 to slots_total")
	case w.MemoryBytes < 0:
		return invalid("memory_bytes", "memory_bytes must be 0 or more")
	case !printable(w.Engine) || !printable(w.ModelRef) || !printable(w.Device):
		return invalid("engine", "engine, model_ref and device must be printable")
	}
	return nil
}

type nodeList struct {
	Nodes []Hive `json:"nodes"`
}

// listHives is GET /v2/registry/beehives/list.
func (c *call) listHives() error {
	hs, err := c.hives()
	if err != nil {
		return err
	}
	if _, err := c.query(); err != nil {
		return err
	}
	all, err := hs.List(c.r.Context())
	if err != nil {
		return err
	}
	for i := range all {
		all[i].fill()
	}
	return writeJSON(c.w, http.StatusOK, nodeList{list(all)})
}

func (h *Hive) fill() {
	h.Devices, h.Workers, h.Models = list(h.Devices), list(h.Workers), list(h.Models)
	if h.Labels == nil {
		h.Labels = map[string]string{}
	}
}

// addHive is POST /v2/registry/beehives/add.
func (c *call) addHive() error {
	hs, err := c.hives()
	if err != nil {
		return err
	}
	var req NewHive
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	h, err := hs.Add(c.r.Context(), req)
	if err != nil {
		return err
	}
	h.fill()
	return writeJSON(c.w, http.StatusCreated, h)
}

func (h *NewHive) check() error {
	if err := checkName("node_name", h.NodeName); err != nil {
		return err
	}
	switch h.Mode {
	case "":
		h.Mode = "network"
		if h.SSHHost == "" {
			h.Mode = "local"
		}
	case "local", "network":
	default:
		return invalid("mode", "mode must be local or network")
	}
	if h.Mode == "network" && (h.SSHHost == "" || h.SSHHost[0] == '-' || len(h.SSHHost) > 255 || !printable(h.SSHHost)) {
		return invalid("ssh_host", "a network hive needs ssh_host, a name or an address that does not begin with '-'")
	}
	if h.SSHPort < 0 || h.SSHPort > 65535 {
		return invalid("ssh_port", "ssh_port must be from 1 to 65535")
	}
	if h.SSHUser != "" && (h.SSHUser[0] == '-' || !plain(h.SSHUser)) {
		return invalid("ssh_user", "ssh_user holds characters that no user's name has")
	}
	return nil
}

type nodeName struct {
	NodeName string `json:"node_name"`
}

// removeHive is POST /v2/registry/beehives/remove.
func (c *call) removeHive() error {
	hs, err := c.hives()
	if err != nil {
		return err
	}
	var req nodeName
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := checkName("node_name", req.NodeName); err != nil {
		return err
	}
	if err := hs.Remove(c.r.Context(), req.NodeName); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"node_name": req.NodeName, "status": "removed"})
}

type started struct {
	NodeName  string `json:"node_name"`
	Status    string `json:"status"`
	EventsURL string `json:"events_url"`
}

func operationURL(id string) string { return "/v2/operations/" + url.PathEscape(id) + "/events" }

// startHive is POST /v2/hives/{node}/start.
func (c *call) startHive() error { return c.hiveOperation(Hives.Start, "starting") }

// stopHive is POST /v2/hives/{node}/stop.
func (c *call) stopHive() error { return c.hiveOperation(Hives.Stop, "stopping") }

// drainHive is POST /v2/hives/{node}/drain.
func (c *call) drainHive() error { return c.hiveOperation(Hives.Drain, "draining") }

// upgradeHive is POST /v2/hives/{node}/upgrade.
func (c *call) upgradeHive() error { return c.hiveOperation(Hives.Upgrade, "upgrading") }

// heartbeat is POST /v2/hives/{node}/heartbeat.
func (c *call) heartbeat() error {
	hs, err := c.hives()
	if err != nil {
		return err
	}
	node, err := c.name("node")
	if err != nil {
		return err
	}
	if c.id.Scope == ScopeHive && c.id.Node != "" && c.id.Node != node {
		return refuse(CodeForbidden, "this token belongs to another hive")
	}
	b, err := c.rawObject()
	if err != nil {
		return err
	}
	if err := hs.Heartbeat(c.r.Context(), node, b); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, map[string]string{"status": "ok"})
}

func (c *call) hiveOperation(begin func(Hives, context.Context, string) (string, error), status string) error {
	hs, err := c.hives()
	if err != nil {
		return err
	}
	node, err := c.name("node")
	if err != nil {
		return err
	}
	id, err := begin(hs, c.r.Context(), node)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, started{node, status, operationURL(id)})
}
