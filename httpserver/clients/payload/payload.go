// Package payload holds what a server answers against JSON schemas that were written from OpenAI's and Ollama's public
// descriptions of their APIs. It is for tests.
package payload

import (
	"bufio"
	"bytes"
	_ "embed" // the schemas
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed schemas.json
var schemas []byte

// where the schemas are known to the compiler.
const root = "https://queen-rbee.dev/schemas.json"

// Checker checks answers. Make one with New; it is safe for concurrent use.
type Checker struct {
	// Own says that the answers are the server's own words, not an engine's: they have all that OpenAI's description requires,
	// also what engines leave out.
	Own  bool
	defs map[string]*jsonschema.Schema
}

// New compiles the schemas.
func New() (*Checker, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schemas))
	if err != nil {
		return nil, err
	}
	top, ok := doc.(map[string]any)
	if !ok {
		return nil, errors.New("payload: schemas.json is no object")
	}
	defs, ok := top["$defs"].(map[string]any)
	if !ok {
		return nil, errors.New("payload: schemas.json has no $defs")
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(root, doc); err != nil {
		return nil, err
	}
	out := &Checker{defs: map[string]*jsonschema.Schema{}}
	for name := range defs {
		if out.defs[name], err = c.Compile(root + "#/$defs/" + name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Check holds one JSON value against the schema of that name.
func (c *Checker) Check(name string, body []byte) error {
	s, ok := c.defs[name]
	if own, strict := c.defs["own_"+name]; c.Own && strict {
		s = own
	}
	if !ok {
		return fmt.Errorf("payload: no schema %s", name)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w in %.300s", name, err, body)
	}
	if err := s.Validate(v); err != nil {
		return fmt.Errorf("%s: %w in %.300s", name, err, body)
	}
	return nil
}

// Answer holds a whole answer against what its request lets expect: method and path of the request, status, content type
// and body of the answer. cut says that the reader left before the end.
func (c *Checker) Answer(method, path string, status int, contentType string, body []byte, cut bool) error {
	name := kind(method, path)
	switch {
	case method == http.MethodHead:
		return nil
	case status >= 400 && strings.HasPrefix(path, "/api/"):
		return c.Check("ollama_error", body)
	case status >= 400:
		return c.Check("error", body)
	case name == "":
		return fmt.Errorf("payload: nothing is known of %s %s", method, path)
	case name == "content":
		return c.content(body, cut)
	case strings.HasPrefix(contentType, "text/event-stream"):
		return c.stream(name+"_chunk", body, cut)
	case strings.HasPrefix(contentType, "application/x-ndjson"):
		return c.lines(name, body, cut)
	}
	return c.Check(name, body)
}

// stream checks each chunk of an OpenAI stream, that all have one id, and that it ends with [DONE].
func (c *Checker) stream(name string, body []byte, cut bool) error {
	id, done := "", false
	sc := bufio.NewScanner(bytes.NewReader(body))
	sc.Buffer(nil, 8<<20)
	for sc.Scan() {
		data, ok := bytes.CutPrefix(sc.Bytes(), []byte("data: "))
		switch {
		case !ok:
			continue
		case done:
			return fmt.Errorf("%s: %s after [DONE]", name, data)
		case string(data) == "[DONE]":
			done = true
			continue
		}
		var v struct {
			ID    string
			Error json.RawMessage
		}
		if err := json.Unmarshal(data, &v); err != nil {
			if cut {
				return nil // the reader left in the middle of a chunk
			}
			return fmt.Errorf("%s: %w in %s", name, err, data)
		}
		if v.Error != nil {
			return c.Check("error", data)
		}
		if id == "" {
			id = v.ID
		}
		if v.ID != id {
			return fmt.Errorf("%s: id %s after %s", name, v.ID, id)
		}
		if err := c.Check(name, data); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return err
	}
	if !done && !cut {
		return fmt.Errorf("%s: the stream has no [DONE]", name)
	}
	return nil
}

// content checks the lines of a batch's output; another file may hold anything.
func (c *Checker) content(body []byte, cut bool) error {
	for line := range bytes.Lines(body) {
		var v struct {
			Response *struct {
				Status int `json:"status_code"`
				Body   json.RawMessage
			}
			Error json.RawMessage
			URL   string
		}
		if json.Unmarshal(line, &v) != nil && cut || v.URL != "" || v.Response == nil && v.Error == nil {
			return nil // a part of a line, or an input file
		}
		if err := c.Check("batch_output", line); err != nil {
			return err
		}
		if v.Response == nil {
			continue
		}
		var said struct{ Object string }
		_ = json.Unmarshal(v.Response.Body, &said) // refusals have none
		name, known := map[string]string{"chat.completion": "chat", "text_completion": "completion", "list": "embeddings"}[said.Object]
		if v.Response.Status >= 400 {
			name, known = "error", true
		}
		if !known {
			continue // of another endpoint
		}
		if err := c.Check(name, v.Response.Body); err != nil {
			return err
		}
	}
	return nil
}

// lines checks each line of an Ollama stream and that the last one says done.
func (c *Checker) lines(name string, body []byte, cut bool) error {
	done := false
	lines := bytes.SplitAfter(body, []byte("\n"))
	for _, line := range lines {
		if len(line) == 0 || cut && line[len(line)-1] != '\n' {
			continue
		}
		if err := c.Check(name, line); err != nil {
			return err
		}
		var v struct{ Done bool }
		if err := json.Unmarshal(line, &v); err != nil {
			return err
		}
		done = v.Done
	}
	if !done && !cut {
		return fmt.Errorf("%s: the stream has no last line", name)
	}
	return nil
}

// kind is the schema of what an endpoint answers, "" for endpoints that no client here uses.
func kind(method, path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	id := len(parts) > 2
	switch strings.Join(parts[:min(2, len(parts))], "/") {
	case "v1/chat":
		return "chat"
	case "v1/completions":
		return "completion"
	case "v1/embeddings":
		return "embeddings"
	case "v1/models":
		return pick(id, "model", "models")
	case "v1/files":
		switch {
		case len(parts) == 4:
			return "content"
		case method == http.MethodDelete:
			return "deleted"
		}
		return pick(id || method == http.MethodPost, "file", "files")
	case "v1/batches":
		return pick(id || method == http.MethodPost, "batch", "batches")
	case "api/chat", "api/generate", "api/embed", "api/tags", "api/ps", "api/show", "api/version":
		return "ollama_" + parts[1]
	}
	return ""
}

func pick(one bool, a, b string) string {
	if one {
		return a
	}
	return b
}
