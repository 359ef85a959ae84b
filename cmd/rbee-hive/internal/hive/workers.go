package hive

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func (h *Hive) spawn(w http.ResponseWriter, r *http.Request) {
	var in hiveapi.SpawnRequest
	if !read(w, r, &in) {
		return
	}
	if in.ModelRef == "" || len(in.ModelRef) > 512 || strings.ContainsAny(in.ModelRef, "\x00\r\n") {
		refuse(w, http.StatusBadRequest, "INVALID_MODEL_REF", "model_ref is missing or not a reference", nil)
		return
	}
	h.requests.begin(in.WorkerID, hiveapi.RequestOf(r.Header))
	if in.ModelPath == "" {
		path, err := h.modelPath(r.Context(), in)
		if err != nil {
			refuseErr(w, err)
			return
		}
		in.ModelPath = path
	}
	if m, ok := h.store.Model(in.ModelRef); ok {
		in = engine.Fit(in, m, h.devices.list(r.Context()))
	}
	rec, err := h.sup.Start(r.Context(), in)
	if err != nil {
		h.log.Warn("a worker could not be started", "request", in, "worker_id", in.WorkerID, "error", err)
		h.span(in.WorkerID, "spawn", "WORKER_FAILED", map[string]string{"worker": in.WorkerID, "model": in.Model})
		refuseErr(w, err)
		return
	}
	h.log.Info("a worker is starting", "worker_id", rec.WorkerID, "worker", rec)
	reply(w, http.StatusAccepted, rec)
}

// modelPath is what the engine is given as its model. Ollama and vLLM fetch their own kinds of reference by themselves.
func (h *Hive) modelPath(ctx context.Context, in hiveapi.SpawnRequest) (string, error) {
	adapter := in.Engine.Adapter
	if adapter == "" {
		adapter = in.Engine.Name
	}
	if name, ok := strings.CutPrefix(in.ModelRef, "ollama:"); ok && adapter == engine.Ollama {
		return name, nil
	}
	if repo, ok := strings.CutPrefix(in.ModelRef, "hf:"); ok && adapter == engine.VLLM && !strings.Contains(repo, "::") {
		repo, _, _ = strings.Cut(repo, "@")
		return repo, nil
	}
	return h.store.Path(ctx, in.ModelRef)
}

func (h *Hive) workers(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"workers": h.sup.Workers()})
}

// workerReady is a worker's own word; the spawn token is its credential.
func (h *Hive) workerReady(w http.ResponseWriter, r *http.Request) {
	var in hiveapi.ReadyRequest
	if !read(w, r, &in) {
		return
	}
	if err := h.sup.Ready(in.WorkerID, in.SpawnToken); err != nil {
		refuseErr(w, err)
		return
	}
	reply(w, http.StatusOK, map[string]string{"status": "ok"})
}

// workerShutdown begins a stop and answers; the watch stream tells when the worker is gone.
func (h *Hive) workerShutdown(w http.ResponseWriter, r *http.Request) {
	var in hiveapi.ShutdownWorkerRequest
	if !read(w, r, &in) {
		return
	}
	if _, ok := h.sup.Worker(in.WorkerID); !ok {
		refuse(w, http.StatusNotFound, "WORKER_NOT_FOUND", fmt.Sprintf("worker %.64q is not on this hive; it may be gone already", in.WorkerID), nil)
		return
	}
	grace := time.Duration(min(max(in.GraceMS, 0), 3600_000)) * time.Millisecond
	o := engine.StopOptions{}
	if in.Drain {
		if o.Drain = grace; o.Drain == 0 {
			o.Drain = 30 * time.Second
		}
	} else {
		o.Grace = grace
	}
	// Stop goes on when this request has ended: a cancelled context only ends the wait for it.
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	_ = h.sup.Stop(ctx, in.WorkerID, o)
	reply(w, http.StatusAccepted, map[string]string{"worker_id": in.WorkerID, "state": string(hiveapi.WorkerDraining)})
}
