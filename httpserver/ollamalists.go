package httpserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

type ollamaDetails struct {
	ParentModel   string   `json:"parent_model"`
	Format        string   `json:"format"`
	Family        string   `json:"family"`
	Families      []string `json:"families"`
	ParameterSize string   `json:"parameter_size"`
	Quantization  string   `json:"quantization_level"`
}

type ollamaTag struct {
	Name       string        `json:"name"`
	Model      string        `json:"model"`
	ModifiedAt string        `json:"modified_at"`
	Size       int64         `json:"size"`
	Digest     string        `json:"digest"`
	Details    ollamaDetails `json:"details"`
}

func detailsOf(m ModelName) ollamaDetails {
	family := m.Family
	if family == "" {
		family = "unknown"
	}
	return ollamaDetails{Format: "gguf", Family: family, Families: []string{family}, ParameterSize: parameterSize(m.Parameters), Quantization: m.Quantization}
}

func parameterSize(n int64) string {
	switch {
	case n <= 0:
		return ""
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1fK", float64(n)/1e3)
}

func tagOf(m ModelName) ollamaTag {
	digest := m.SHA256
	if digest == "" { // clients tell models apart by it: where no file's is known, the name's serves
		sum := sha256.Sum256([]byte(m.Name))
		digest = hex.EncodeToString(sum[:])
	}
	return ollamaTag{m.Name, m.Name, m.Created.UTC().Format(time.RFC3339Nano), m.SizeBytes, digest, detailsOf(m)}
}

// ollamaTags is GET /api/tags.
func (c *call) ollamaTags() error {
	names, err := c.names()
	if err != nil {
		return err
	}
	tags := make([]ollamaTag, 0, len(names))
	for _, m := range names {
		tags = append(tags, tagOf(m))
	}
	return writeJSON(c.w, http.StatusOK, map[string]any{"models": tags})
}

// ollamaPs is GET /api/ps: the models that workers hold.
func (c *call) ollamaPs() error {
	ws, err := c.workers()
	if err != nil {
		return err
	}
	all, err := ws.List(c.r.Context(), "")
	if err != nil {
		return err
	}
	names, err := c.names()
	if err != nil {
		return err
	}
	type running struct {
		ollamaTag
		ExpiresAt string `json:"expires_at"`
		SizeVRAM  int64  `json:"size_vram"`
		Context   int    `json:"context_length"`
	}
	out := []running{}
	for _, w := range all {
		if w.State != "idle" && w.State != "busy" && w.State != "loading" {
			continue
		}
		i := slices.IndexFunc(names, func(m ModelName) bool { return m.Name == w.Model })
		if i < 0 {
			continue
		}
		r := running{ollamaTag: tagOf(names[i]), SizeVRAM: w.MemoryBytes, Context: names[i].ContextLength,
			ExpiresAt: c.expires(w).UTC().Format(time.RFC3339Nano)}
		if w.MemoryBytes > 0 {
			r.Size = w.MemoryBytes
		}
		if w.Device == "" || strings.HasPrefix(strings.ToLower(w.Device), "cpu") {
			r.SizeVRAM = 0
		}
		out = append(out, r)
	}
	return writeJSON(c.w, http.StatusOK, map[string]any{"models": out})
}

// expires is when Ollama's clients are told that a worker stops: a far year for one that stays.
func (c *call) expires(w Worker) time.Time {
	if w.ExpiresAt.IsZero() {
		return c.now().AddDate(100, 0, 0)
	}
	return w.ExpiresAt
}

// ollamaShow is POST /api/show.
func (c *call) ollamaShow() error {
	var q struct {
		Model string `json:"model"`
		Name  string `json:"name"`
	}
	if err := c.ollama(&q); err != nil {
		return err
	}
	name, err := c.ollamaModel(q.Model, q.Name)
	if err != nil {
		return err
	}
	names, err := c.names()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(names, func(m ModelName) bool { return m.Name == name })
	if i < 0 {
		return noModel(name)
	}
	m := names[i]
	d := detailsOf(m)
	info := map[string]any{"general.architecture": d.Family, "general.basename": m.Name}
	if m.Parameters > 0 {
		info["general.parameter_count"] = m.Parameters
	}
	if m.ContextLength > 0 {
		info[d.Family+".context_length"] = m.ContextLength
	}
	able := []string{"completion"}
	if m.Embedding {
		able = []string{"embedding"}
	}
	return writeJSON(c.w, http.StatusOK, map[string]any{
		"modelfile": "FROM " + m.Ref, "parameters": "", "template": "", "details": d, "model_info": info,
		"capabilities": able, "modified_at": m.Created.UTC().Format(time.RFC3339Nano),
	})
}

// ollamaVersion is GET /api/version.
func (c *call) ollamaVersion() error {
	return writeJSON(c.w, http.StatusOK, map[string]string{"version": c.s.o.OllamaVersion})
}

// ollamaEmbed is POST /api/embed.
func (c *call) ollamaEmbed() error { return c.ollamaVectors("input") }

// ollamaEmbeddings is POST /api/embeddings, the older form with one prompt.
func (c *call) ollamaEmbeddings() error { return c.ollamaVectors("prompt") }

func (c *call) ollamaVectors(field string) error {
	q := map[string]json.RawMessage{}
	if err := c.ollama(&q); err != nil {
		return err
	}
	began := c.now()
	model, err := c.ollamaModel(rawString(q["model"]), rawString(q["name"]))
	if err != nil {
		return err
	}
	input := q[field]
	if len(input) == 0 || isNull(input) {
		return invalid(field, "%s is missing", field)
	}
	keep, err := keepAlive(q["keep_alive"])
	if err != nil {
		return err
	}
	body := map[string]json.RawMessage{"model": quote(model), "input": input}
	if d := q["dimensions"]; len(d) > 0 && !isNull(d) {
		body["dimensions"] = d
	}
	req := &Request{Surface: SurfaceEmbeddings, Path: "/v1/embeddings", N: 1, ContentType: "application/json", Model: model, KeepAlive: keep,
		Body: marshalSorted(body)}
	if err := promptField(field, input, req); err != nil {
		return err
	}
	job, err := c.submit(req)
	if err != nil {
		return err
	}
	c.jobHeaders(job)
	res, err := job.Result(c.r.Context(), View{Format: FormatRaw, Model: model})
	if err != nil {
		return err
	}
	return c.writeVectors(res, model, field == "prompt", began)
}

func (c *call) writeVectors(res *Result, model string, single bool, began time.Time) error {
	if res.Status >= 400 {
		return refusalOf(res.Status, res.Body)
	}
	var out struct {
		Data []struct {
			Index     int             `json:"index"`
			Embedding json.RawMessage `json:"embedding"`
		} `json:"data"`
		Usage struct {
			Prompt int `json:"prompt_tokens"`
		} `json:"usage"`
	}
	if err := json.Unmarshal(res.Body, &out); err != nil || len(out.Data) == 0 {
		return refuse(CodeWorkerFailed, "the worker's embeddings can't be read")
	}
	slices.SortStableFunc(out.Data, func(a, b struct {
		Index     int             `json:"index"`
		Embedding json.RawMessage `json:"embedding"`
	}) int {
		return a.Index - b.Index
	})
	vectors := make([]json.RawMessage, len(out.Data))
	for i, d := range out.Data {
		vectors[i] = d.Embedding
	}
	for k, v := range res.Header {
		if strings.HasPrefix(k, "X-") {
			c.w.Header()[k] = v
		}
	}
	if single {
		return writeJSON(c.w, http.StatusOK, map[string]any{"embedding": vectors[0]})
	}
	return writeJSON(c.w, http.StatusOK, map[string]any{"model": model, "embeddings": vectors,
		"total_duration": c.now().Sub(began).Nanoseconds(), "load_duration": 0, "prompt_eval_count": out.Usage.Prompt})
}
