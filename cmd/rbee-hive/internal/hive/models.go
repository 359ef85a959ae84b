package hive

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/cmd/rbee-hive/internal/store"
	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func (h *Hive) provision(w http.ResponseWriter, r *http.Request) {
	var in hiveapi.ProvisionRequest
	if !read(w, r, &in) {
		return
	}
	if in.ModelRef == "" || len(in.ModelRef) > 512 || strings.ContainsAny(in.ModelRef, "\x00\r\n") {
		refuse(w, http.StatusBadRequest, "INVALID_MODEL_REF", "model_ref is missing or not a reference", nil)
		return
	}
	h.requests.begin(store.Canonical(in.ModelRef), hiveapi.RequestOf(r.Header))
	dl := h.downloads.start(in)
	// What is there already is answered at once.
	p, done, changed := dl.get()
	if !done {
		t := time.NewTimer(50 * time.Millisecond)
		defer t.Stop()
		select {
		case <-changed:
		case <-t.C:
		case <-r.Context().Done():
		}
		p, _, _ = dl.get()
	}
	reply(w, http.StatusAccepted, p)
}

func (h *Hive) provisionEvents(w http.ResponseWriter, r *http.Request) {
	dl, ok := h.downloads.find(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusNotFound, "MODEL_NOT_FOUND", "there is no such download; begin it again", nil)
		return
	}
	s := newStream(w)
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for n := uint64(1); ; n++ {
		p, done, changed := dl.get()
		if s.event(string(p.State), n, p) != nil || s.flush() != nil || done {
			return
		}
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case <-beat.C:
				s.comment("beat")
				if s.flush() != nil {
					return
				}
			case <-r.Context().Done():
				return
			case <-h.quit:
				return
			}
		}
	}
}

// cancelProvision ends a download for all who wait for it.
func (h *Hive) cancelProvision(w http.ResponseWriter, r *http.Request) {
	dl, ok := h.downloads.find(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusNotFound, "MODEL_NOT_FOUND", "there is no such download", nil)
		return
	}
	dl.cancel()
	p, _, _ := dl.get()
	reply(w, http.StatusOK, p)
}

func (h *Hive) listModels(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"models": h.models()})
}

func (h *Hive) evict(w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("model_ref")
	if ref == "" {
		refuse(w, http.StatusBadRequest, "INVALID_MODEL_REF", "say which model: ?model_ref=", nil)
		return
	}
	for _, rec := range h.sup.Workers() {
		if store.Canonical(rec.ModelRef) == store.Canonical(ref) && rec.State != hiveapi.WorkerFailed {
			refuse(w, http.StatusConflict, "CONFLICT", fmt.Sprintf("worker %s uses the model; stop it first", rec.WorkerID), map[string]any{"worker_id": rec.WorkerID})
			return
		}
	}
	if err := h.dropModel(r.Context(), ref); err != nil {
		refuseErr(w, err)
		return
	}
	h.feed.models(h.models())
	reply(w, http.StatusOK, map[string]string{"model_ref": ref, "state": string(hiveapi.ModelAbsent)})
}

// dropModel evicts a model that no worker uses. One that has just gone may still hold it for a moment.
func (h *Hive) dropModel(ctx context.Context, ref string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := h.store.Evict(ref)
		var coded interface{ Code() string }
		if err == nil || !errors.As(err, &coded) || coded.Code() != "CONFLICT" {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

var sha256RE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// file serves a model file to another hive, with ranges.
func (h *Hive) file(w http.ResponseWriter, r *http.Request) {
	sum := r.PathValue("sha256")
	if !sha256RE.MatchString(sum) {
		refuse(w, http.StatusBadRequest, "INVALID_REQUEST", "a file is named by its sha256, 64 hexadecimal digits", nil)
		return
	}
	f, err := h.store.Open(sum)
	if err != nil {
		refuseErr(w, err)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+sum+`"`)
	http.ServeContent(w, r, "", time.Time{}, f)
}
