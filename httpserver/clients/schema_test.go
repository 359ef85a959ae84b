package clients

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/httpserver/clients/payload"
)

// TestPayloads holds each kind of answer against its schema.
func TestPayloads(t *testing.T) {
	all, err := payload.New()
	if err != nil {
		t.Fatal(err)
	}
	g := newRig(t)
	valid := func(name, text string) {
		t.Helper()
		if err := all.Check(name, []byte(text)); err != nil {
			t.Error(err)
		}
	}
	stream := ask(t, g, "POST", "/v1/chat/completions", `{"model":"stories","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}`)
	if err := all.Answer("POST", "/v1/chat/completions", 200, "text/event-stream", []byte(stream), false); err != nil {
		t.Error(err)
	}
	for _, bad := range [][3]string{{"GET", "/v1/models/none", ""}, {"POST", "/v1/chat/completions", "{"}, {"DELETE", "/v1/models", ""}, {"GET", "/v1/files/none", ""},
		{"POST", "/v1/batches", "{}"}, {"POST", "/v1/none", "{}"}, {"POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"quota"}]}`}} {
		valid("error", ask(t, g, bad[0], bad[1], bad[2]))
	}
	valid("models", ask(t, g, "GET", "/v1/models", ""))
	valid("model", ask(t, g, "GET", "/v1/models/stories", ""))
	valid("chat", ask(t, g, "POST", "/v1/chat/completions", `{"model":"stories","messages":[{"role":"user","content":"x"}]}`))
	valid("completion", ask(t, g, "POST", "/v1/completions", `{"model":"stories","prompt":"x"}`))
	valid("embeddings", ask(t, g, "POST", "/v1/embeddings", `{"model":"stories","input":"x"}`))
	file := upload(t, g, "nonsense")
	valid("file", file)
	valid("files", ask(t, g, "GET", "/v1/files", ""))
	id := field(t, file, "id")
	b := ask(t, g, "POST", "/v1/batches", fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/completions","completion_window":"24h"}`, id))
	for valid("batch", b); field(t, b, "status") != "failed"; valid("batch", b) {
		b = ask(t, g, "GET", "/v1/batches/"+field(t, b, "id"), "")
	}
	valid("batches", ask(t, g, "GET", "/v1/batches", ""))
	valid("deleted", ask(t, g, "DELETE", "/v1/files/"+id, ""))
	valid("files", ask(t, g, "GET", "/v1/files", ""))
}

func field(t *testing.T, text, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, `"`+name+`":"`)
	value, _, end := strings.Cut(rest, `"`)
	if !ok || !end {
		t.Fatalf("no %s in %s", name, text)
	}
	return value
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
