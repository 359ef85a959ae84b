package batches

import (
	"net/http"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

// The objects of OpenAI's API. Times are seconds since 1970.

type fileObject struct {
	ID       string `json:"id"`
	Object   string `json:"object"`
	Bytes    int64  `json:"bytes"`
	Created  int64  `json:"created_at"`
	Filename string `json:"filename"`
	Purpose  string `json:"purpose"`
	Status   string `json:"status"`
}

func fileOf(f File) fileObject {
	return fileObject{f.ID, "file", f.Bytes, f.Created.Unix(), f.Name, f.Purpose, "processed"}
}

type batchObject struct {
	ID           string            `json:"id"`
	Object       string            `json:"object"`
	Endpoint     string            `json:"endpoint"`
	Errors       *batchErrors      `json:"errors"`
	Input        string            `json:"input_file_id"`
	Window       string            `json:"completion_window"`
	Status       Status            `json:"status"`
	Output       *string           `json:"output_file_id"`
	ErrorFile    *string           `json:"error_file_id"`
	CreatedAt    int64             `json:"created_at"`
	InProgressAt *int64            `json:"in_progress_at"`
	ExpiresAt    int64             `json:"expires_at"`
	FinalizingAt *int64            `json:"finalizing_at"`
	CompletedAt  *int64            `json:"completed_at"`
	FailedAt     *int64            `json:"failed_at"`
	ExpiredAt    *int64            `json:"expired_at"`
	CancellingAt *int64            `json:"cancelling_at"`
	CancelledAt  *int64            `json:"cancelled_at"`
	Counts       counts            `json:"request_counts"`
	Metadata     map[string]string `json:"metadata"`
}

type batchErrors struct {
	Object string       `json:"object"`
	Data   []errorEntry `json:"data"`
}

type errorEntry struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Param   *string `json:"param"`
	Line    *int    `json:"line"`
}

type counts struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
}

func batchOf(b Batch) batchObject {
	at := func(s Status) *int64 {
		t, ok := b.At[s]
		if !ok {
			return nil
		}
		sec := t.Unix()
		return &sec
	}
	o := batchObject{ID: b.ID, Object: "batch", Endpoint: b.Endpoint, Input: b.Input, Window: "24h", Status: b.Status, CreatedAt: b.Created.Unix(),
		ExpiresAt: b.Expires.Unix(), InProgressAt: at(InProgress), FinalizingAt: at(Finalizing), CompletedAt: at(Completed), FailedAt: at(Failed),
		ExpiredAt: at(Expired), CancellingAt: at(Cancelling), CancelledAt: at(Cancelled), Counts: counts{b.Total, b.Completed, b.Failed}, Metadata: b.Metadata,
		Output: pointer(b.Output), ErrorFile: pointer(b.ErrorFile)}
	if len(b.Errors) > 0 {
		o.Errors = &batchErrors{Object: "list"}
		for _, e := range b.Errors {
			entry := errorEntry{Code: e.Code, Message: e.Message, Param: pointer(e.Param)}
			if e.Line > 0 {
				entry.Line = &e.Line
			}
			o.Errors.Data = append(o.Errors.Data, entry)
		}
	}
	return o
}

func pointer(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

type listObject[T any] struct {
	Object  string  `json:"object"`
	Data    []T     `json:"data"`
	FirstID *string `json:"first_id"`
	LastID  *string `json:"last_id"`
	HasMore bool    `json:"has_more"`
}

// listOf makes the list of a page that was read with one record more than limit.
func listOf[R, T any](records []R, limit int, convert func(R) T, id func(R) string) listObject[T] {
	l := listObject[T]{Object: "list", Data: []T{}, HasMore: len(records) > limit}
	records = records[:min(limit, len(records))]
	for _, r := range records {
		l.Data = append(l.Data, convert(r))
	}
	if len(records) > 0 {
		l.FirstID, l.LastID = pointer(id(records[0])), pointer(id(records[len(records)-1]))
	}
	return l
}

func invalid(param, message string) error {
	return &httpserver.Error{ErrCode: httpserver.CodeInvalidRequest, Param: param, Message: message}
}

func notFound(what, id string) error {
	if len(id) > 64 {
		id = id[:64]
	}
	return &httpserver.Error{ErrCode: httpserver.CodeNotFound, Param: "id", Message: "no " + what + " " + id}
}

// caller is who asks; behind an httpserver.Server there always is one.
func caller(r *http.Request) httpserver.Identity {
	id, _ := httpserver.IdentityOf(r.Context())
	if id.Tenant == "" {
		id.Tenant = "default"
	}
	return id
}

func (b *Batches) now() time.Time { return b.o.Clock() }
