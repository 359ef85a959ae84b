package batches

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

func newID(prefix string) string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}

// upload is POST /v1/files: a form with purpose and file, in any order. The content goes to the store as it arrives.
func (b *Batches) upload(w http.ResponseWriter, r *http.Request) (any, error) {
	r.Body = http.MaxBytesReader(w, &patient{body: r.Body, rc: http.NewResponseController(w), pause: b.o.ReadTimeout}, b.o.MaxFile+64<<10)
	defer func() { _ = http.NewResponseController(w).SetReadDeadline(time.Time{}) }()
	form, err := r.MultipartReader()
	if err != nil {
		return nil, invalid("file", "send a multipart form with the fields purpose and file")
	}
	f := File{ID: newID("file-"), Tenant: caller(r).Tenant, Created: b.now()}
	keep := false
	defer func() {
		if !keep {
			_ = b.store.DeleteFile(context.WithoutCancel(r.Context()), f.ID)
		}
	}()
	if err := b.parts(r.Context(), form, &f); err != nil {
		return nil, uploadError(err, b.o.MaxFile)
	}
	switch {
	case f.Purpose != "batch":
		return nil, invalid("purpose", "purpose must be batch: that is what files are for here")
	case f.Name == "":
		return nil, invalid("file", "file is missing")
	case f.Bytes == 0:
		return nil, invalid("file", "the file is empty")
	}
	if err := b.store.SaveFile(r.Context(), f); err != nil {
		return nil, err
	}
	keep = true
	return fileOf(f), nil
}

func (b *Batches) parts(ctx context.Context, form *multipart.Reader, f *File) error {
	for n := 0; n < 16; n++ {
		p, err := form.NextPart()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch p.FormName() {
		case "purpose":
			v, err := io.ReadAll(io.LimitReader(p, 64))
			if err != nil {
				return err
			}
			f.Purpose = string(v)
		case "file":
			if f.Name != "" {
				return invalid("file", "one file at a time")
			}
			f.Name = fileName(p.FileName())
			if err := b.take(ctx, p, f); err != nil {
				return err
			}
		}
	}
	return invalid("", "the form has too many fields")
}

// take stores a file's content in chunks.
func (b *Batches) take(ctx context.Context, src io.Reader, f *File) error {
	buf := make([]byte, chunkSize)
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 {
			if f.Bytes += int64(n); f.Bytes > b.o.MaxFile {
				return &http.MaxBytesError{Limit: b.o.MaxFile}
			}
			if werr := b.store.WriteChunk(ctx, f.ID, f.Chunks, buf[:n]); werr != nil {
				return werr
			}
			f.Chunks++
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF && n < len(buf) && isWhole(src) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isWhole tells the end of a part from the end of a cut form: only the first ends in EOF once more.
func isWhole(src io.Reader) bool {
	_, err := src.Read(make([]byte, 1))
	return err == io.EOF
}

func uploadError(err error, limit int64) error {
	var big *http.MaxBytesError
	var coder httpserver.Coder
	switch {
	case errors.As(err, &coder):
		return err
	case errors.As(err, &big):
		return &httpserver.Error{ErrCode: httpserver.CodeRequestTooLarge, Param: "file", Message: "a file has at most " + strconv.FormatInt(limit, 10) + " bytes"}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, multipart.ErrMessageTooLarge), strings.Contains(err.Error(), "multipart"):
		return invalid("file", "the form was cut or is malformed")
	}
	return err
}

// fileName keeps the last element of a name, for show only.
func fileName(name string) string {
	name = path.Base(strings.ReplaceAll(name, "\\", "/"))
	if len(name) > 255 {
		name = name[:255]
	}
	if name == "." || name == "/" || name == "" {
		return "upload"
	}
	return strings.ToValidUTF8(name, "?")
}

// patient moves the read deadline along while bytes arrive.
type patient struct {
	body  io.ReadCloser
	rc    *http.ResponseController
	pause time.Duration
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(p.pause))
	return p.body.Read(b)
}

// Close implements io.Closer.
func (p *patient) Close() error { return p.body.Close() }

// file finds a file of the caller's tenant.
func (b *Batches) file(r *http.Request, id string) (File, error) {
	f, err := b.store.File(r.Context(), id)
	if errors.Is(err, ErrNotFound) || err == nil && f.Tenant != caller(r).Tenant {
		return File{}, notFound("file", id)
	}
	return f, err
}

func (b *Batches) listFiles(r *http.Request) (any, error) {
	limit, err := limitOf(r, 1000, 10000)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	if o := q.Get("order"); o != "" && o != "desc" {
		return nil, invalid("order", "files are listed newest first: order must be desc")
	}
	all, err := b.store.Files(r.Context(), caller(r).Tenant, q.Get("purpose"), q.Get("after"), limit+1)
	return listOf(all, limit, fileOf, func(f File) string { return f.ID }), err
}

func (b *Batches) deleteFile(r *http.Request, id string) (any, error) {
	if _, err := b.file(r, id); err != nil {
		return nil, err
	}
	return map[string]any{"id": id, "object": "file", "deleted": true}, b.store.DeleteFile(r.Context(), id)
}

// content is GET /v1/files/{id}/content.
func (b *Batches) content(w http.ResponseWriter, r *http.Request, id string) error {
	f, err := b.file(r, id)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+strings.Map(safe, f.Name)+`"`)
	h.Set("Content-Length", strconv.FormatInt(f.Bytes, 10))
	if r.Method == http.MethodHead {
		return nil
	}
	// An error from here on leaves the body shorter than its stated length, which clients notice.
	if _, err := io.Copy(w, &content{ctx: r.Context(), store: b.store, file: f}); err != nil {
		b.o.Log.Warn("file was not sent whole", "file", id, "err", err)
	}
	return nil
}

func safe(c rune) rune {
	if c < 0x20 || c == '"' || c == '\\' || c > 0x7e {
		return '_'
	}
	return c
}
