package batches

import (
	"context"
	"errors"
	"time"
)

// ErrNotFound is wrapped by a Store for a file, chunk or batch that it does not have.
var ErrNotFound = errors.New("not found")

// File is an uploaded or written file; its content is in chunks numbered from 0.
type File struct {
	ID      string    `json:"id"`
	Tenant  string    `json:"tenant"`
	Name    string    `json:"name"`
	Purpose string    `json:"purpose"` // batch, batch_output
	Bytes   int64     `json:"bytes"`
	Chunks  int       `json:"chunks"`
	Created time.Time `json:"created"`
}

// Status is what a batch is doing.
type Status string

// The statuses of a batch; the last four are final.
const (
	Validating Status = "validating"
	InProgress Status = "in_progress"
	Finalizing Status = "finalizing"
	Cancelling Status = "cancelling"
	Completed  Status = "completed"
	Failed     Status = "failed"
	Expired    Status = "expired"
	Cancelled  Status = "cancelled"
)

// Final reports whether nothing happens to the batch any more.
func (s Status) Final() bool {
	return s == Completed || s == Failed || s == Expired || s == Cancelled
}

// Batch is a batch as it is stored.
type Batch struct {
	ID         string               `json:"id"`
	Tenant     string               `json:"tenant"`
	KeyID      string               `json:"key_id,omitempty"`
	Models     []string             `json:"models,omitempty"` // the key's allow-list
	Endpoint   string               `json:"endpoint"`
	Input      string               `json:"input"`
	Output     string               `json:"output,omitempty"`
	ErrorFile  string               `json:"error_file,omitempty"`
	Status     Status               `json:"status"`
	Created    time.Time            `json:"created"`
	Expires    time.Time            `json:"expires"`
	At         map[Status]time.Time `json:"at,omitempty"` // when each later status began
	Total      int                  `json:"total"`
	Completed  int                  `json:"completed"`
	Failed     int                  `json:"failed"`
	Errors     []LineError          `json:"errors,omitempty"`
	Metadata   map[string]string    `json:"metadata,omitempty"`
	BodyHash   string               `json:"body_hash,omitempty"` // of the request that made it, when it had an Idempotency-Key
	Correlated string               `json:"correlation_id,omitempty"`
}

// LineError is why a batch failed validation.
type LineError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"`
	Line    int    `json:"line,omitempty"` // from 1
}

// Line is a finished line of a batch: one line of its output or error file, without the line feed.
type Line struct {
	Number int // from 1
	Failed bool
	Data   []byte
}

// Store keeps files, batches and finished lines. Its methods are safe for concurrent use, and what they wrote is durable
// when they return. Saving again under the same id, chunk or line number replaces.
type Store interface {
	SaveFile(ctx context.Context, f File) error
	File(ctx context.Context, id string) (File, error)
	// Files lists a tenant's files, newest first, after the file with the id after (or from the first).
	Files(ctx context.Context, tenant, purpose, after string, limit int) ([]File, error)
	// DeleteFile removes the record and every chunk, also of a file that was never saved.
	DeleteFile(ctx context.Context, id string) error
	WriteChunk(ctx context.Context, file string, seq int, data []byte) error
	ReadChunk(ctx context.Context, file string, seq int) ([]byte, error)

	SaveBatch(ctx context.Context, b Batch) error
	Batch(ctx context.Context, id string) (Batch, error)
	// Batches lists a tenant's batches, newest first, after the batch with the id after (or from the first).
	Batches(ctx context.Context, tenant, after string, limit int) ([]Batch, error)
	// Unfinished lists every tenant's batches whose status is not final, oldest first.
	Unfinished(ctx context.Context) ([]Batch, error)
	// SaveLines stores finished lines and the batch with its new counts in one step.
	SaveLines(ctx context.Context, b Batch, lines []Line) error
	// Lines returns finished lines with a number above after, in order.
	Lines(ctx context.Context, batch string, after, limit int) ([]Line, error)
	DropLines(ctx context.Context, batch string) error
}
