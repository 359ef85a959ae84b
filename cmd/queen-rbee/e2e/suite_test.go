package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// suite is a queen with keys and two models, chat and embed, on one engine.
type suite struct {
	*queen
	rec          *recorder
	admin, infer string
	engine       string
}

func newSuite(t *testing.T, engine string) *suite {
	t.Helper()
	var q *queen
	switch engine {
	case "sim":
		q = start(t, "models: {chat: {ref: \"sim:chat?itl=2ms&slots=2&context=4096\"}, embed: {ref: \"sim:embed\"}}\n")
	default:
		_, model := llamaServer(t)
		entry := func(args string) string {
			return "{ref: \"file:" + model + "\", engine: llama.cpp, slots: 2, context: 1024, args: [\"-t\", \"1\", \"-tb\", \"1\"" + args + "]}"
		}
		q = start(t, "models: {chat: "+entry("")+", embed: "+entry(`, "--embeddings", "--pooling", "mean"`)+"}\n")
	}
	s := &suite{queen: q, engine: engine, rec: q.recorder()}
	s.rec.check.Own = engine == "sim" // which speaks execute: every byte of an answer is the queen's
	s.admin = q.makeKey("", `{"tenant_id":"ops","scope":"admin"}`).Key
	s.infer = q.makeKey(s.admin, `{"tenant_id":"users","scope":"infer"}`).Key
	return s
}

// records is what the queen says of the chat model's workers.
func (s *suite) records() (out []struct {
	ID    string `json:"worker_id"`
	Total int    `json:"slots_total"`
	Free  int    `json:"slots_free"`
}) {
	s.t.Helper()
	var list struct{ Workers json.RawMessage }
	_, _, data := s.ask(s.admin, "GET", "/v2/workers/list", nil)
	mustUnmarshal(s.t, data, &list)
	mustUnmarshal(s.t, string(list.Workers), &out)
	return out
}

// free reports whether no slot is taken, by the queen's account and, where the engine can be asked, by its own.
func (s *suite) free() bool {
	s.t.Helper()
	for _, w := range s.records() {
		if w.Free != w.Total {
			return false
		}
		if s.engine != "llama.cpp" {
			continue
		}
		status, _, data := s.ask(s.admin, "GET", "/v2/workers/"+w.ID+"/proxy/slots", nil)
		if status != 200 {
			s.t.Fatalf("the slots of worker %s: %d %s", w.ID, status, data)
		}
		if strings.Contains(data, `"is_processing":true`) || !strings.Contains(data, `"is_processing"`) {
			return false
		}
	}
	return true
}

// TestClientSuite runs the clients that people use against a real queen, hive and worker: nothing is retried, every answer
// has the shape that its API describes, and what a client aborts leaves the worker.
func TestClientSuite(t *testing.T) {
	for _, engine := range []string{"sim", "llama.cpp"} {
		t.Run(engine, func(t *testing.T) {
			s := newSuite(t, engine)
			least := 40
			t.Run("node", func(t *testing.T) {
				defer func() {
					if t.Skipped() { // its answers are most of them
						least = 10
					}
				}()
				s.node(t)
			})
			t.Run("go", s.goClient)
			t.Run("open webui", s.openWebUI)
			s.until("every slot is free in the end", 20*time.Second, s.free)
			s.rec.judge(t, least)
		})
	}
}

// node runs node/suite.mjs: openai, ai with @ai-sdk/openai-compatible, and ollama.
func (s *suite) node(t *testing.T) {
	node, err := exec.LookPath("node")
	need(t, err == nil, "node")
	_, err = os.Stat(filepath.Join("node", "node_modules", "ollama"))
	need(t, err == nil, "node client (npm ci in cmd/queen-rbee/e2e/node)")
	cmd := exec.CommandContext(t.Context(), node, "suite.mjs")
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "RBEE_URL="+s.rec.url, "RBEE_QUEEN="+s.url, "RBEE_KEY="+s.infer, "RBEE_ADMIN="+s.admin)
	out, err := cmd.CombinedOutput()
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.HasPrefix(line, "ok ") {
			t.Log(line)
		}
	}
	if err != nil || !strings.Contains(string(out), "all passed") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (s *suite) client(key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(s.rec.url+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
}

func chatParams(model string, tokens int64) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Temperature: openai.Float(0), MaxTokens: openai.Int(tokens),
		Messages:      []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Once upon a time")},
		StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}}
}

// goClient is openai-go: list, chat, stream, abort, errors, completions, embeddings, batch.
func (s *suite) goClient(t *testing.T) {
	c, ctx := s.client(s.infer), t.Context()
	page, err := c.Models.List(ctx)
	if err != nil || len(page.Data) != 2 {
		t.Fatalf("models %+v %v", page, err)
	}
	p := chatParams("chat", 12)
	p.StreamOptions = openai.ChatCompletionStreamOptionsParam{}
	whole, err := c.Chat.Completions.New(ctx, p)
	if err != nil || whole.Choices[0].Message.Content == "" || whole.Usage.CompletionTokens != 12 || whole.Choices[0].FinishReason != "length" {
		t.Fatalf("chat %+v %v", whole, err)
	}
	stream := c.Chat.Completions.NewStreaming(ctx, chatParams("chat", 12))
	acc := openai.ChatCompletionAccumulator{}
	for stream.Next() {
		if !acc.AddChunk(stream.Current()) {
			t.Fatalf("the accumulator rejects %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil || acc.Choices[0].Message.Content != whole.Choices[0].Message.Content || acc.Usage.CompletionTokens != 12 {
		t.Fatalf("stream %+v %v", acc.ChatCompletion, err)
	}
	s.goAbort(t, c)
	s.goErrors(t)
	text, err := c.Completions.New(ctx, openai.CompletionNewParams{Model: "chat", MaxTokens: openai.Int(8),
		Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Once upon a time")}})
	if err != nil || text.Choices[0].Text == "" || text.Usage.CompletionTokens != 8 {
		t.Fatalf("completion %+v %v", text, err)
	}
	e, err := c.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "embed", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}})
	if err != nil || len(e.Data) != 2 || len(e.Data[0].Embedding) == 0 {
		t.Fatalf("embeddings %+v %v", e, err)
	}
	s.goBatch(t, c)
}

func (s *suite) goAbort(t *testing.T, c openai.Client) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream := c.Chat.Completions.NewStreaming(ctx, chatParams("chat", 450))
	if !stream.Next() {
		t.Fatal(stream.Err())
	}
	cancel()
	for stream.Next() {
		continue
	}
	s.until("the aborted stream's slot is free", 10*time.Second, s.free)
}

func (s *suite) goErrors(t *testing.T) {
	for _, tc := range []struct {
		key, model, code string
		status           int
	}{{s.infer, "nosuch", "model_not_found", 404}, {"wrong", "chat", "invalid_api_key", 401}} {
		c := s.client(tc.key)
		_, err := c.Chat.Completions.New(t.Context(), chatParams(tc.model, 1))
		var api *openai.Error
		if !errors.As(err, &api) || api.Code != tc.code || api.StatusCode != tc.status {
			t.Errorf("%s: %v", tc.code, err)
		}
	}
}

func (s *suite) goBatch(t *testing.T, c openai.Client) {
	ctx := t.Context()
	in := `{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"model":"chat","prompt":"Once","max_tokens":3}}` + "\n" +
		`{"custom_id":"b","method":"POST","url":"/v1/completions","body":{"model":"nosuch","prompt":"Once"}}` + "\n"
	f, err := c.Files.New(ctx, openai.FileNewParams{Purpose: openai.FilePurposeBatch, File: openai.File(strings.NewReader(in), "in.jsonl", "application/jsonl")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Batches.New(ctx, openai.BatchNewParams{InputFileID: f.ID, Endpoint: openai.BatchNewParamsEndpointV1Completions, CompletionWindow: openai.BatchNewParamsCompletionWindow24h})
	if err != nil {
		t.Fatal(err)
	}
	s.until("the batch is complete", 30*time.Second, func() bool {
		b, err = c.Batches.Get(ctx, b.ID)
		return err == nil && b.Status == openai.BatchStatusCompleted
	})
	if b.RequestCounts.Completed != 1 || b.RequestCounts.Failed != 1 || b.RequestCounts.Total != 2 {
		t.Fatalf("%+v", b.RequestCounts)
	}
	for id, want := range map[string]string{b.OutputFileID: `"custom_id":"a"`, b.ErrorFileID: `"custom_id":"b"`} {
		res, err := c.Files.Content(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s, want %s: %v", data, want, err)
		}
	}
}

// openWebUI asks what Open WebUI asks when the queen is one of its OpenAI or Ollama connections.
func (s *suite) openWebUI(t *testing.T) {
	get := func(path string, out any) {
		t.Helper()
		status, _, data := s.ask(s.infer, "GET", path, nil)
		if status != 200 {
			t.Fatalf("GET %s: %d %s", path, status, data)
		}
		mustUnmarshal(t, data, out)
	}
	var models struct {
		Object string
		Data   []struct{ ID, Name, Object string }
	}
	get("/v1/models", &models)
	if models.Object != "list" || len(models.Data) != 2 || models.Data[0].ID == "" || models.Data[0].Name == "" || models.Data[0].Object != "model" {
		t.Errorf("models %+v", models)
	}
	var tags struct {
		Models []struct{ Name, Model, Digest string }
	}
	get("/api/tags", &tags)
	if len(tags.Models) != 2 || tags.Models[0].Name == "" || tags.Models[0].Model == "" || tags.Models[0].Digest == "" {
		t.Errorf("tags %+v", tags)
	}
	var version struct{ Version string }
	if get("/api/version", &version); version.Version == "" {
		t.Error("no version")
	}
	body := `{"model":"chat","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":[{"type":"text","text":"Once upon a time"}]}],"max_tokens":6,"temperature":0.8}`
	res, err := s.do(t.Context(), "POST", "/v1/chat/completions", body, "Authorization", "Bearer "+s.infer, "X-OpenWebUI-User-Name", "someone")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var text, finish, last string
	usage := 0
	err = events(res.Body, func(ev event) bool {
		if last = ev.data; last == "[DONE]" {
			return true
		}
		var chunk struct {
			Choices []struct {
				Delta  struct{ Content string }
				Finish string `json:"finish_reason"`
			}
			Usage *struct {
				Completion int `json:"completion_tokens"`
			}
		}
		mustUnmarshal(t, ev.data, &chunk)
		for _, c := range chunk.Choices {
			text, finish = text+c.Delta.Content, finish+c.Finish
		}
		if chunk.Usage != nil {
			usage = chunk.Usage.Completion
		}
		return true
	})
	if err != nil || text == "" || finish != "length" || usage != 6 || last != "[DONE]" {
		t.Errorf("stream: %q %q %d %q %v", text, finish, usage, last, err)
	}
}
