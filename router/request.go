package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// wire is a request as it goes to a worker.
type wire struct {
	path, contentType string
	body              []byte
	stream            bool    // the answer is a stream of frames
	surface           Surface // of the answer
	usageInjected     bool
	stop              []string
}

// continuation is what earlier attempts emitted.
type continuation struct {
	text   string
	tokens int
}

// errSpent means that nothing is left to generate: the earlier attempts used up max_tokens.
var errSpent = errors.New("max_tokens is used up")

// fields of the queen's own that no engine knows.
var queenFields = []string{"priority", "session_id", "deadline", "node"}

// build makes the request for a worker, with the text so far when another worker began it.
func build(out *wire, j *Job, w *Worker, cont *continuation) error {
	*out = wire{path: j.Path, contentType: j.ContentType, body: j.Body, stream: j.Stream, surface: j.Surface}
	if out.contentType == "" {
		out.contentType = "application/json"
	}
	if !strings.HasPrefix(out.contentType, "application/json") {
		var err error
		if out.body, err = form(j, w, out.contentType); err != nil {
			return err
		}
		return checkRaw(out, cont)
	}
	b, err := borrowBody(j.Body)
	defer b.giveBack()
	if err != nil {
		return refuse(CodeInvalid, 0, err, "the body is not a JSON object; send one")
	}
	params(b, j, w)
	switch j.Surface {
	case Embeddings, Raw:
		if out.path == "" && j.Surface == Embeddings {
			out.path = "/v1/embeddings"
		}
		out.body = b.bytes()
		return checkRaw(out, cont)
	}
	if err := toOpenAI(b, out); err != nil {
		return err
	}
	out.stop = stops(b)
	if w.Protocol == ProtocolExecute {
		err = toExecute(b, out, j, cont)
	} else {
		err = finishOpenAI(b, out, w, cont)
	}
	if err != nil {
		return err
	}
	out.body = b.bytes()
	return nil
}

func checkRaw(out *wire, cont *continuation) error {
	if cont != nil {
		return refusal("an answer of this endpoint")
	}
	if !strings.HasPrefix(out.path, "/") || strings.ContainsFunc(out.path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return refuse(CodeInvalid, 0, nil, "the path is not one that can be sent to a worker")
	}
	return nil
}

// params puts in the engine's name of the model and what the model's entry sets and strips.
func params(b *body, j *Job, w *Worker) {
	if len(j.Strip) > 0 {
		b.drop(j.Strip...)
	}
	for name, raw := range j.Set {
		b.set(name, raw)
	}
	if w.Model != "" {
		b.setText("model", w.Model)
	}
}

// toOpenAI turns what a client sent into a chat or completion body; those two stay as they are.
func toOpenAI(b *body, out *wire) error {
	switch out.surface {
	case Native:
		b.drop(queenFields...)
		out.stream = true
		out.surface = Completion
		if _, ok := b.get("messages"); ok {
			out.surface = Chat
		}
		if v, ok := b.get("repetition_penalty"); ok {
			b.set("repeat_penalty", string(v))
		}
	case OllamaChat:
		out.surface = Chat
		return fromOllama(b)
	case OllamaGenerate:
		out.surface = Chat
		raw, _ := b.get("raw")
		if string(raw) == "true" {
			out.surface = Completion
		} else if err := generateToChat(b); err != nil {
			return err
		}
		b.drop("raw", "system", "template", "context")
		return fromOllama(b)
	}
	return nil
}

// ollamaOptions are the names that differ between Ollama's options and OpenAI's parameters.
func ollamaOption(name string) string {
	if name == "num_predict" {
		return "max_tokens"
	}
	return name
}

func fromOllama(b *body) error {
	if raw, ok := b.get("options"); ok {
		text := bytes.Clone(raw)
		ms, err := members(text, nil)
		if err != nil {
			return refuse(CodeInvalid, 0, err, "options must be an object")
		}
		for _, m := range ms {
			name := string(m.name)
			if name == "num_ctx" || (name == "num_predict" && bytes.HasPrefix(m.raw(text), []byte("-"))) {
				continue
			}
			b.set(ollamaOption(name), string(m.raw(text)))
		}
	}
	if raw, ok := b.get("format"); ok {
		switch {
		case string(raw) == `"json"`:
			b.set("response_format", `{"type":"json_object"}`)
		case bytes.HasPrefix(raw, []byte("{")):
			b.set("response_format", `{"type":"json_schema","json_schema":{"name":"answer","schema":`+string(raw)+`}}`)
		}
	}
	b.drop("options", "format", "keep_alive", "think")
	return nil
}

func generateToChat(b *body) error {
	type message struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	var list []message
	if sys, ok := b.get("system"); ok && string(sys) != `""` {
		list = append(list, message{"system", bytes.Clone(sys)})
	}
	if prompt, ok := b.get("prompt"); ok {
		list = append(list, message{"user", bytes.Clone(prompt)})
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return refuse(CodeInvalid, 0, err, "prompt and system must be strings")
	}
	b.drop("prompt")
	b.set("messages", string(raw))
	return nil
}

// finishOpenAI sets path, streaming and usage, and the prefix of a continuation.
func finishOpenAI(b *body, out *wire, w *Worker, cont *continuation) error {
	out.path = "/v1/completions"
	if out.surface == Chat {
		out.path = "/v1/chat/completions"
	}
	if out.stream {
		b.set("stream", "true")
		injectUsage(b, out)
	} else if _, ok := b.get("stream"); ok {
		b.set("stream", "false") // an engine's own default may differ from the client's
	}
	if cont == nil {
		return nil
	}
	if err := continuable(b); err != nil {
		return err
	}
	if err := shrink(b, cont.tokens); err != nil {
		return err
	}
	if out.surface == Completion {
		return extendPrompt(b, cont.text)
	}
	if !w.Capabilities.Prefill && !w.Capabilities.ContinueFlag {
		return refusal("a chat on an engine that can't go on from a given beginning")
	}
	// vLLM needs to be told; llama-server goes on without, but repeats the beginning in its answer
	b.set("add_generation_prompt", "false")
	b.set("continue_final_message", "true")
	return extendMessages(b, cont.text)
}

// injectUsage asks for the usage chunk, without which tokens could only be guessed.
func injectUsage(b *body, out *wire) {
	raw, ok := b.get("stream_options")
	if !ok || string(raw) == "null" {
		b.set("stream_options", `{"include_usage":true}`)
		out.usageInjected = true
		return
	}
	so, err := parseBody(bytes.Clone(raw))
	if err != nil {
		return // the worker will say what is wrong with it
	}
	if v, _ := so.get("include_usage"); string(v) == "true" {
		return
	}
	so.set("include_usage", "true")
	b.set("stream_options", string(so.bytes()))
	out.usageInjected = true
}

// toExecute turns the body into one of POST /v1/execute.
func toExecute(b *body, out *wire, j *Job, cont *continuation) error {
	out.path, out.stream, out.surface = "/v1/execute", true, Native
	b.drop("stream", "stream_options")
	b.rename("repeat_penalty", "repetition_penalty")
	b.rename("max_completion_tokens", "max_tokens")
	if err := oneText(b); err != nil {
		return err
	}
	b.set("job_id", quote(j.ID))
	if cont == nil {
		return nil
	}
	if err := continuable(b); err != nil {
		return err
	}
	if err := shrink(b, cont.tokens); err != nil {
		return err
	}
	b.set("prefix", quote(cont.text))
	return nil
}

// oneText makes sure that the answer can be what a worker of protocol execute gives: one text for one prompt. A list of one
// text, which some clients send always, is that text.
func oneText(b *body) error {
	if raw, ok := b.get("n"); ok && !empty(raw) && string(raw) != "1" {
		return refuse(CodeInvalid, 0, nil, "this model's worker gives one answer to a request: leave n out, or set it to 1")
	}
	raw, ok := b.get("prompt")
	if !ok || raw[0] != '[' {
		return nil
	}
	raw = bytes.Clone(raw)
	el, err := elements(raw)
	if err != nil || len(el) != 1 || raw[el[0][0]] != '"' {
		return refuse(CodeInvalid, 0, err, "this model's worker takes one text as its prompt: send one request for each")
	}
	b.set("prompt", string(raw[el[0][0]:el[0][1]]))
	return nil
}

// extendPrompt appends the text so far to a completion's prompt.
func extendPrompt(b *body, text string) error {
	raw, ok := b.get("prompt")
	if !ok {
		raw = []byte(`""`)
	}
	raw = bytes.Clone(raw)
	if raw[0] == '[' {
		el, err := elements(raw)
		if err != nil || len(el) != 1 || raw[el[0][0]] != '"' {
			return refusal("a prompt that is not one text")
		}
		raw = raw[el[0][0]:el[0][1]]
	}
	if raw[0] != '"' {
		return refusal("a prompt that is not one text")
	}
	b.set("prompt", glue(raw, text))
	return nil
}

// glue appends text to a raw JSON string.
func glue(raw []byte, text string) string {
	return string(raw[:len(raw)-1]) + quote(text)[1:]
}

// extendMessages makes the text so far the beginning of the assistant's last message.
func extendMessages(b *body, text string) error {
	raw, _ := b.get("messages")
	raw = bytes.Clone(raw)
	el, err := elements(raw)
	if err != nil || len(el) == 0 {
		return refusal("a chat without messages")
	}
	last := raw[el[len(el)-1][0]:el[len(el)-1][1]]
	before := string(raw[:el[len(el)-1][0]])
	if m, err := parseBody(last); err == nil {
		if role, _ := m.get("role"); string(role) == `"assistant"` {
			content, _ := m.get("content")
			if len(content) < 2 || content[0] != '"' {
				return refusal("a chat whose last message is not one text")
			}
			m.set("content", glue(bytes.Clone(content), text))
			b.set("messages", before+string(m.bytes())+"]")
			return nil
		}
	}
	b.set("messages", before+string(last)+`,{"role":"assistant","content":`+quote(text)+"}]")
	return nil
}

// shrink takes the tokens already emitted off the limits.
func shrink(b *body, tokens int) error {
	for _, name := range [...]string{"max_tokens", "max_completion_tokens", "n_predict"} {
		raw, ok := b.get(name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(string(raw))
		if err != nil || n <= 0 {
			continue
		}
		if n -= tokens; n <= 0 {
			return errSpent
		}
		b.set(name, strconv.Itoa(n))
	}
	return nil
}

func refusal(what string) error {
	return refuse(CodeWorkerFailed, 0, nil, "%s can't be continued on another worker; send the request again", what)
}

// continuable says whether the request allows its answer to be continued at all (one choice of free text).
func continuable(b *body) error {
	for _, name := range [...]string{"grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "suffix"} {
		if raw, ok := b.get(name); ok && !empty(raw) {
			return refusal(fmt.Sprintf("a request with %s", name))
		}
	}
	for _, name := range [...]string{"n", "best_of"} {
		if raw, ok := b.get(name); ok && !empty(raw) && string(raw) != "1" {
			return refusal(fmt.Sprintf("a request with %s above 1", name))
		}
	}
	for _, name := range [...]string{"echo", "logprobs", "top_logprobs"} {
		if raw, ok := b.get(name); ok && string(raw) != "false" && string(raw) != "null" {
			return refusal(fmt.Sprintf("a request with %s", name))
		}
	}
	if raw, ok := b.get("response_format"); ok && !empty(raw) {
		f, err := parseBody(bytes.Clone(raw))
		if err != nil {
			return refusal("a request with response_format")
		}
		if kind, _ := f.get("type"); string(kind) != `"text"` {
			return refusal("a request with response_format")
		}
	}
	return nil
}

func empty(raw []byte) bool {
	s := string(raw)
	return s == "null" || s == `""` || s == "{}" || s == "[]" || s == "false"
}

// stops are the request's stop strings.
func stops(b *body) []string {
	raw, ok := b.get("stop")
	if !ok || empty(raw) {
		return nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}
	}
	var many []string
	if json.Unmarshal(raw, &many) != nil {
		return nil // the worker will say what is wrong with it
	}
	return many
}
