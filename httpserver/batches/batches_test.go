package batches_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/queen-rbee/queen-rbee/httpserver"
	"github.com/queen-rbee/queen-rbee/httpserver/batches"
	"github.com/queen-rbee/queen-rbee/httpserver/batches/batchestest"
	"github.com/queen-rbee/queen-rbee/httpserver/httpservertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	batchestest.TestStore(t, func(*testing.T) batches.Store { return batches.NewMemory() })
}

// watched is a Memory that tells when a batch was saved.
type watched struct {
	*batches.Memory
	saved chan batches.Batch
}

func newWatched() *watched { return &watched{batches.NewMemory(), make(chan batches.Batch, 10000)} }

func (w *watched) SaveBatch(ctx context.Context, b batches.Batch) error {
	defer func() { w.saved <- b }()
	return w.Memory.SaveBatch(ctx, b)
}

func (w *watched) SaveLines(ctx context.Context, b batches.Batch, l []batches.Line) error {
	defer func() { w.saved <- b }()
	return w.Memory.SaveLines(ctx, b, l)
}

// until waits for a save that satisfies ok.
func (w *watched) until(t *testing.T, ok func(batches.Batch) bool) batches.Batch {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case b := <-w.saved:
			if ok(b) {
				return b
			}
		case <-limit:
			t.Fatal("the batch did not get there")
		}
	}
}

type rig struct {
	f     *httpservertest.Submitter
	store *watched
	b     *batches.Batches
	ts    *httptest.Server
	stop  func()
}

func newRig(t *testing.T, store *watched, o batches.Options) *rig {
	t.Helper()
	o.FlushEvery, o.RetryWait = 5*time.Millisecond, time.Millisecond
	f := &httpservertest.Submitter{}
	b, err := batches.New(store, f, o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := httpserver.New(f, httpservertest.Auth{}, httpserver.Options{Batches: b})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.Handler())
	t.Cleanup(ts.Close)
	return &rig{f: f, store: store, b: b, ts: ts}
}

func (r *rig) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.b.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
}

func (r *rig) do(t *testing.T, method, path string, body io.Reader, header ...string) (int, map[string]any, string) {
	t.Helper()
	req, err := http.NewRequest(method, r.ts.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.ts.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	_ = json.Unmarshal(b, &m)
	return resp.StatusCode, m, string(b)
}

func form(purpose, name, content string) (io.Reader, string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.WriteField("purpose", purpose)
	p, _ := w.CreateFormFile("file", name)
	_, _ = io.WriteString(p, content)
	_ = w.Close()
	return &b, w.FormDataContentType()
}

func (r *rig) upload(t *testing.T, content string, header ...string) string {
	t.Helper()
	body, kind := form("batch", "in.jsonl", content)
	status, m, text := r.do(t, "POST", "/v1/files", body, append(header, "Content-Type", kind)...)
	if status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	return m["id"].(string)
}

func (r *rig) create(t *testing.T, file string, header ...string) string {
	t.Helper()
	status, m, text := r.do(t, "POST", "/v1/batches", strings.NewReader(fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/chat/completions","completion_window":"24h","metadata":{"a":"b"}}`, file)), header...)
	if status != 200 || m["object"] != "batch" {
		t.Fatalf("%d %s", status, text)
	}
	return m["id"].(string)
}

func requests(n int, model string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":%q,"messages":[{"role":"user","content":"%d"}]}}`+"\n", i, model, i)
	}
	return b.String()
}

func is(s batches.Status) func(batches.Batch) bool {
	return func(b batches.Batch) bool { return b.Status == s }
}

func TestBatch(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{Concurrency: 4})
	r.run(t)
	lines := requests(50, "stories") + "\n" +
		`{"custom_id":"bad","method":"POST","url":"/v1/chat/completions","body":{"model":"stories","messages":[{"role":"user","content":"x"}],"max_tokens":0}}` + "\n" +
		`{"custom_id":"stream","method":"POST","url":"/v1/chat/completions","body":{"model":"stories","messages":[{"role":"user","content":"x"}],"stream":true}}`
	file := r.upload(t, lines)
	id := r.create(t, file)
	done := r.store.until(t, is(batches.Completed))
	if done.Total != 52 || done.Completed != 50 || done.Failed != 2 {
		t.Fatalf("%+v", done)
	}
	_, m, text := r.do(t, "GET", "/v1/batches/"+id, nil)
	if m["status"] != "completed" || m["completed_at"] == nil || m["finalizing_at"] == nil || m["cancelled_at"] != nil {
		t.Fatal(text)
	}
	_, _, out := r.do(t, "GET", "/v1/files/"+m["output_file_id"].(string)+"/content", nil)
	got := strings.Split(strings.TrimSpace(out), "\n")
	if len(got) != 50 {
		t.Fatalf("%d lines", len(got))
	}
	for i, line := range got {
		var o struct {
			CustomID string `json:"custom_id"`
			Response struct {
				Status int `json:"status_code"`
				Body   struct {
					Choices []struct{ Message struct{ Content string } }
				}
			}
			Error any
		}
		if err := json.Unmarshal([]byte(line), &o); err != nil || o.Response.Status != 200 || o.Response.Body.Choices[0].Message.Content != "Once upon a time" || o.Error != nil ||
			!strings.Contains(line, fmt.Sprintf(`"custom_id":"r%d"`, i)) {
			t.Fatalf("%s %v", line, err)
		}
	}
	_, _, errs := r.do(t, "GET", "/v1/files/"+m["error_file_id"].(string)+"/content", nil)
	if strings.Count(errs, "\n") != 2 || !strings.Contains(errs, `"status_code":400`) || !strings.Contains(errs, "not streamed") {
		t.Fatal(errs)
	}
	if l := r.f.Last(); l.Priority != httpserver.PriorityBatch || l.IdempotencyKey == "" || l.Identity.Tenant != "default" {
		t.Errorf("%+v", l)
	}
}

func TestValidationErrors(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{MaxLines: 5})
	r.run(t)
	good := `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{}}`
	for name, c := range map[string]struct{ lines, code string }{
		"not JSON":  {"nonsense", "invalid_json_line"},
		"id twice":  {`{"custom_id":"a","custom_id":"b","method":"POST","url":"/v1/chat/completions","body":{}}`, "invalid_json_line"},
		"duplicate": {good + "\n" + good, "duplicate_custom_id"},
		"no id":     {strings.Replace(good, `"a"`, `""`, 1), "missing_required_parameter"},
		"method":    {strings.Replace(good, "POST", "GET", 1), "invalid_method"},
		"url":       {strings.Replace(good, "chat/", "", 1), "mismatched_endpoint"},
		"body":      {strings.Replace(good, "{}", "[]", 1), "invalid_body"},
		"too many":  {requests(6, "m"), "too_many_requests_in_batch"},
		"blank":     {"\n\n", "empty_file"},
		"long line": {strings.Repeat("x", 9<<20), "line_too_long"},
	} {
		id := r.create(t, r.upload(t, c.lines))
		r.store.until(t, is(batches.Failed))
		_, m, text := r.do(t, "GET", "/v1/batches/"+id, nil)
		if m["status"] != "failed" || !strings.Contains(text, c.code) {
			t.Errorf("%s: %s", name, text)
		}
	}
	if r.f.Count() != 0 {
		t.Error("a line of a bad batch ran")
	}
}

// TestRestart stops Run in the middle and goes on with another Batches over the same store: every line has one result.
func TestRestart(t *testing.T) {
	store := newWatched()
	first := newRig(t, store, batches.Options{Concurrency: 3})
	var n atomic.Int64
	first.f.OnResult = func(ctx context.Context, _ *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
		if n.Add(1) > 20 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return &httpserver.Result{Body: []byte(`{"run":1}`)}, nil
	}
	first.run(t)
	id := first.create(t, first.upload(t, requests(60, "m")))
	store.until(t, func(b batches.Batch) bool { return b.Completed == 20 })
	first.stop()
	if b, _ := store.Batch(t.Context(), id); b.Status != batches.InProgress {
		t.Fatalf("status %s after the stop", b.Status)
	}
	second := newRig(t, store, batches.Options{})
	second.f.OnResult = func(context.Context, *httpserver.Request, httpserver.View) (*httpserver.Result, error) {
		return &httpserver.Result{Body: []byte(`{"run":2}`)}, nil
	}
	second.run(t)
	done := store.until(t, is(batches.Completed))
	if done.Completed != 60 || second.f.Count() != 40 {
		t.Fatalf("%+v, %d lines ran again", done, second.f.Count())
	}
	_, _, out := second.do(t, "GET", "/v1/files/"+done.Output+"/content", nil)
	if strings.Count(out, `{"run":1}`) != 20 || strings.Count(out, `{"run":2}`) != 40 {
		t.Error(out)
	}
}

func TestCancel(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{Concurrency: 2})
	inside := make(chan struct{}, 100)
	var n atomic.Int64
	r.f.OnResult = func(ctx context.Context, _ *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
		if n.Add(1) <= 3 {
			return &httpserver.Result{Body: []byte(`{}`)}, nil
		}
		inside <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.run(t)
	id := r.create(t, r.upload(t, requests(10, "m")))
	<-inside
	for range 2 {
		if status, m, text := r.do(t, "POST", "/v1/batches/"+id+"/cancel", nil); status != 200 || (m["status"] != "cancelling" && m["status"] != "cancelled") {
			t.Fatal(text)
		}
	}
	done := r.store.until(t, is(batches.Cancelled))
	if done.Completed != 3 || done.Output == "" {
		t.Errorf("%+v", done)
	}
	_, m, text := r.do(t, "GET", "/v1/batches/"+id, nil)
	if m["status"] != "cancelled" || m["cancelling_at"] == nil || m["cancelled_at"] == nil {
		t.Error(text)
	}
}

func TestExpiry(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{Concurrency: 2, Window: 300 * time.Millisecond})
	var n atomic.Int64
	r.f.OnResult = func(ctx context.Context, _ *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
		if n.Add(1) == 1 {
			return &httpserver.Result{Body: []byte(`{}`)}, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.run(t)
	r.create(t, r.upload(t, requests(10, "m")))
	done := r.store.until(t, is(batches.Expired))
	if done.Completed != 1 || done.Failed != 9 {
		t.Errorf("%+v", done)
	}
	_, _, out := r.do(t, "GET", "/v1/files/"+done.ErrorFile+"/content", nil)
	if strings.Count(out, "batch_expired") != 9 {
		t.Error(out)
	}
}

type refusal struct{ code string }

func (e refusal) Error() string { return "no: " + e.code }
func (e refusal) Code() string  { return e.code }

// TestPatience waits out refusals for want of room, tries lost jobs again under another key, and gives up on the rest.
func TestPatience(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{Concurrency: 1})
	var refusals atomic.Int64
	keys := map[string]int{}
	r.f.Refuse = func(q *httpserver.Request) error {
		if strings.Contains(string(q.Body), `"0"`) && refusals.Add(1) <= 20 {
			return refusal{httpserver.CodeSystemAtCapacity}
		}
		if strings.Contains(string(q.Body), `"1"`) {
			return refusal{httpserver.CodeModelNotFound}
		}
		return nil
	}
	r.f.OnResult = func(_ context.Context, q *httpserver.Request, _ httpserver.View) (*httpserver.Result, error) {
		keys[q.IdempotencyKey]++
		if strings.Contains(string(q.Body), `"2"`) {
			return nil, refusal{httpserver.CodeWorkerFailed}
		}
		return &httpserver.Result{Body: []byte(`{}`)}, nil
	}
	r.run(t)
	r.create(t, r.upload(t, requests(3, "m")))
	done := r.store.until(t, is(batches.Completed))
	_, _, out := r.do(t, "GET", "/v1/files/"+done.ErrorFile+"/content", nil)
	if done.Completed != 1 || done.Failed != 2 || !strings.Contains(out, "model_not_found") || !strings.Contains(out, "worker_failed") || len(keys) != 4 {
		t.Errorf("%+v %s %v", done, out, keys)
	}
}

func TestFilesAndTenants(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{MaxFile: 1 << 20})
	mine := []string{"Authorization", "Bearer infer"}
	id := r.upload(t, requests(2, "m"), mine...)
	for _, c := range []struct {
		method, path string
		key          string
		status       int
	}{
		{"GET", "/v1/files/" + id, "infer", 200}, {"GET", "/v1/files/" + id, "admin", 404}, {"GET", "/v1/files/" + id + "/content", "admin", 404},
		{"DELETE", "/v1/files/" + id, "admin", 404}, {"GET", "/v1/files/none", "infer", 404}, {"GET", "/v1/files?limit=0", "infer", 400}, {"GET", "/v1/batches?limit=x", "infer", 400},
		{"GET", "/v1/batches/none", "infer", 404}, {"POST", "/v1/batches/none/cancel", "infer", 404},
	} {
		if status, _, text := r.do(t, c.method, c.path, nil, "Authorization", "Bearer "+c.key); status != c.status {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, text)
		}
	}
	if _, m, text := r.do(t, "GET", "/v1/files", nil, mine...); len(m["data"].([]any)) != 1 || m["has_more"] != false {
		t.Error(text)
	}
	for name, c := range map[string]struct {
		purpose, content string
		status           int
	}{"purpose": {"assistants", "x", 400}, "empty": {"batch", "", 400}, "large": {"batch", strings.Repeat("x", 2<<20), 413}} {
		body, kind := form(c.purpose, "../../x", c.content)
		if status, _, text := r.do(t, "POST", "/v1/files", body, "Content-Type", kind); status != c.status {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for name, body := range map[string]string{"no file": `{"endpoint":"/v1/chat/completions","completion_window":"24h"}`, "window": `{"input_file_id":"x","endpoint":"/v1/chat/completions","completion_window":"1h"}`,
		"endpoint": `{"input_file_id":"x","endpoint":"/v2/keys","completion_window":"24h"}`, "json": `nonsense`,
		"two windows": `{"input_file_id":"x","endpoint":"/v1/completions","completion_window":"24h","completion_window":"24h"}`, "two objects": `{}{}`,
		"metadata": `{"input_file_id":"x","endpoint":"/v1/completions","completion_window":"24h","metadata":{"a":1}}`} {
		if status, _, text := r.do(t, "POST", "/v1/batches", strings.NewReader(body), mine...); status != 400 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if status, _, text := r.do(t, "POST", "/v1/batches", strings.NewReader(`{"input_file_id":"x","endpoint":"/v1/completions","completion_window":"24h"}`), mine...); status != 404 || !strings.Contains(text, `"param":"input_file_id"`) {
		t.Errorf("an unknown file: %d %s", status, text)
	}
	if status, _, text := r.do(t, "POST", "/v1/batches", strings.NewReader(strings.Repeat(" ", 70_000)), mine...); status != 413 {
		t.Errorf("a large body: %d %s", status, text)
	}
	a := r.create(t, id, append(mine, "Idempotency-Key", "k")...)
	if b := r.create(t, id, append(mine, "Idempotency-Key", "k")...); a != b {
		t.Errorf("%s and %s for one key", a, b)
	}
	if status, _, _ := r.do(t, "POST", "/v1/batches", strings.NewReader(fmt.Sprintf(`{"input_file_id":%q,"endpoint":"/v1/completions","completion_window":"24h"}`, id)), append(mine, "Idempotency-Key", "k")...); status != 409 {
		t.Errorf("another body: %d", status)
	}
	if status, m, _ := r.do(t, "DELETE", "/v1/files/"+id, nil, mine...); status != 200 || m["deleted"] != true {
		t.Errorf("%d %v", status, m)
	}
}

// TestManyLines carries a long batch through; RBEE_LONG=1 takes the full 50,000 lines.
func TestManyLines(t *testing.T) {
	n := 3000
	if os.Getenv("RBEE_LONG") == "1" {
		n = 50_000
	}
	r := newRig(t, newWatched(), batches.Options{})
	r.run(t)
	r.create(t, r.upload(t, requests(n, "stories")))
	done := r.store.until(t, is(batches.Completed))
	if done.Completed != n || done.Failed != 0 || r.f.Count() != n {
		t.Errorf("%+v, %d jobs", done, r.f.Count())
	}
	f, err := r.store.File(t.Context(), done.Output)
	if err != nil || f.Bytes == 0 {
		t.Errorf("%+v %v", f, err)
	}
}

// TestAnswerLostInACrash: the job of a line's key ran before a crash that took its events. The line runs again under
// another key.
func TestAnswerLostInACrash(t *testing.T) {
	r := newRig(t, newWatched(), batches.Options{Concurrency: 1})
	keys := map[string]bool{}
	r.f.Refuse = func(q *httpserver.Request) error {
		if keys[q.IdempotencyKey] = true; len(keys) == 1 {
			return refusal{httpserver.CodeJobNotFound}
		}
		return nil
	}
	r.run(t)
	r.create(t, r.upload(t, requests(1, "m")))
	if done := r.store.until(t, is(batches.Completed)); done.Completed != 1 || done.Failed != 0 || len(keys) != 2 {
		t.Errorf("%+v %v", done, keys)
	}
}

// FuzzInput sends any file through validation: it fails or it runs, and ends.
func FuzzInput(f *testing.F) {
	f.Add([]byte(requests(2, "m")))
	f.Add([]byte(`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user"}],"stream":true}}`))
	f.Add([]byte("{}\n[]\nnull\n\"\xff\""))
	f.Fuzz(func(t *testing.T, input []byte) {
		store := newWatched()
		b, err := batches.New(store, &httpservertest.Submitter{}, batches.Options{FlushEvery: time.Millisecond, RetryWait: time.Microsecond, Concurrency: 2})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := store.WriteChunk(ctx, "f", 0, input); err != nil {
			t.Fatal(err)
		}
		_ = store.SaveFile(ctx, batches.File{ID: "f", Chunks: 1})
		_ = store.Memory.SaveBatch(ctx, batches.Batch{ID: "b", Endpoint: "/v1/chat/completions", Input: "f", Status: batches.Validating, Expires: time.Now().Add(time.Hour)})
		done := make(chan struct{})
		go func() { defer close(done); _ = b.Run(ctx) }()
		end := store.until(t, func(b batches.Batch) bool { return b.Status.Final() })
		if end.Status == batches.Completed && end.Completed+end.Failed != end.Total {
			t.Errorf("%+v", end)
		}
		cancel()
		<-done
	})
}
