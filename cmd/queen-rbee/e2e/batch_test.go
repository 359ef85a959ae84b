package e2e

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
	"time"
)

// batch is the OpenAI API's record of one.
type batch struct {
	ID, Status string
	Output     string                                 `json:"output_file_id"`
	Errors     string                                 `json:"error_file_id"`
	Created    int64                                  `json:"created_at"`
	Expires    int64                                  `json:"expires_at"`
	Counts     struct{ Total, Completed, Failed int } `json:"request_counts"`
}

// startBatch uploads so many lines and begins a batch over them.
func (q *queen) startBatch(lines int) (b batch) {
	q.t.Helper()
	var input strings.Builder
	for i := range lines {
		_, _ = fmt.Fprintf(&input, `{"custom_id":"line-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"demo","messages":[{"role":"user","content":"number %d"}],"max_tokens":8}}`+"\n", i, i)
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("purpose", "batch")
	f, _ := w.CreateFormFile("file", "input.jsonl")
	_, _ = io.WriteString(f, input.String())
	_ = w.Close()
	var file struct{ ID string }
	q.json("POST", "/v1/files", form.String(), &file, 200, "Content-Type", w.FormDataContentType())
	q.json("POST", "/v1/batches", map[string]string{"input_file_id": file.ID, "endpoint": "/v1/chat/completions", "completion_window": "24h"}, &b, 200)
	if b.Expires-b.Created != 24*60*60 {
		q.t.Errorf("the batch may take %d s, want 24 h", b.Expires-b.Created)
	}
	return b
}

// TestBatchSurvivesARestart runs an OpenAI batch, kills the queen in the middle of it, and wants every line once. The long
// form has 50,000 lines and bounds the queen's memory.
func TestBatchSurvivesARestart(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?itl=10us&ttft=1ms&slots=16\"}}\n")
	lines := long(300, 50_000)
	before := rss(t, q.cmd.Process.Pid)
	b := q.startBatch(lines)
	look := func() batch {
		q.json("GET", "/v1/batches/"+b.ID, nil, &b, 200)
		return b
	}
	q.until("some lines are done", 30*time.Second, func() bool {
		return look().Counts.Completed > lines/10
	})
	q.kill()
	q.launch(q.addr())
	began := time.Now()
	most := int64(0)
	q.until("the batch is complete", 10*time.Minute, func() bool {
		most = max(most, rss(t, q.cmd.Process.Pid))
		return look().Status == "completed"
	})
	t.Logf("batch: %d lines, the rest of them in %s, RSS %d MiB at first, %d at most", lines, time.Since(began).Round(time.Millisecond), before>>20, most>>20)
	if most > before+(256<<20) {
		t.Errorf("RSS grew from %d to %d MiB", before>>20, most>>20)
	}
	if b.Counts.Total != lines || b.Counts.Completed != lines || b.Counts.Failed != 0 {
		_, _, why := q.ask("", "GET", "/v1/files/"+b.Errors+"/content", nil)
		t.Fatalf("counts %+v: %.1000s", b.Counts, why)
	}
	res, err := q.do(t.Context(), "GET", "/v1/files/"+b.Output+"/content", nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(err, res)
	}
	defer func() { _ = res.Body.Close() }()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for line := range bytes.Lines(out) {
		var l struct {
			ID string `json:"custom_id"`
		}
		mustUnmarshal(t, string(line), &l)
		seen[l.ID]++
	}
	for i := range lines {
		if n := seen[fmt.Sprintf("line-%d", i)]; n != 1 {
			t.Fatalf("line %d stands %d times in the output", i, n)
		}
	}
}

// TestBatchIsCancelled stops a batch in the middle: what was done stays, nothing else is begun.
func TestBatchIsCancelled(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?itl=5ms&slots=2\"}}\n")
	const lines = 2000
	b := q.startBatch(lines)
	look := func() batch {
		q.json("GET", "/v1/batches/"+b.ID, nil, &b, 200)
		return b
	}
	q.until("some lines are done", 30*time.Second, func() bool { return look().Counts.Completed > 3 })
	q.json("POST", "/v1/batches/"+b.ID+"/cancel", nil, &b, 200)
	if b.Status != "cancelling" && b.Status != "cancelled" {
		t.Errorf("status %s", b.Status)
	}
	q.until("the batch is cancelled", 30*time.Second, func() bool { return look().Status == "cancelled" })
	if b.Counts.Completed < 4 || b.Counts.Completed+b.Counts.Failed >= lines || b.Output == "" {
		t.Errorf("%+v", b)
	}
	q.until("nothing is left in line", 30*time.Second, func() bool { return q.count("queued")+q.count("running") == 0 })
}
