package httpserver

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"strings"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// maxParts bounds a multipart body.
const maxParts = 128

// passThrough is any other POST /v1/... whose body names a model.
func (c *call) passThrough() error {
	path := c.r.URL.Path
	if !enginePath(path) || c.r.URL.EscapedPath() != path { // encoded, it could be another endpoint's, past that one's checks
		return invalid("", "the path is not one that an engine can have")
	}
	req := &Request{Surface: SurfaceRaw, Path: path, N: 1, ContentType: "application/json"}
	kind, args, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	limit := c.s.o.MaxBody
	isForm := err == nil && kind == "multipart/form-data"
	if isForm {
		limit = c.s.o.MaxUpload
		req.ContentType = c.r.Header.Get("Content-Type")
	}
	body, err := c.body(limit)
	if err != nil {
		return err
	}
	req.Body = body
	if isForm {
		err = formFields(body, args["boundary"], req)
	} else {
		err = parseBody(req, body, c.s.o.MaxDepth)
	}
	if err != nil {
		return err
	}
	return c.run(req, View{Format: FormatRaw, Model: req.Model})
}

// enginePath reports whether an engine can have an endpoint there.
func enginePath(path string) bool {
	return strings.HasPrefix(path, "/v1/") && !strings.Contains(path, "..") && !strings.Contains(path, "//") && !strings.Contains(path, "\\") &&
		!strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// rawField takes what routing and accounting need from a body of another API; everything else is the engine's.
func rawField(req *Request, key, v []byte) error {
	switch name := string(key); name {
	case "model":
		return modelField(v, &req.Model)
	case "stream":
		return boolField(name, v, &req.Stream)
	case "max_tokens", "max_output_tokens", "max_completion_tokens":
		return wholeField(name, v, 1, 1<<31-1, &req.MaxTokens)
	case "messages", "input", "prompt", "query", "documents":
		if v[0] == '"' || v[0] == '[' {
			req.PromptChars += chars(v, 0)
			if req.Prompt == nil || name == "messages" || name == "input" {
				req.Prompt = v
			}
		}
	}
	return nil
}

// formFields reads the fields of a multipart body that it needs, and checks that the body is whole.
func formFields(body []byte, boundary string, req *Request) error {
	if boundary == "" || len(boundary) > 70 {
		return invalid("", "the multipart body has no boundary")
	}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	seen := map[string]bool{}
	for parts := 0; ; parts++ {
		p, err := r.NextRawPart()
		if err == io.EOF {
			if req.Model == "" {
				return invalid("model", "the form must name a model: GET /v1/models lists what there is")
			}
			return nil
		}
		if err != nil || parts == maxParts {
			return invalid("", "the multipart body is cut, malformed or has more than %d parts", maxParts)
		}
		name := p.FormName()
		if name != "model" && name != "stream" && name != "prompt" {
			continue
		}
		if seen[name] {
			return invalid(name, "the multipart body has two fields %q", name)
		}
		seen[name] = true
		if err := formField(req, name, p); err != nil {
			return err
		}
	}
}

func formField(req *Request, name string, p io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(p, 64<<10))
	if err != nil {
		return invalid(name, "the multipart body is cut")
	}
	switch name {
	case "model":
		req.Model = string(b)
		if req.Model == "" {
			return invalid("model", "model is empty")
		}
		return checkModel(req.Model)
	case "stream":
		return boolField(name, trim(b), &req.Stream)
	case "prompt":
		req.PromptChars = len(b)
	}
	return nil
}

// EditBody returns a JSON object body with members set (to raw JSON values, replacing what the client sent) and members
// dropped. Set wins over strip. The order of the other members stays, and a body that needs no change is returned as
// it is.
func EditBody(body []byte, set map[string]string, strip []string) ([]byte, error) {
	if len(set) == 0 && len(strip) == 0 {
		return body, nil
	}
	drop := make(map[string]bool, len(strip)+len(set))
	for _, name := range strip {
		drop[name] = true
	}
	out := make([]byte, 0, len(body)+64)
	out = append(out, '{')
	add := func(key string, value []byte) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, quote(key)...)
		out = append(out, ':')
		out = append(out, value...)
	}
	done := map[string]bool{}
	err := strict.Object(body, 1<<20, func(k, v []byte) error {
		key := string(k)
		if forced, ok := set[key]; ok {
			v, done[key] = []byte(forced), true
		} else if drop[key] {
			return nil
		}
		add(key, v)
		return nil
	})
	if err != nil {
		return nil, invalid("", "the body is not a JSON object")
	}
	for _, key := range sortedKeys(set) {
		if !done[key] {
			add(key, []byte(set[key]))
		}
	}
	return append(out, '}'), nil
}
