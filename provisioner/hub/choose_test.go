package hub_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/provisioner/hub"
)

func files(list string) []hub.File {
	var out []hub.File
	for f := range strings.FieldsSeq(list) {
		name, size, _ := strings.Cut(f, "=")
		n := int64(0)
		_, _ = fmt.Sscan(size, &n)
		out = append(out, hub.File{Path: name, Size: n << 20})
	}
	return out
}

func TestChoose(t *testing.T) {
	const repo = "README.md=0 m-F16.gguf=15000 m-Q8_0.gguf=8000 m-Q6_K.gguf=6200 m-Q4_K_M.gguf=4700 m-Q4_K_S.gguf=4500 m-IQ2_XS.gguf=2500 m-Q2_K.gguf=3000 mmproj-F16.gguf=800 m.imatrix.gguf=5"
	for _, tc := range []struct {
		name, list, file string
		memory           int64 // MiB
		main             string
		count            int
		text             string
	}{
		{"plenty", repo, "", 64000, "m-Q8_0.gguf", 1, "Q8_0"},
		{"8 GiB", repo, "", 8192, "m-Q6_K.gguf", 1, "Q6_K"},
		{"6 GiB", repo, "", 6144, "m-Q4_K_M.gguf", 1, "Q4_K_M"},
		{"4 GiB", repo, "", 4096, "m-Q2_K.gguf", 1, "Q2_K"},
		{"unknown", repo, "", 0, "m-Q4_K_M.gguf", 1, "not known"},
		{"too small", repo, "", 1000, "", 0, "no quantisation fits"},
		{"named", repo, "m-F16.gguf", 10, "m-F16.gguf", 1, "named"},
		{"named, missing", repo, "x.gguf", 0, "", 0, "no file"},
		{"projector is no model", "mmproj-F16.gguf=1", "", 0, "", 0, "neither GGUF nor safetensors"},
		{"shards", "a/m-Q8_0-00001-of-00002.gguf=500 a/m-Q8_0-00002-of-00002.gguf=500 m-Q4_0.gguf=600", "", 2000, "a/m-Q8_0-00001-of-00002.gguf", 2, "Q8_0"},
		{"a shard is missing", "m-Q8_0-00001-of-00002.gguf=500 m-Q4_0.gguf=600", "", 2000, "m-Q4_0.gguf", 1, "only one"},
		{"named shard is missing", "m-00001-of-00002.gguf=500", "m-00001-of-00002.gguf", 0, "", 1, "1 of the 2 shards"},
		{"safetensors", "model.safetensors=9 config.json=1 tokenizer.json=1 pytorch_model.bin=9 onnx/model.onnx=9 consolidated.safetensors=9 chat_template.jinja=1", "", 0, "", 4, "safetensors"},
		{"dynamic", "m-UD-Q4_K_XL.gguf=500 m-UD-Q2_K_XL.gguf=300", "", 2000, "m-UD-Q4_K_XL.gguf", 1, "Q4_K_XL"},
		{"nothing", "README.md=1 x.bin=5", "", 0, "", 0, "neither"},
	} {
		c, err := hub.Choose(files(tc.list), tc.file, tc.memory<<20)
		said := c.Reason
		if err != nil {
			said = err.Error()
		}
		if c.Main != tc.main || len(c.Files) != tc.count || !strings.Contains(said, tc.text) {
			t.Errorf("%s: %q, %d files, %q", tc.name, c.Main, len(c.Files), said)
		}
	}
}
