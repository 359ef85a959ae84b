package httpserver_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/queen-rbee/queen-rbee/httpserver"
)

func sameJSON(t *testing.T, got []byte, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestOllamaTranslation checks the bodies that engines get.
func TestOllamaTranslation(t *testing.T) {
	g, _, _ := fullRig(t, false)
	for _, c := range []struct{ path, body, want string }{
		{"/api/chat", `{"model":"stories","messages":[{"role":"user","content":"hi"}],"options":{"num_predict":5,"num_ctx":4096,"temperature":0,"stop":["x"]},"keep_alive":"5m"}`,
			`{"model":"stories","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5,"temperature":0,"stop":["x"]}`},
		{"/api/chat", `{"model":"stories:latest","stream":false,"format":"json","think":false,"messages":[{"role":"user","content":"what","images":["/9j/AAA"]}]}`,
			`{"model":"stories","stream":false,"response_format":{"type":"json_object"},"chat_template_kwargs":{"enable_thinking":false},
			"messages":[{"role":"user","content":[{"type":"text","text":"what"},{"type":"image_url","image_url":{"url":"data:image/jpeg;base64,/9j/AAA"}}]}]}`},
		{"/api/chat", `{"model":"stories","tools":[{"type":"function"}],"messages":[{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":1}}},{"function":{"name":"g","arguments":{}}}]},
			{"role":"tool","content":"2","tool_name":"g"},{"role":"tool","content":"1"}]}`,
			`{"model":"stories","stream":true,"tools":[{"type":"function"}],"messages":[{"role":"assistant","content":"","tool_calls":[
			{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"call_2","type":"function","function":{"name":"g","arguments":"{}"}}]},
			{"role":"tool","content":"2","tool_call_id":"call_2"},{"role":"tool","content":"1","tool_call_id":"call_1"}]}`},
		{"/api/generate", `{"model":"stories","prompt":"p","system":"s","options":{"num_predict":-1},"format":{"type":"object"}}`,
			`{"model":"stories","stream":true,"messages":[{"role":"system","content":"s"},{"role":"user","content":"p"}],
			"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{"type":"object"}}}}`},
		{"/api/generate", `{"model":"stories","prompt":"p","raw":true,"stream":false}`, `{"model":"stories","prompt":"p","stream":false}`},
		{"/api/generate", `{"model":"stories","prompt":"p","suffix":"z"}`, `{"model":"stories","prompt":"p","suffix":"z","stream":true}`},
		{"/api/embed", `{"model":"stories","input":["a","b"]}`, `{"model":"stories","input":["a","b"]}`},
		{"/api/embeddings", `{"model":"stories","prompt":"a"}`, `{"model":"stories","input":"a"}`},
	} {
		resp, body := g.do(t, "POST", c.path, c.body)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", c.body, resp.StatusCode, body)
			continue
		}
		sameJSON(t, g.f.Last().Body, c.want)
	}
	if r := g.f.Last(); r.Surface != httpserver.SurfaceEmbeddings || r.Path != "/v1/embeddings" {
		t.Errorf("%+v", r)
	}
}

func TestOllamaAnswers(t *testing.T) {
	g, f, feed := fullRig(t, false)
	resp, body := g.do(t, "POST", "/api/chat", `{"model":"stories","messages":[{"role":"user","content":"hi"}]}`)
	lines := strings.Split(strings.TrimSpace(body), "\n")
	if resp.Header.Get("Content-Type") != "application/x-ndjson" || len(lines) != 5 || !strings.Contains(lines[4], `"done":true`) {
		t.Errorf("%s %q", resp.Header.Get("Content-Type"), lines)
	}
	_, body = g.do(t, "POST", "/api/embed", `{"model":"stories","input":"a"}`)
	if !strings.Contains(body, `"embeddings":[[0.5,0.25]]`) || !strings.Contains(body, `"prompt_eval_count":2`) {
		t.Error(body)
	}
	if _, body = g.do(t, "POST", "/api/embeddings", `{"model":"stories","prompt":"a"}`); body != `{"embedding":[0.5,0.25]}`+"\n" {
		t.Error(body)
	}
	for _, c := range []struct{ method, path, body, part, asked string }{
		{"GET", "/api/tags", "", `"name":"org/model"`, ""}, {"GET", "/api/version", "", `{"version":"0.12.0"}`, ""},
		{"GET", "/api/ps", "", `"size_vram":7`, ""}, {"POST", "/api/show", `{"model":"stories"}`, `"capabilities":["completion"]`, ""},
		{"POST", "/api/chat", `{"model":"stories","messages":[]}`, `"done_reason":"load"`, "load stories "},
		{"POST", "/api/generate", `{"model":"stories","keep_alive":300}`, `"response":""`, "load stories 5m0s"},
		{"POST", "/api/generate", `{"model":"stories","keep_alive":0}`, `"done_reason":"unload"`, "unload stories"},
		{"POST", "/api/generate", `{"model":"stories","keep_alive":"-1"}`, `"done_reason":"load"`, "load stories -1s"},
		{"POST", "/api/show", `{"model":"none"}`, `{"error":"no model none`, ""}, {"POST", "/api/generate", `{"model":"stories","keep_alive":"x"}`, `{"error":"keep_alive`, ""},
	} {
		_, body := g.do(t, c.method, c.path, c.body)
		if !strings.Contains(body, c.part) || (c.asked != "" && f.last() != c.asked) {
			t.Errorf("%s %s: %s; asked %q", c.path, c.body, body, f.last())
		}
	}
	feed.events = []httpserver.Event{{ID: 1, Type: "progress", Data: []byte(`{"state":"downloading","bytes_done":1,"bytes_total":2}`)}, {ID: 2, Type: "end", Data: []byte(`{"state":"ready"}`)}}
	want := `{"status":"pulling manifest"}` + "\n" + `{"status":"pulling model","digest":"sha256:","total":2,"completed":1}` + "\n" + `{"status":"success"}` + "\n"
	if _, body = g.do(t, "POST", "/api/pull", `{"model":"hf:a/b"}`); body != want {
		t.Error(body)
	}
	if _, body = g.do(t, "POST", "/api/pull", `{"model":"hf:a/b","stream":false}`); body != `{"status":"success"}`+"\n" {
		t.Error(body)
	}
	feed.events = []httpserver.Event{{ID: 1, Type: "end", Data: []byte(`{"state":"failed","message":"no such model"}`)}}
	if resp, body = g.do(t, "POST", "/api/pull", `{"model":"hf:a/b","stream":false}`); resp.StatusCode != 502 || body != `{"error":"no such model"}`+"\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if _, body = g.do(t, "POST", "/api/pull", `{"model":"hf:a/b"}`); !strings.HasSuffix(body, `{"error":"no such model"}`+"\n") {
		t.Error(body)
	}
}

// TestPassThrough sends one request to each kind of endpoint that only an engine knows.
func TestPassThrough(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	g.f.OnServe = func(_ context, _ *httpserver.Request, w http.ResponseWriter, v httpserver.View) error {
		_, err := w.Write([]byte("stream of " + v.Format))
		return err
	}
	g.f.OnResult = func(_ context, r *httpserver.Request, v httpserver.View) (*httpserver.Result, error) {
		return &httpserver.Result{Header: http.Header{"Content-Type": {"audio/wav"}, "Connection": {"close"}}, Body: []byte(r.Path + " " + v.Format)}, nil
	}
	form := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\xff\x00\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b--\r\n"
	for _, c := range []struct{ path, kind, body, model, want string }{
		{"/v1/responses", "application/json", `{"model":"m","input":"hi","stream":true,"max_output_tokens":5}`, "m", "stream of raw"},
		{"/v1/messages", "application/json", `{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":9}`, "m", "/v1/messages raw"},
		{"/v1/rerank", "application/json", `{"model":"m","query":"q","documents":["a","b"]}`, "m", "/v1/rerank raw"},
		{"/v1/audio/speech", "application/json", `{"model":"tts","input":"hi"}`, "tts", "/v1/audio/speech raw"},
		{"/v1/audio/transcriptions", "multipart/form-data; boundary=b", form, "whisper", "/v1/audio/transcriptions raw"},
		{"/v1/images/generations", "application/json", `{"model":"sd","prompt":"a bee"}`, "sd", "/v1/images/generations raw"},
		{"/v1/engines/own/thing", "application/json", `{"model":"m","anything":{"goes":[1,2]}}`, "m", "/v1/engines/own/thing raw"},
	} {
		resp, body := g.do(t, "POST", c.path, c.body, "Content-Type", c.kind)
		r := g.f.Last()
		if resp.StatusCode != 200 || body != c.want || r.Model != c.model || string(r.Body) != c.body || r.ContentType != c.kind || r.Surface != httpserver.SurfaceRaw || r.Path != c.path {
			t.Errorf("%s: %d %q %+v", c.path, resp.StatusCode, body, r)
		}
	}
	for name, bad := range map[string]string{"no model": strings.Replace(form, `"model"`, `"other"`, 1), "cut": form[:60], "twice": strings.Replace(form, `"file"; filename="a.wav"`, `"model"`, 1),
		"many": strings.Repeat("--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nx\r\n", 200)} {
		if resp, _ := g.do(t, "POST", "/v1/audio/transcriptions", bad, "Content-Type", "multipart/form-data; boundary=b"); resp.StatusCode != 400 {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	g := newRig(t, false, httpserver.Options{})
	first, _ := g.do(t, "POST", "/v1/chat/completions", chatBody, "Idempotency-Key", "k1")
	again, _ := g.do(t, "POST", "/v1/chat/completions", chatBody, "Idempotency-Key", "k1")
	if a, b := first.Header.Get("X-Rbee-Job-Id"), again.Header.Get("X-Rbee-Job-Id"); a == "" || a != b {
		t.Errorf("%q and %q", a, b)
	}
	if other, body := g.do(t, "POST", "/v1/chat/completions", strings.Replace(chatBody, "Once", "Twice", 1), "Idempotency-Key", "k1"); other.StatusCode != 409 {
		t.Errorf("%d %s", other.StatusCode, body)
	}
	if r, _ := g.do(t, "POST", "/v1/completions", `{"model":"stories","prompt":"x"}`, "Idempotency-Key", "k1"); r.StatusCode != 409 {
		t.Errorf("the same key on another path: %d", r.StatusCode)
	}
}

func TestEditBody(t *testing.T) {
	for _, c := range []struct {
		in    string
		set   map[string]string
		strip []string
		want  string
	}{
		{`{"a":1, "b":2}`, nil, nil, `{"a":1, "b":2}`},
		{`{"a":1, "b":2}`, map[string]string{"b": "3", "z": "[]", "c": `"x"`}, []string{"a", "b"}, `{"b":3,"c":"x","z":[]}`},
		{`{"\u0061":1,"q\"":2}`, nil, []string{"a"}, `{"q\"":2}`},
		{`{}`, map[string]string{"t": "0"}, nil, `{"t":0}`},
	} {
		got, err := httpserver.EditBody([]byte(c.in), c.set, c.strip)
		if err != nil || string(got) != c.want {
			t.Errorf("%s -> %s %v", c.in, got, err)
		}
	}
	if _, err := httpserver.EditBody([]byte(`[]`), map[string]string{"a": "1"}, nil); err == nil {
		t.Error("an array was edited")
	}
}
