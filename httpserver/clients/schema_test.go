package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

// schema is the part of JSON Schema that schemas.json uses.
type schema struct {
	Ref        string            `json:"$ref"`
	Type       string            `json:"type"`
	Nullable   bool              `json:"nullable"`
	Enum       []any             `json:"enum"`
	Required   []string          `json:"required"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
}

type schemas map[string]schema

func (all schemas) check(s schema, v any, at string) error {
	if s.Ref != "" {
		s = all[s.Ref]
	}
	if v == nil {
		if s.Nullable {
			return nil
		}
		return fmt.Errorf("%s is null", at)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Errorf("%s is %v, want one of %v", at, v, s.Enum)
	}
	if err := checkType(s.Type, v, at); err != nil {
		return err
	}
	if s.Items != nil {
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s is no array", at)
		}
		for i, e := range list {
			if err := all.check(*s.Items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	}
	if s.Required == nil && s.Properties == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is no object", at)
	}
	for _, k := range s.Required {
		if _, ok := m[k]; !ok {
			return fmt.Errorf("%s.%s is missing", at, k)
		}
	}
	for k, sub := range s.Properties {
		if e, ok := m[k]; ok {
			if err := all.check(sub, e, at+"."+k); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkType(want string, v any, at string) error {
	ok := true
	switch want {
	case "string":
		_, ok = v.(string)
	case "boolean":
		_, ok = v.(bool)
	case "object":
		_, ok = v.(map[string]any)
	case "number":
		_, ok = v.(float64)
	case "integer":
		f, isNumber := v.(float64)
		ok = isNumber && f == float64(int64(f))
	}
	if !ok {
		return fmt.Errorf("%s is %T, want %s", at, v, want)
	}
	return nil
}

// TestPayloads holds each kind of answer against its schema.
func TestPayloads(t *testing.T) {
	raw, err := os.ReadFile("schemas.json")
	if err != nil {
		t.Fatal(err)
	}
	var all schemas
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if all.check(all["error"], map[string]any{"error": map[string]any{"message": "x"}}, "") == nil {
		t.Fatal("the checker accepts anything")
	}
	g := newRig(t)
	valid := func(name, text string) map[string]any {
		t.Helper()
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%s: %v in %s", name, err, text)
		}
		if err := all.check(all[name], v, name); err != nil {
			t.Errorf("%v in %s", err, text)
		}
		return v
	}
	valid("models", ask(t, g, "GET", "/v1/models", ""))
	valid("model", ask(t, g, "GET", "/v1/models/stories", ""))
	valid("chat", ask(t, g, "POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"x"}]}`))
	valid("completion", ask(t, g, "POST", "/v1/completions", `{"model":"stories","prompt":"x"}`))
	valid("embeddings", ask(t, g, "POST", "/v1/embeddings", `{"model":"stories","input":"x"}`))
	stream := ask(t, g, "POST", "/v1/chat/completions", `{"model":"stories","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}`)
	for line := range strings.SplitSeq(stream, "\n\n") {
		if line = strings.TrimPrefix(line, "data: "); line != "" && line != "[DONE]" {
			valid("chunk", line)
		}
	}
	for _, bad := range [][3]string{{"GET", "/v1/models/none", ""}, {"POST", "/v1/chat/completions", "{"}, {"DELETE", "/v1/models", ""}, {"GET", "/v1/files/none", ""},
		{"POST", "/v1/batches", "{}"}, {"POST", "/v1/none", "{}"}, {"POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"quota"}]}`}} {
		valid("error", ask(t, g, bad[0], bad[1], bad[2]))
	}
	file := valid("file", upload(t, g, "nonsense"))
	valid("files", ask(t, g, "GET", "/v1/files", ""))
	b := valid("batch", ask(t, g, "POST", "/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/completions","completion_window":"24h"}`, file["id"])))
	for b["status"] != "failed" {
		b = valid("batch", ask(t, g, "GET", fmt.Sprint("/v1/batches/", b["id"]), ""))
	}
	valid("batches", ask(t, g, "GET", "/v1/batches", ""))
	valid("deleted", ask(t, g, "DELETE", fmt.Sprint("/v1/files/", file["id"]), ""))
	valid("files", ask(t, g, "GET", "/v1/files", ""))
}

func ask(t *testing.T, g *rig, method, path, body string, header ...string) string {
	t.Helper()
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer infer")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func upload(t *testing.T, g *rig, content string) string {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.WriteField("purpose", "batch")
	p, err := w.CreateFormFile("file", "in.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(p, content)
	_ = w.Close()
	return ask(t, g, "POST", "/v1/files", b.String(), "Content-Type", w.FormDataContentType())
}
