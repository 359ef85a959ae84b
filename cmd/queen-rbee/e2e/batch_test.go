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

// TestBatchSurvivesARestart runs an OpenAI batch, kills the queen in the middle of it, and wants every line once.
func TestBatchSurvivesARestart(t *testing.T) {
	q := start(t, "models: {demo: {ref: \"sim:demo?itl=1ms&ttft=10ms&slots=4\"}}\n")
	const lines = 60
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
	var file, batch struct {
		ID, Status string
		Output     string                                 `json:"output_file_id"`
		Counts     struct{ Total, Completed, Failed int } `json:"request_counts"`
	}
	q.json("POST", "/v1/files", form.String(), &file, 200, "Content-Type", w.FormDataContentType())
	q.json("POST", "/v1/batches", map[string]string{"input_file_id": file.ID, "endpoint": "/v1/chat/completions", "completion_window": "24h"}, &batch, 200)
	q.until("some lines are done", 30*time.Second, func() bool {
		q.json("GET", "/v1/batches/"+batch.ID, nil, &batch, 200)
		return batch.Counts.Completed > 3
	})
	q.kill()
	q.launch(q.addr())
	q.until("the batch is complete", 60*time.Second, func() bool {
		q.json("GET", "/v1/batches/"+batch.ID, nil, &batch, 200)
		return batch.Status == "completed"
	})
	if batch.Counts.Total != lines || batch.Counts.Completed != lines || batch.Counts.Failed != 0 {
		t.Fatalf("counts %+v", batch.Counts)
	}
	res, err := q.do(t.Context(), "GET", "/v1/files/"+batch.Output+"/content", nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(err, res)
	}
	defer func() { _ = res.Body.Close() }()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	for i := range lines {
		if n := strings.Count(string(out), fmt.Sprintf(`"line-%d"`, i)); n != 1 {
			t.Errorf("line %d stands %d times in the output", i, n)
		}
	}
}
