package sim

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
)

// dimensions is how many numbers a vector has, and has at most where fewer are asked for.
const dimensions = 64

// embeddings gives each text a vector of length 1 that depends on its words: texts that share words are near to each
// other, which is all that a test of the path needs.
func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Input  json.RawMessage `json:"input"`
		Format string          `json:"encoding_format"`
		Size   *int            `json:"dimensions"`
	}
	if !read(w, r, &in) {
		return
	}
	var list []string
	var one string
	if json.Unmarshal(in.Input, &one) == nil && len(in.Input) > 0 {
		list = []string{one}
	} else if json.Unmarshal(in.Input, &list) != nil || len(list) == 0 || len(list) > 2048 {
		fail(w, http.StatusBadRequest, "invalid_request_error", "input is a string or a list of 1 to 2048 strings")
		return
	}
	if in.Format != "" && in.Format != "float" && in.Format != "base64" {
		fail(w, http.StatusBadRequest, "invalid_request_error", "encoding_format is float or base64")
		return
	}
	size := dimensions
	if in.Size != nil {
		if size = *in.Size; size < 1 || size > dimensions {
			fail(w, http.StatusBadRequest, "invalid_request_error", "dimensions is 1 to 64")
			return
		}
	}
	data, total := make([]any, 0, len(list)), 0
	for i, txt := range list {
		total += promptTokens(txt)
		var v any = vector(txt, size)
		if in.Format == "base64" {
			v = packed(vector(txt, size))
		}
		data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": v})
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "model": s.o.Alias, "data": data,
		"usage": map[string]any{"prompt_tokens": total, "total_tokens": total}})
}

// packed is a vector as base64 of its little-endian 32-bit floats, as OpenAI's own clients ask for it.
func packed(v []float64) string {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(x)))
	}
	return base64.StdEncoding.EncodeToString(b)
}

func vector(txt string, size int) []float64 {
	v := make([]float64, size)
	v[0] = 0.01 // so that an empty text has a direction too
	h := uint64(hashStart)
	add := func() {
		z := mix(h)
		for i := range 8 {
			x := (z >> (8 * i)) & 0xff
			sign := 1.0
			if x&0x80 != 0 {
				sign = -1
			}
			v[x%uint64(size)] += sign
		}
		h = hashStart
	}
	for i := 0; i < len(txt); i++ {
		if txt[i] <= ' ' {
			if h != hashStart {
				add()
			}
			continue
		}
		h = (h ^ uint64(txt[i])) * 1099511628211
	}
	if h != hashStart {
		add()
	}
	var sum float64
	for _, x := range v {
		sum += x * x
	}
	for i := range v {
		v[i] /= math.Sqrt(sum)
	}
	return v
}
