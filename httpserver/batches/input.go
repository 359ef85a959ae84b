package batches

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

const (
	chunkSize = 256 << 10
	maxLine   = 8 << 20
	maxErrors = 100
	jsonDepth = 10_000 // what encoding/json takes; a body's own bound is kept where it is carried out
)

// inputLine is one request of the input file.
type inputLine struct {
	number   int             // from 1
	CustomID string          `json:"custom_id"`
	Method   string          `json:"method"`
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
}

// content reads a file's chunks one after the other.
type content struct {
	ctx   context.Context
	store Store
	file  File
	next  int
	rest  []byte
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.next >= c.file.Chunks {
			return 0, io.EOF
		}
		if err := c.ctx.Err(); err != nil {
			return 0, err
		}
		b, err := c.store.ReadChunk(c.ctx, c.file.ID, c.next)
		if err != nil {
			return 0, err
		}
		c.rest = b
		c.next++
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// eachLine calls fn for each line of a file that is not blank; the bytes are fn's to keep.
func (b *Batches) eachLine(ctx context.Context, id string, fn func(number int, line []byte) error) error {
	f, err := b.store.File(ctx, id)
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(&content{ctx: ctx, store: b.store, file: f}, 64<<10)
	for n := 1; ; n++ {
		line, err := readLine(r)
		if err != nil && err != io.EOF {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if ferr := fn(n, text); ferr != nil {
				return ferr
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

var errLongLine = errors.New("longer than 8 MiB")

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxLine {
			return nil, errLongLine
		}
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// lines calls fn for each request of the batch's input, which has passed validation.
func (r *run) lines(ctx context.Context, fn func(inputLine) error) error {
	return r.eachLine(ctx, r.batch.Input, func(n int, text []byte) error {
		l := inputLine{number: n}
		if err := json.Unmarshal(text, &l); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		return fn(l)
	})
}

// validate checks the whole input. ok is false when the batch has failed for it. A cancellation wins over InProgress.
func (r *run) validate(ctx context.Context) (ok bool, err error) {
	seen := map[string]bool{}
	add := func(n int, code, param, format string, args ...any) {
		if len(r.batch.Errors) < maxErrors {
			r.batch.Errors = append(r.batch.Errors, LineError{Code: code, Message: fmt.Sprintf(format, args...), Param: param, Line: n})
		}
	}
	r.batch.Errors, r.batch.Total = nil, 0
	err = r.eachLine(ctx, r.batch.Input, func(n int, text []byte) error {
		if r.batch.Total++; r.batch.Total > r.o.MaxLines {
			return errTooMany
		}
		var l inputLine
		switch err := json.Unmarshal(text, &l); {
		case err != nil || strict.Value(text, jsonDepth) != nil: // no key twice: which one counts would be a matter of who reads it
			add(n, "invalid_json_line", "", "this line is not a JSON object with custom_id, method, url and body")
		case l.CustomID == "" || len(l.CustomID) > 512:
			add(n, "missing_required_parameter", "custom_id", "custom_id must have 1 to 512 bytes")
		case seen[l.CustomID]:
			add(n, "duplicate_custom_id", "custom_id", "custom_id %.64q was used before", l.CustomID)
		case l.Method != "POST":
			add(n, "invalid_method", "method", "method must be POST")
		case l.URL != r.batch.Endpoint:
			add(n, "mismatched_endpoint", "url", "url must be the batch's endpoint %s", r.batch.Endpoint)
		case len(l.Body) == 0 || l.Body[0] != '{':
			add(n, "invalid_body", "body", "body must be an object")
		}
		seen[l.CustomID] = true
		return nil
	})
	switch {
	case errors.Is(err, errTooMany):
		add(0, "too_many_requests_in_batch", "", "a batch has at most %d lines", r.o.MaxLines)
	case errors.Is(err, errLongLine):
		add(0, "line_too_long", "", "%v", err)
	case errors.Is(err, ErrNotFound):
		add(0, "file_not_found", "input_file_id", "the input file was deleted")
	case err != nil:
		return false, err
	case r.batch.Total == 0:
		add(0, "empty_file", "input_file_id", "the input file has no lines")
	}
	if len(r.batch.Errors) > 0 {
		return false, r.setStatus(ctx, Failed)
	}
	return true, r.setStatus(ctx, InProgress)
}

var errTooMany = errors.New("too many lines")
