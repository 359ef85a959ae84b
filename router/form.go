package router

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"slices"
)

// form puts the engine's name of the model, and what the model's entry sets and strips, into a multipart body. The parts that
// need no change keep their bytes; a body that needs none at all is returned as it is.
func form(j *Job, w *Worker, contentType string) ([]byte, error) {
	set := maps.Clone(j.Set)
	if w.Model != "" {
		if set == nil {
			set = map[string]string{}
		}
		set["model"] = quote(w.Model)
	}
	kind, args, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" || len(set) == 0 && len(j.Strip) == 0 {
		return j.Body, nil // what can't be read is the worker's to refuse
	}
	var out bytes.Buffer
	out.Grow(len(j.Body) + 256)
	mw := multipart.NewWriter(&out)
	if err := mw.SetBoundary(args["boundary"]); err != nil {
		return nil, refuse(CodeInvalid, 0, err, "the boundary of the multipart body is not one")
	}
	if err := copyParts(mw, multipart.NewReader(bytes.NewReader(j.Body), args["boundary"]), set, j.Strip); err != nil {
		return nil, refuse(CodeInvalid, 0, err, "the multipart body is cut or malformed")
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := mw.WriteField(name, fieldText(set[name])); err != nil {
			return nil, err
		}
	}
	if err := mw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// copyParts copies all parts but those that are stripped; what it has set it deletes from set.
func copyParts(mw *multipart.Writer, r *multipart.Reader, set map[string]string, strip []string) error {
	for {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := p.FormName()
		raw, forced := set[name]
		if !forced && slices.Contains(strip, name) {
			continue
		}
		to, err := mw.CreatePart(p.Header)
		if err != nil {
			return err
		}
		if forced {
			_, err = io.WriteString(to, fieldText(raw))
			delete(set, name)
		} else {
			_, err = io.Copy(to, p)
		}
		if err != nil {
			return err
		}
	}
}

// fieldText is a JSON value as a form has it.
func fieldText(raw string) string {
	if len(raw) > 0 && raw[0] == '"' {
		return unquote([]byte(raw))
	}
	return raw
}
