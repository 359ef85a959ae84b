package hive

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

const maxBody = 1 << 20

// handler is the hive's HTTP API.
func (h *Hive) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+hiveapi.PathHealth, h.health)
	mux.HandleFunc("POST "+hiveapi.PathWorkerReady, h.workerReady)
	auth := func(pattern string, fn http.HandlerFunc) { mux.Handle(pattern, h.authenticated(h.logged(fn))) }
	auth("GET "+hiveapi.PathStatus, h.status)
	auth("GET "+hiveapi.PathWatch, h.watch)
	auth("POST "+hiveapi.PathSpawn, h.spawn)
	auth("GET "+hiveapi.PathWorkers, h.workers)
	auth("POST "+hiveapi.PathWorkerShutdown, h.workerShutdown)
	auth("POST "+hiveapi.PathProvision, h.provision)
	auth("GET "+hiveapi.PathProvision+"/{id}/events", h.provisionEvents)
	auth("DELETE "+hiveapi.PathProvision+"/{id}", h.cancelProvision)
	auth("GET "+hiveapi.PathModels, h.listModels)
	auth("DELETE "+hiveapi.PathEvict, h.evict)
	auth("GET "+hiveapi.PathEngines, h.engines)
	auth("POST "+hiveapi.PathEngineInstall, h.engineInstall)
	auth("PUT "+hiveapi.PathEngineBundle+"{name}", h.engineReceive)
	auth("POST "+hiveapi.PathEngineUse, h.engineUse)
	auth("POST "+hiveapi.PathEngineRemove, h.engineRemove)
	auth("GET "+hiveapi.PathLogs, h.logs)
	auth("GET "+hiveapi.PathMetrics, h.metrics)
	auth("POST "+hiveapi.PathShutdown, h.shutdown)
	auth("POST "+hiveapi.PathLogLevel, h.logLevel)
	auth("GET "+hiveapi.PathFiles+"{sha256}", h.file)
	auth("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "INVALID_REQUEST", fmt.Sprintf("a hive has no %s %.80s", r.Method, r.URL.Path), nil)
	})
	return mux
}

// authenticated asks for the token, compared in constant time.
func (h *Hive) authenticated(next http.HandlerFunc) http.Handler {
	want := sha256.Sum256([]byte(h.c.token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token))
		if !ok || len(token) > 4096 || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED", "this hive takes commands from its own queen only; send the token that it was started with", nil)
			return
		}
		next(w, r)
	})
}

var nonceRE = regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`)

func (h *Hive) health(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	draining := h.draining
	h.mu.Unlock()
	out := hiveapi.Health{Status: "ok", ID: h.c.id, Node: h.c.name, Version: h.c.version, Epoch: h.epoch, PID: os.Getpid()}
	if draining {
		out.Status = "draining"
	}
	if nonce := r.URL.Query().Get("nonce"); nonce != "" {
		if !nonceRE.MatchString(nonce) {
			refuse(w, http.StatusBadRequest, "INVALID_REQUEST", "a nonce is 16 to 128 letters and digits", nil)
			return
		}
		out.Proof = hiveapi.Proof(h.c.token, h.c.id, nonce)
	}
	reply(w, http.StatusOK, out)
}

func (h *Hive) status(w http.ResponseWriter, r *http.Request) {
	h.refresh(r.Context())
	s := h.feed.snapshot()
	s.Workers = sortWorkers(s.Workers)
	reply(w, http.StatusOK, s)
}

// watch is the stream by which a queen knows its hive.
func (h *Hive) watch(w http.ResponseWriter, r *http.Request) {
	watcher, stop := h.feed.watch()
	defer stop()
	if q := r.URL.Query(); q.Has("beat") {
		h.setBeat(askedBeat(q))
	}
	s := newStream(w)
	for {
		events, resync := watcher.take()
		if resync {
			events = []hiveapi.Event{h.feed.full()}
		}
		for _, ev := range events {
			if err := s.event(string(ev.Kind), ev.Seq, ev); err != nil {
				return
			}
		}
		if s.flush() != nil {
			return
		}
		select {
		case <-watcher.wake:
		case <-r.Context().Done():
			return
		case <-h.quit:
			return
		}
	}
}

func (h *Hive) shutdown(w http.ResponseWriter, r *http.Request) {
	var in hiveapi.ShutdownRequest
	if !read(w, r, &in) {
		return
	}
	h.log.Info("asked to end", "keep_workers", in.KeepWorkers)
	reply(w, http.StatusAccepted, map[string]string{"status": "draining"})
	_ = http.NewResponseController(w).Flush()
	h.end(in.KeepWorkers)
}

// stream writes server-sent events with a deadline for each write.
type stream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf []byte
}

func newStream(w http.ResponseWriter) *stream {
	hd := w.Header()
	hd.Set("Content-Type", "text/event-stream")
	hd.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return &stream{w: w, rc: http.NewResponseController(w)}
}

func (s *stream) event(name string, id uint64, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.buf = fmt.Appendf(s.buf, "id: %d\nevent: %s\ndata: %s\n\n", id, name, b)
	return nil
}

func (s *stream) comment(text string) { s.buf = fmt.Appendf(s.buf, ": %s\n\n", text) }

func (s *stream) flush() error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if len(s.buf) > 0 {
		_, err := s.w.Write(s.buf)
		s.buf = s.buf[:0]
		if err != nil {
			return err
		}
	}
	return s.rc.Flush()
}

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "INTERNAL", "the answer can't be written", nil)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

func refuse(w http.ResponseWriter, status int, code, message string, details map[string]any) {
	b, err := json.Marshal(hiveapi.ErrorBody{Error: hiveapi.ErrorInfo{Code: code, Message: message, Details: details}})
	if err != nil {
		b = []byte(`{"error":{"code":"INTERNAL","message":"see the hive's log"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// refuseErr answers with an error's own code.
func refuseErr(w http.ResponseWriter, err error) {
	code := "INTERNAL"
	var coded interface{ Code() string }
	if errors.As(err, &coded) {
		code = coded.Code()
	}
	var detailed interface{ Details() map[string]any }
	var details map[string]any
	if errors.As(err, &detailed) {
		details = detailed.Details()
	}
	status := http.StatusBadGateway
	switch code {
	case "INVALID_REQUEST", "INVALID_MODEL_REF":
		status = http.StatusBadRequest
	case "MODEL_NOT_FOUND", "WORKER_NOT_FOUND":
		status = http.StatusNotFound
	case "CONFLICT":
		status = http.StatusConflict
	case "SHUTTING_DOWN", "INSUFFICIENT_VRAM":
		status = http.StatusServiceUnavailable
	case "INTERNAL":
		status = http.StatusInternalServerError
	}
	refuse(w, status, code, err.Error(), details)
}

// read decodes a bounded body, one JSON value with known fields only; on failure it has answered.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is more than one JSON value")
		}
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE", "the body is over 1 MiB", nil)
	case err != nil:
		refuse(w, http.StatusBadRequest, "INVALID_REQUEST", "the body is not the JSON that this path takes: "+err.Error(), nil)
	}
	return err == nil
}
