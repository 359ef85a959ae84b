package router

import (
	"bytes"
	"crypto/rand"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"slices"
	"testing"
)

// TestForm sends a form with a file as it goes to workers of other names: its fields change, the bytes of the file don't.
func TestForm(t *testing.T) {
	file := make([]byte, 100_000)
	_, _ = rand.Read(file)
	var b bytes.Buffer
	mw := multipart.NewWriter(&b)
	_ = mw.WriteField("temperature", "1")
	part, _ := mw.CreateFormFile("file", "säge \"x\".wav")
	_, _ = part.Write(file)
	_ = mw.WriteField("model", "ears")
	_ = mw.WriteField("user", "me")
	_ = mw.Close()
	job := func(set map[string]string, strip ...string) *Job {
		return &Job{Surface: Raw, Path: "/v1/audio/transcriptions", ContentType: mw.FormDataContentType(), Body: b.Bytes(), Set: set, Strip: strip}
	}
	for name, c := range map[string]struct {
		job   *Job
		model string
		want  map[string]string
	}{
		"as it is":      {job(nil), "", map[string]string{"temperature": "1", "model": "ears", "user": "me"}},
		"model renamed": {job(nil), "whisper:base", map[string]string{"temperature": "1", "model": "whisper:base", "user": "me"}},
		"set and strip": {job(map[string]string{"temperature": "0.2", "language": `"de"`}, "user"), "", map[string]string{"temperature": "0.2", "model": "ears", "language": "de"}},
	} {
		t.Run(name, func(t *testing.T) {
			set := len(c.job.Set)
			req, err := built(c.job, &Worker{Model: c.model}, nil)
			if err != nil || req.contentType != c.job.ContentType || len(c.job.Set) != set {
				t.Fatalf("%+v %v", req, err)
			}
			form, err := multipart.NewReader(bytes.NewReader(req.body), mw.Boundary()).ReadForm(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for k, v := range form.Value {
				got[k] = v[0]
			}
			if !maps.Equal(c.want, got) {
				t.Errorf("fields %v, want %v", got, c.want)
			}
			fh := form.File["file"][0]
			f, err := fh.Open()
			if err != nil {
				t.Fatal(err)
			}
			if data, err := io.ReadAll(f); err != nil || !bytes.Equal(data, file) || fh.Filename != "säge \"x\".wav" || fh.Header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("the file: %d bytes, %v, %v", len(data), fh.Header, err)
			}
		})
	}
	if req, err := built(job(nil), &Worker{}, nil); err != nil || &req.body[0] != &b.Bytes()[0] {
		t.Errorf("a form that needs no change was copied: %v", err)
	}
	cut := job(nil)
	cut.Body = cut.Body[:50_000]
	if _, err := built(cut, &Worker{Model: "x"}, nil); codeOf(err, "") != CodeInvalid {
		t.Errorf("a cut form: %v", err)
	}
}

// FuzzForm: whatever a form is, it is refused or goes out with the worker's name of the model and everything else that it had.
func FuzzForm(f *testing.F) {
	f.Add("b", []byte("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\nContent-Type: a/b\r\n\r\n\x00\r\n--b--\r\n"))
	f.Add("b", []byte("--b\r\nContent-Disposition: form-data; name*=utf-8''model\r\nX: y\r\n\r\n--b--"))
	f.Add("x y", []byte("--x y--"))
	f.Fuzz(func(t *testing.T, boundary string, body []byte) {
		kind := mime.FormatMediaType("multipart/form-data", map[string]string{"boundary": boundary})
		if kind == "" {
			return
		}
		req, err := built(&Job{Surface: Raw, Path: "/v1/audio/transcriptions", ContentType: kind, Body: body}, &Worker{Model: "w"}, nil)
		if err != nil {
			if codeOf(err, "") != CodeInvalid {
				t.Fatal(err)
			}
			return
		}
		names := func(b []byte) (out []string, model string) {
			r := multipart.NewReader(bytes.NewReader(b), boundary)
			for {
				p, err := r.NextRawPart()
				if err != nil {
					return out, model
				}
				if p.FormName() == "model" {
					text, _ := io.ReadAll(p)
					model = string(text)
				} else {
					out = append(out, p.FormName())
				}
			}
		}
		before, _ := names(body)
		after, model := names(req.body)
		if model != "w" || !slices.Equal(before, after) {
			t.Fatalf("model %q, fields %q, before %q: %q", model, after, before, req.body)
		}
	})
}
