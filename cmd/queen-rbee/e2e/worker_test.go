package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestGuestNamesMetadata: a hive that somebody else started reports workers where cloud machines keep their secrets. They are
// never asked; the client gets a clean refusal.
func TestGuestNamesMetadata(t *testing.T) {
	q := start(t, "hives: []\nmodels: {theirs: {ref: \"sim:theirs\"}}\ntimeouts: {model_wait: 2s}\n")
	admin := q.makeKey("", `{"scope":"admin","tenant_id":"ops"}`).Key
	user := q.makeKey(admin, `{"scope":"infer","tenant_id":"team"}`).Key
	for i, address := range []string{"169.254.169.254:80", "http://[::ffff:169.254.169.254]/latest/meta-data", "metadata.google.internal:80"} {
		node := fmt.Sprintf("guest%d", i)
		token := q.makeKey(admin, fmt.Sprintf(`{"scope":"hive","label":%q}`, node)).Key
		beat := map[string]any{"epoch": 1, "seq": 1, "workers": []any{map[string]any{"worker_id": "w-" + node, "model": "theirs", "model_ref": "sim:theirs",
			"engine": "sim", "state": "idle", "address": address, "protocol": "openai", "slots_total": 1, "slots_free": 1}}}
		if status, _, body := q.ask(token, "POST", "/v2/hives/"+node+"/heartbeat", beat); status != 200 {
			t.Fatalf("heartbeat: %d %s", status, body)
		}
		status, h, body := q.ask(user, "POST", "/v1/completions", `{"model":"theirs","prompt":"x"}`)
		if status != 502 && status != 503 || h.Get("X-Rbee-Error") == "" || strings.Contains(body, "169.254") {
			t.Errorf("%s: %d %s", address, status, body)
		}
		if status, _, body := q.ask(admin, "POST", "/v2/registry/beehives/remove", map[string]any{"node_name": node}); status != 200 {
			t.Fatalf("remove: %d %s", status, body)
		}
	}
}

// foreign is an external server of protocol openai, with what it was asked last.
func foreign(t *testing.T, answer http.HandlerFunc, more string) *queen {
	t.Helper()
	srv := httptest.NewServer(answer)
	t.Cleanup(srv.Close)
	return start(t, "hives: []\nexternals: [{name: far, url: \""+srv.URL+"\", protocol: openai, models: {ears: \"whisper:base\"}, slots: 2, health: /health, api_key: far-key}]\n"+more)
}

// TestWorkerRedirects: a worker that answers with a redirect is not followed, neither streamed nor not nor passed through,
// wherever it leads.
func TestWorkerRedirects(t *testing.T) {
	var led atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { led.Add(1) }))
	defer target.Close()
	q := foreign(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			return
		}
		for _, code := range []int{301, 302, 303, 307, 308, 304, 300} {
			if strings.Contains(r.Header.Get("X-Correlation-Id"), fmt.Sprint(code)) {
				w.Header().Set("Location", target.URL+r.URL.Path)
				w.Header().Set("Set-Cookie", "a=b")
				w.WriteHeader(code)
			}
		}
	}, "")
	var wg sync.WaitGroup // a worker that fails is tried again after a while: together they wait once
	for _, c := range []struct{ code, path, body string }{
		{"301", "/v1/completions", `{"model":"ears","prompt":"x"}`}, {"302", "/v1/chat/completions", `{"model":"ears","stream":true,` + hello + `}`},
		{"307", "/v1/embeddings", `{"model":"ears","input":"x"}`}, {"308", "/v1/rerank", `{"model":"ears","query":"x"}`},
		{"304", "/v1/chat/completions", `{"model":"ears",` + hello + `}`}, {"300", "/v1/responses", `{"model":"ears","stream":true,"input":"x"}`},
	} {
		wg.Go(func() {
			res, err := q.do(t.Context(), "POST", c.path, c.body, "X-Correlation-Id", "redirect-"+c.code)
			if err != nil {
				t.Error(err)
				return
			}
			data, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			clean := res.StatusCode == 502 || res.StatusCode == 503
			if res.StatusCode == 200 { // a stream that was held for long enough to begin
				clean = strings.Contains(c.body, "stream") && !strings.Contains(string(data), "[DONE]")
			}
			code := strings.Contains(string(data), `"code":"worker_failed"`) || strings.Contains(string(data), `"code":"no_hive_available"`) // or it is ejected by then
			if !clean || !code || res.Header.Get("Location") != "" ||
				res.Header.Get("Set-Cookie") != "" || strings.Contains(string(data), target.URL) {
				t.Errorf("%s to %s: %d %v %s", c.code, c.path, res.StatusCode, res.Header, data)
			}
		})
	}
	wg.Wait()
	if n := led.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

// TestWorkerSeesNoCredentials: the client's own key, cookies and addresses stay with the queen; the worker gets its own key, the
// trace and the model's name as it knows it.
func TestWorkerSeesNoCredentials(t *testing.T) {
	seen := make(chan http.Header, 16)
	q := foreign(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			return
		}
		seen <- r.Header
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"x","object":"text_completion","created":1,"model":"whisper:base","choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}`)
	}, "")
	admin := q.makeKey("", `{"scope":"admin","tenant_id":"ops"}`).Key
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, key := range []string{"Authorization", "X-Api-Key"} {
		value := map[string]string{"Authorization": "Bearer " + admin, "X-Api-Key": admin}[key]
		for _, path := range []string{"/v1/completions", "/v1/rerank"} {
			res, err := q.do(t.Context(), "POST", path, `{"model":"ears","prompt":"x"}`, key, value, "Cookie", "secret=1", "X-Forwarded-For", "10.9.8.7", "Forwarded", "for=10.9.8.7",
				"X-Rbee-Session", "mine", "Idempotency-Key", key+path, "Traceparent", trace, "OpenAI-Organization", "org-1")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != 200 {
				t.Fatalf("%s: %s", path, res.Status)
			}
			h := <-seen
			if h.Get("Authorization") != "Bearer far-key" || !strings.HasPrefix(h.Get("Traceparent"), trace[:35]) {
				t.Errorf("%s: the worker got %v", path, h)
			}
			all := fmt.Sprint(h)
			for _, secret := range []string{admin, "secret=1", "10.9.8.7", "mine", "org-1", "X-Api-Key", "Idempotency"} {
				if strings.Contains(all, secret) {
					t.Errorf("%s: the worker got %s: %v", path, secret, h)
				}
			}
		}
	}
}

// TestForm uploads sound for transcription: the worker gets the file byte by byte, and the model under its own name. No
// model that is at hand hears, so a server that takes the form apart stands in for its engine; see TestFormToAnEngine.
func TestForm(t *testing.T) {
	sound := make([]byte, 3<<20)
	_, _ = rand.Read(sound)
	sum := sha256.Sum256(sound)
	q := foreign(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			return
		}
		if err := r.ParseMultipartForm(8 << 20); err != nil {
			http.Error(w, `{"error":{"message":"no form"}}`, http.StatusBadRequest)
			return
		}
		f, head, err := r.FormFile("file")
		if err != nil {
			http.Error(w, `{"error":{"message":"no file"}}`, http.StatusBadRequest)
			return
		}
		h := sha256.New()
		_, _ = io.Copy(h, f)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"text": r.URL.Path, "model": r.FormValue("model"), "language": r.FormValue("language"), "file": head.Filename,
			"sum": hex.EncodeToString(h.Sum(nil)), "length": r.ContentLength > 0})
	}, "")
	var b bytes.Buffer
	mw := multipart.NewWriter(&b)
	part, _ := mw.CreateFormFile("file", "a.wav")
	_, _ = part.Write(sound)
	_ = mw.WriteField("model", "ears")
	_ = mw.WriteField("language", "de")
	_ = mw.Close()
	for _, path := range []string{"/v1/audio/transcriptions", "/v1/images/edits"} {
		var got struct {
			Text, Model, Language, File, Sum string
			Length                           bool
		}
		h := q.json("POST", path, b.String(), &got, 200, "Content-Type", mw.FormDataContentType())
		if got.Text != path || got.Model != "whisper:base" || got.Language != "de" || got.File != "a.wav" || got.Sum != hex.EncodeToString(sum[:]) || !got.Length {
			t.Errorf("%s: the worker got %+v", path, got)
		}
		var rec jobRecord
		q.until("the job is complete in the record", 5*time.Second, func() bool {
			q.json("GET", "/v2/tasks/"+h.Get("X-Rbee-Job-Id"), nil, &rec, 200)
			return rec.State == "complete"
		})
	}
	status, _, body := q.ask("", "POST", "/v1/audio/transcriptions", b.String()) // as JSON, which it is not
	if status != 400 || !strings.Contains(body, "JSON") {
		t.Errorf("a form that says it is JSON: %d %s", status, body)
	}
}

// TestFormToAnEngine: llama-server reads the form, and says that this model does not hear.
func TestFormToAnEngine(t *testing.T) {
	q := stories(t, "")
	var b bytes.Buffer
	mw := multipart.NewWriter(&b)
	part, _ := mw.CreateFormFile("file", "a.wav")
	_, _ = part.Write(make([]byte, 50_000))
	_ = mw.WriteField("model", "stories")
	_ = mw.Close()
	res, err := q.do(t.Context(), "POST", "/v1/audio/transcriptions", b.String(), "Content-Type", mw.FormDataContentType())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, _ := io.ReadAll(res.Body)
	var e struct {
		Error struct{ Message, Code string }
	}
	if err := json.Unmarshal(data, &e); err != nil || res.StatusCode != 404 || e.Error.Code != "not_found" || !strings.Contains(e.Error.Message, "audio") || res.Header.Get("X-Rbee-Worker-Id") == "" {
		t.Errorf("%d %v %s", res.StatusCode, res.Header, data)
	}
}
