package hive

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/engine"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// engines lists the built-in engines with where their programs are, then every installed version.
func (h *Hive) engines(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"engines": append(h.sup.Engines(), h.installer.List()...)})
}

// engineInstall runs an installation and streams its progress. It goes on when the reader leaves: the next one who asks
// for the same finds it done.
func (h *Hive) engineInstall(w http.ResponseWriter, r *http.Request) {
	var in engine.Package
	if !read(w, r, &in) {
		return
	}
	s := newStream(w)
	ref := in.Engine + " " + in.Version
	var mu sync.Mutex
	last := hiveapi.Progress{ModelRef: ref, State: hiveapi.ModelDownloading, Message: "starting"}
	done := make(chan error, 1)
	go func() {
		err := h.installer.Install(context.WithoutCancel(r.Context()), in, func(bytes, total int64, what string) {
			mu.Lock()
			defer mu.Unlock()
			last.BytesDone, last.BytesTotal, last.Message = bytes, max(total, 0), what
		})
		if name, ok := strings.CutPrefix(in.URL, "bundle:"); ok {
			if err := h.installer.Drop(name); err != nil {
				h.log.Warn("an archive that was installed can't be removed", "name", name, "error", err)
			}
		}
		done <- err
	}()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		mu.Lock()
		p := last
		mu.Unlock()
		if s.event(string(p.State), n, p) != nil || s.flush() != nil {
			return
		}
		select {
		case err := <-done:
			p.State, p.Message = hiveapi.ModelReady, "installed and active"
			if err != nil {
				h.log.Warn("an engine could not be installed", "engine", in.Engine, "version", in.Version, "error", err)
				p.State, p.Message, p.Code = hiveapi.ModelFailed, err.Error(), "PROVISION_FAILED"
				var coded interface{ Code() string }
				if errors.As(err, &coded) {
					p.Code = coded.Code()
				}
			}
			if s.event(string(p.State), n+1, p) == nil {
				_ = s.flush()
			}
			return
		case <-tick.C:
		case <-h.quit:
			return
		}
	}
}

// engineReceive takes an archive that the queen sends because this machine can't fetch it.
func (h *Hive) engineReceive(w http.ResponseWriter, r *http.Request) {
	if err := h.installer.Receive(r.PathValue("name"), r.Body); err != nil {
		refuseErr(w, err)
		return
	}
	reply(w, http.StatusOK, map[string]string{"name": r.PathValue("name")})
}

func (h *Hive) engineUse(w http.ResponseWriter, r *http.Request) {
	h.engineChange(w, r, h.installer.Use)
}
func (h *Hive) engineRemove(w http.ResponseWriter, r *http.Request) {
	h.engineChange(w, r, h.installer.Remove)
}

func (h *Hive) engineChange(w http.ResponseWriter, r *http.Request, change func(engine, version, backend string) error) {
	var in hiveapi.UseEngineRequest
	if !read(w, r, &in) {
		return
	}
	if err := change(in.Engine, in.Version, in.Backend); err != nil {
		refuseErr(w, err)
		return
	}
	reply(w, http.StatusOK, map[string]string{"engine": in.Engine, "version": in.Version})
}
