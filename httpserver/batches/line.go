package batches

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// outputLine is one line of an output or error file.
type outputLine struct {
	ID       string        `json:"id"`
	CustomID string        `json:"custom_id"`
	Response *lineResponse `json:"response"`
	Error    *lineError    `json:"error"`
}

type lineResponse struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

type lineError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func lineID(batch string, n int) string { return fmt.Sprintf("batch_req_%s_%d", batch, n) }

func failure(batch string, l inputLine, code, message string) Line {
	return encode(l, outputLine{ID: lineID(batch, l.number), CustomID: l.CustomID, Error: &lineError{code, message}}, true)
}

func encode(l inputLine, o outputLine, failed bool) Line {
	b, err := json.Marshal(o)
	if err != nil { // the body was not JSON
		s, _ := json.Marshal(string(o.Response.Body))
		o.Response.Body = s
		b, _ = json.Marshal(o)
	}
	return Line{Number: l.number, Failed: failed, Data: b}
}

// perform runs one line to its result. ok is false when the context ended first: the line then has no result.
func (r *run) perform(ctx context.Context, l inputLine) (res Line, ok bool) {
	id := lineID(r.batch.ID, l.number)
	lost, jobs := 0, 0
	for {
		result, err := r.once(ctx, l, fmt.Sprintf("%s-%d", id, jobs))
		if ctx.Err() != nil {
			return Line{}, false
		}
		if err == nil {
			o := outputLine{ID: id, CustomID: l.CustomID, Response: &lineResponse{result.Status, id, compact(result.Body)}}
			return encode(l, o, result.Status >= 400), true
		}
		wait, again, counts := r.patience(err)
		if counts {
			lost++
		}
		if !again || lost > maxLost {
			return refused(id, l, err), true
		}
		if startedJob(err) {
			jobs++ // the key stands for a job that failed: the next try needs another
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return Line{}, false
		}
	}
}

// once submits a line and waits for its answer. An answer under the same key is the first job's.
func (r *run) once(ctx context.Context, l inputLine, key string) (*httpserver.Result, error) {
	req, view, err := httpserver.ParseRequest(l.URL, l.Body, 0)
	if err != nil {
		return nil, err
	}
	if req.Stream {
		return nil, &httpserver.Error{ErrCode: httpserver.CodeInvalidRequest, Param: "stream", Message: "lines of a batch are not streamed"}
	}
	req.Identity = httpserver.Identity{Tenant: r.batch.Tenant, KeyID: r.batch.KeyID, Scope: httpserver.ScopeInfer, Models: r.batch.Models}
	if !req.Identity.MayUse(req.Model) {
		return nil, &httpserver.Error{ErrCode: httpserver.CodeForbidden, Param: "model", Message: "the key that made this batch may not use this model"}
	}
	sum := sha256.Sum256(append([]byte(l.URL+"\n"), l.Body...))
	req.Priority, req.IdempotencyKey, req.BodyHash = httpserver.PriorityBatch, key, hex.EncodeToString(sum[:])
	req.RequestID, req.CorrelationID = key, r.batch.Correlated
	job, err := r.submitter.Submit(ctx, req)
	if err != nil {
		var coder httpserver.Coder
		// it ran, and a crash took its answer; nobody else has used this key for another body
		if errors.As(err, &coder) && (coder.Code() == httpserver.CodeJobNotFound || coder.Code() == httpserver.CodeConflict) {
			return nil, &jobError{&httpserver.Error{ErrCode: httpserver.CodeJobNotFound, Message: err.Error()}}
		}
		return nil, err
	}
	res, err := job.Result(ctx, view)
	if err != nil {
		return nil, &jobError{err}
	}
	if res.Status == 0 {
		res.Status = http.StatusOK
	}
	return res, nil
}

// jobError marks an error of a job that was accepted: its idempotency key is used up.
type jobError struct{ error }

func (e *jobError) Unwrap() error { return e.error }

func startedJob(err error) bool {
	var j *jobError
	return errors.As(err, &j)
}

// maxLost is how often a line is tried again after its job was lost.
const maxLost = 2

// patience says whether a failed line is tried again, after how long, and whether that counts against maxLost. Refusals
// for want of room don't: they are waited out until the batch's window ends.
func (r *run) patience(err error) (wait time.Duration, again, counts bool) {
	wait = r.o.RetryWait
	var coder httpserver.Coder
	if !errors.As(err, &coder) {
		return wait, true, true
	}
	var after httpserver.RetryAfterer
	if errors.As(err, &after) && after.RetryAfter() > 0 {
		wait = min(after.RetryAfter(), 5*time.Minute)
	}
	switch coder.Code() {
	case httpserver.CodeRateLimited, httpserver.CodeQuotaExceeded, httpserver.CodeSystemAtCapacity, httpserver.CodeShuttingDown,
		httpserver.CodeModelLoading, httpserver.CodeNoHiveAvailable, httpserver.CodeInsufficientVRAM:
		return wait, true, false
	case httpserver.CodeJobNotFound, httpserver.CodeCancelled, httpserver.CodeWorkerFailed, httpserver.CodeHiveFailed, httpserver.CodeProvisionFailed, httpserver.CodeInternal:
		return wait, true, true
	}
	return 0, false, false
}

// refused renders an error as the server would have answered it.
func refused(id string, l inputLine, err error) Line {
	rec := &recorder{header: http.Header{}}
	r := &http.Request{URL: &url.URL{Path: "/v1/batch"}}
	httpserver.WriteError(rec, r, err)
	return encode(l, outputLine{ID: id, CustomID: l.CustomID, Response: &lineResponse{rec.status, id, compact(rec.body.Bytes())}}, true)
}

// recorder keeps what WriteError writes.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }

// compact puts a body on one line, and makes a string of one that is not JSON.
func compact(body []byte) json.RawMessage {
	var b bytes.Buffer
	if json.Compact(&b, body) == nil && b.Len() > 0 {
		return b.Bytes()
	}
	s, err := json.Marshal(string(body))
	if err != nil {
		return json.RawMessage("null")
	}
	return s
}
