package httpserver

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// ollamaRequest is the body of /api/chat and /api/generate.
type ollamaRequest struct {
	Model     string                     `json:"model"`
	Name      string                     `json:"name"`
	Messages  []ollamaMessage            `json:"messages"`
	Prompt    string                     `json:"prompt"`
	System    string                     `json:"system"`
	Suffix    string                     `json:"suffix"`
	Images    []string                   `json:"images"`
	Raw       bool                       `json:"raw"`
	Stream    *bool                      `json:"stream"`
	Options   map[string]json.RawMessage `json:"options"`
	Format    json.RawMessage            `json:"format"`
	Tools     json.RawMessage            `json:"tools"`
	Think     json.RawMessage            `json:"think"`
	KeepAlive json.RawMessage            `json:"keep_alive"`
}

type ollamaMessage struct {
	Role      string           `json:"role"`
	Content   string           `json:"content"`
	Images    []string         `json:"images"`
	ToolCalls []ollamaToolCall `json:"tool_calls"`
	ToolName  string           `json:"tool_name"`
	CallID    string           `json:"tool_call_id"`
}

type ollamaToolCall struct {
	ID       string `json:"id"`
	Function struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

// ollama reads an /api body: lenient about unknown fields, as Ollama is, strict about everything else.
func (c *call) ollama(dst any) error {
	b, err := c.object(nil)
	if err != nil {
		return err
	}
	return unmarshal(b, dst)
}

// ollamaModel resolves the name that an Ollama client uses: it may add :latest to a name that has no tag.
func (c *call) ollamaModel(name, old string) (string, error) {
	if name == "" {
		name = old
	}
	if name == "" {
		return "", invalid("model", "model is missing")
	}
	if err := checkModel(name); err != nil {
		return "", err
	}
	short, tagged := strings.CutSuffix(name, ":latest")
	if !tagged || c.s.o.Catalog == nil {
		return name, nil
	}
	names, err := c.names()
	if err != nil {
		return "", err
	}
	for _, m := range names {
		if m.Name == name {
			return name, nil
		}
	}
	return short, nil
}

// ollamaChat is POST /api/chat.
func (c *call) ollamaChat() error {
	var q ollamaRequest
	err := c.ollama(&q)
	if err != nil {
		return err
	}
	if q.Model, err = c.ollamaModel(q.Model, q.Name); err != nil {
		return err
	}
	keep, err := keepAlive(q.KeepAlive)
	if err != nil {
		return err
	}
	if len(q.Messages) == 0 {
		return c.ollamaLoad(q.Model, keep, true)
	}
	body := map[string]json.RawMessage{"messages": jsonOf(openaiMessages(q.Messages))}
	return c.runOllama(&q, body, SurfaceChat, FormatOllamaChat, keep)
}

// ollamaGenerate is POST /api/generate.
func (c *call) ollamaGenerate() error {
	var q ollamaRequest
	err := c.ollama(&q)
	if err != nil {
		return err
	}
	if q.Model, err = c.ollamaModel(q.Model, q.Name); err != nil {
		return err
	}
	keep, err := keepAlive(q.KeepAlive)
	if err != nil {
		return err
	}
	if q.Prompt == "" {
		return c.ollamaLoad(q.Model, keep, false)
	}
	if q.Raw || q.Suffix != "" {
		body := map[string]json.RawMessage{"prompt": quote(q.Prompt)}
		if q.Suffix != "" {
			body["suffix"] = quote(q.Suffix)
		}
		return c.runOllama(&q, body, SurfaceCompletions, FormatOllamaGenerate, keep)
	}
	var ms []ollamaMessage
	if q.System != "" {
		ms = append(ms, ollamaMessage{Role: "system", Content: q.System})
	}
	ms = append(ms, ollamaMessage{Role: "user", Content: q.Prompt, Images: q.Images})
	body := map[string]json.RawMessage{"messages": jsonOf(openaiMessages(ms))}
	return c.runOllama(&q, body, SurfaceChat, FormatOllamaGenerate, keep)
}

// runOllama completes the translated body and runs it like a request of the OpenAI surface.
func (c *call) runOllama(q *ollamaRequest, body map[string]json.RawMessage, surface Surface, format, keep string) error {
	stream := q.Stream == nil || *q.Stream
	body["model"] = quote(q.Model)
	body["stream"] = json.RawMessage(strconv.FormatBool(stream))
	if len(q.Tools) > 0 && !isNull(q.Tools) && surface == SurfaceChat {
		body["tools"] = q.Tools
	}
	if err := ollamaOptions(q.Options, body); err != nil {
		return err
	}
	if err := ollamaFormat(q.Format, body); err != nil {
		return err
	}
	ollamaThink(q.Think, body)
	path := "/v1/chat/completions"
	if surface == SurfaceCompletions {
		path = "/v1/completions"
	}
	req := &Request{Surface: surface, Path: path, N: 1, ContentType: "application/json", KeepAlive: keep}
	req.Body = marshalSorted(body)
	if err := parseBody(req, req.Body, c.s.o.MaxDepth); err != nil {
		return err
	}
	return c.run(req, View{Format: format, IncludeUsage: true, Model: q.Model})
}

// ollamaOptions copies the sampling options that engines know; those about loading a model are the operator's.
func ollamaOptions(options, body map[string]json.RawMessage) error {
	for name, v := range options {
		switch name {
		case "num_predict": // negative: without a limit
			n := 0
			if err := wholeField("options.num_predict", v, -1<<31, 1<<31-1, &n); err != nil {
				return err
			}
			if n > 0 {
				body["max_tokens"] = v
			}
		case "temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "repeat_penalty", "repeat_last_n",
			"presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta":
			body[name] = v
		}
	}
	return nil
}

func ollamaFormat(format json.RawMessage, body map[string]json.RawMessage) error {
	switch {
	case len(format) == 0, isNull(format), string(format) == `""`:
	case string(format) == `"json"`:
		body["response_format"] = json.RawMessage(`{"type":"json_object"}`)
	case len(format) > 0 && format[0] == '{':
		body["response_format"] = json.RawMessage(`{"type":"json_schema","json_schema":{"name":"answer","schema":` + string(format) + `}}`)
	default:
		return invalid("format", `format must be "json" or a JSON schema`)
	}
	return nil
}

func ollamaThink(think json.RawMessage, body map[string]json.RawMessage) {
	switch {
	case string(think) == "true", string(think) == "false":
		body["chat_template_kwargs"] = json.RawMessage(`{"enable_thinking":` + string(think) + `}`)
	case len(think) > 0 && think[0] == '"':
		body["reasoning_effort"] = think
	}
}

// keepAlive reads Ollama's keep_alive, a number of seconds or a duration, as a Go duration; "" when it is not given.
func keepAlive(v json.RawMessage) (string, error) {
	if len(v) == 0 || isNull(v) {
		return "", nil
	}
	if s, ok := strict.String(v); ok {
		if _, err := time.ParseDuration(s); err == nil {
			return s, nil
		}
		v = json.RawMessage(s)
	}
	secs, err := strconv.ParseFloat(string(v), 64)
	if err != nil || secs > 1e9 || secs < -1e9 {
		return "", invalid("keep_alive", "keep_alive must be a number of seconds or a duration such as 10m")
	}
	return (time.Duration(secs * float64(time.Second))).String(), nil
}

// ollamaLoad answers a request without a prompt: Ollama's clients load and unload a model so.
func (c *call) ollamaLoad(model, keep string, chat bool) error {
	if c.s.o.Loader == nil {
		return notAvailable("loading on request")
	}
	if !c.id.MayUse(model) {
		return refuse(CodeForbidden, "this key may not use model %s", clip(model, 100))
	}
	reason := "load"
	var err error
	if d, perr := time.ParseDuration(keep); keep != "" && perr == nil && d == 0 {
		reason = "unload"
		err = c.s.o.Loader.Unload(c.withIdentity().Context(), model)
	} else {
		err = c.s.o.Loader.Load(c.withIdentity().Context(), model, keep)
	}
	if err != nil {
		return err
	}
	answer := map[string]any{"model": model, "created_at": Time{c.now()}, "done": true, "done_reason": reason}
	if chat {
		answer["message"] = map[string]string{"role": "assistant", "content": ""}
	} else {
		answer["response"] = ""
	}
	return writeJSON(c.w, http.StatusOK, answer)
}

func jsonOf(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}

func quote(s string) json.RawMessage { return jsonOf(s) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func marshalSorted(m map[string]json.RawMessage) []byte {
	out := []byte{'{'}
	for i, k := range sortedKeys(m) {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, quote(k)...), ':'), m[k]...)
	}
	return append(out, '}')
}
