package batches

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// ServeHTTP answers /v1/files... and /v1/batches....
func (b *Batches) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := b.route(w, r)
	if err != nil {
		httpserver.WriteError(w, r, err)
		return
	}
	if answer == nil {
		return
	}
	body, err := json.Marshal(answer)
	if err != nil {
		httpserver.WriteError(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

// route finds the endpoint. A nil answer was written already.
func (b *Batches) route(w http.ResponseWriter, r *http.Request) (any, error) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	id := ""
	if len(parts) > 1 {
		id = parts[1]
		parts[1] = "{id}"
	}
	switch method + " " + strings.Join(parts, "/") {
	case "POST files":
		return b.upload(w, r)
	case "GET files":
		return b.listFiles(r)
	case "GET files/{id}":
		f, err := b.file(r, id)
		return fileOf(f), err
	case "GET files/{id}/content":
		return nil, b.content(w, r, id)
	case "DELETE files/{id}":
		return b.deleteFile(r, id)
	case "POST batches":
		return b.create(w, r)
	case "GET batches":
		return b.listBatches(r)
	case "GET batches/{id}":
		batch, err := b.batch(r, id)
		return batchOf(batch), err
	case "POST batches/{id}/cancel":
		if _, err := b.batch(r, id); err != nil {
			return nil, err
		}
		batch, err := b.cancel(r.Context(), id)
		return batchOf(batch), err
	}
	return nil, notFound("endpoint", r.URL.Path)
}

// batch finds a batch of the caller's tenant.
func (b *Batches) batch(r *http.Request, id string) (Batch, error) {
	batch, err := b.store.Batch(r.Context(), id)
	if errors.Is(err, ErrNotFound) || err == nil && batch.Tenant != caller(r).Tenant {
		return Batch{}, notFound("batch", id)
	}
	return batch, err
}

func (b *Batches) listBatches(r *http.Request) (any, error) {
	limit, err := limitOf(r, 20, 100)
	if err != nil {
		return nil, err
	}
	all, err := b.store.Batches(r.Context(), caller(r).Tenant, r.URL.Query().Get("after"), limit+1)
	return listOf(all, limit, batchOf, func(b Batch) string { return b.ID }), err
}

func limitOf(r *http.Request, standard, most int) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return standard, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		return 0, invalid("limit", "limit must be a whole number from 1 to "+strconv.Itoa(most))
	}
	return n, nil
}

type newBatch struct {
	Input    string            `json:"input_file_id"`
	Endpoint string            `json:"endpoint"`
	Window   string            `json:"completion_window"`
	Metadata map[string]string `json:"metadata"`
}

func (n *newBatch) check() error {
	if n.Input == "" {
		return invalid("input_file_id", "input_file_id is missing: upload a file with purpose batch first")
	}
	if n.Window != "24h" {
		return invalid("completion_window", "completion_window must be 24h")
	}
	switch n.Endpoint {
	case "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/v1/messages":
	default:
		return invalid("endpoint", "endpoint must be one of /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/rerank")
	}
	if len(n.Metadata) > 16 {
		return invalid("metadata", "metadata has at most 16 entries")
	}
	for k, v := range n.Metadata {
		if len(k) > 64 || len(v) > 512 {
			return invalid("metadata", "metadata keys have at most 64 bytes and values at most 512")
		}
	}
	return nil
}

// create is POST /v1/batches. With an Idempotency-Key the same request gets the same batch.
func (b *Batches) create(w http.ResponseWriter, r *http.Request) (any, error) {
	body, err := b.body(w, r)
	if err != nil {
		return nil, err
	}
	var n newBatch
	if err := strict.Value(body, 16); err != nil {
		return nil, invalid("", "the body is not acceptable JSON: "+err.Error())
	}
	var te *json.UnmarshalTypeError
	if err := json.Unmarshal(body, &n); errors.As(err, &te) && te.Field != "" {
		return nil, invalid(te.Field, te.Field+" can't be a "+te.Value)
	} else if err != nil {
		return nil, invalid("", "the body must be a JSON object with input_file_id, endpoint and completion_window")
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	who := caller(r)
	f, err := b.file(r, n.Input)
	var missing *httpserver.Error
	if errors.As(err, &missing) && missing.Param == "id" {
		missing.Param = "input_file_id"
	}
	if err != nil {
		return nil, err
	}
	if f.Purpose != "batch" {
		return nil, invalid("input_file_id", "the input file must have purpose batch")
	}
	now := b.now()
	batch := Batch{ID: newID("batch_"), Tenant: who.Tenant, KeyID: who.KeyID, Models: who.Models, Endpoint: n.Endpoint, Input: n.Input, Status: Validating,
		Created: now, Expires: now.Add(b.o.Window), Metadata: n.Metadata, Correlated: w.Header().Get("X-Correlation-Id")}
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		batch.ID = "batch_" + digest(who.Tenant, key)[:24]
		batch.BodyHash = digest(string(body))
		b.saving.Lock()
		defer b.saving.Unlock()
		switch first, err := b.store.Batch(r.Context(), batch.ID); {
		case err == nil && first.BodyHash != batch.BodyHash:
			return nil, &httpserver.Error{ErrCode: httpserver.CodeConflict, Message: "another batch was made with this Idempotency-Key: use a new one"}
		case err == nil:
			return batchOf(first), nil
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	if err := b.store.SaveBatch(r.Context(), batch); err != nil {
		return nil, err
	}
	b.kick()
	return batchOf(batch), nil
}

// body reads the body of a request to make a batch, which is small and comes soon.
func (b *Batches) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	const limit = 64 << 10
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(b.o.ReadTimeout))
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &httpserver.Error{ErrCode: httpserver.CodeRequestTooLarge, Message: "the body is larger than 65536 bytes"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return nil, &httpserver.Error{ErrCode: httpserver.CodeRequestTimeout, Message: "the body did not arrive within " + b.o.ReadTimeout.String()}
	case err != nil:
		w.Header().Set("Connection", "close")
		return nil, invalid("", "the body could not be read to its end")
	}
	return body, nil
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(strconv.Itoa(len(p)) + ":" + p))
	}
	return hex.EncodeToString(h.Sum(nil))
}
