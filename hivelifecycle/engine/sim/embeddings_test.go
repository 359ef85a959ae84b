package sim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEmbeddingsAndRefusals(t *testing.T) {
	srv := fast(t, "&context=100")
	code, out := post(t, srv.URL+"/v1/embeddings", `{"input":["the cat sat","the cat sat","zebra"]}`)
	var e struct {
		Data []struct{ Embedding []float64 }
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != 200 || len(e.Data) != 3 || !cmp.Equal(e.Data[0], e.Data[1]) || cmp.Equal(e.Data[0], e.Data[2]) {
		t.Errorf("%d %v", code, err)
	}
	code, out = post(t, srv.URL+"/v1/embeddings", `{"input":"the cat sat","dimensions":5}`)
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != 200 || len(e.Data[0].Embedding) != 5 {
		t.Errorf("5 dimensions: %d %s", code, out)
	}
	code, out = post(t, srv.URL+"/v1/embeddings", `{"input":["the cat sat"]}`)
	if err := json.Unmarshal([]byte(out), &e); err != nil || code != 200 {
		t.Fatalf("%d %s", code, out)
	}
	var packed struct {
		Data []struct{ Embedding string }
	}
	code, out = post(t, srv.URL+"/v1/embeddings", `{"input":"the cat sat","encoding_format":"base64"}`)
	if err := json.Unmarshal([]byte(out), &packed); err != nil || code != 200 || len(packed.Data) != 1 {
		t.Fatalf("%d %v %s", code, err, out)
	}
	raw, err := base64.StdEncoding.DecodeString(packed.Data[0].Embedding)
	if err != nil || len(raw) != 4*len(e.Data[0].Embedding) {
		t.Fatalf("%v, %d bytes", err, len(raw))
	}
	for i, want := range e.Data[0].Embedding {
		if got := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); got != float32(want) {
			t.Errorf("dimension %d: %v, want %v", i, got, want)
		}
	}
	long, _ := json.Marshal(map[string]any{"prompt": strings.Repeat("x", 1000)})
	for _, tc := range []struct{ path, body, want string }{
		{"/v1/completions", `{`, "invalid_request_error"},
		{"/v1/completions", `{"prompt":[1,2]}`, "no token ids"},
		{"/v1/completions", `{"prompt":"x","n":2}`, "one choice"},
		{"/v1/completions", `{"prompt":"x","max_tokens":-1}`, "max_tokens"},
		{"/v1/completions", string(long), "exceed_context_size_error"},
		{"/v1/chat/completions", `{"messages":[]}`, "messages"},
		{"/v1/embeddings", `{"input":[]}`, "input"},
		{"/v1/embeddings", `{"input":"x","encoding_format":"hex"}`, "encoding_format"},
		{"/v1/embeddings", `{"input":"x","dimensions":65}`, "dimensions"},
		{"/v1/embeddings", `{"input":"x","dimensions":0}`, "dimensions"},
		{"/v1/execute", string(long), "CONTEXT_LENGTH_EXCEEDED"},
	} {
		if code, out := post(t, srv.URL+tc.path, tc.body); code != 400 || !strings.Contains(out, tc.want) {
			t.Errorf("%s %.40s: %d %s", tc.path, tc.body, code, out)
		}
	}
}
