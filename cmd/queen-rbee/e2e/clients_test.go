package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

const rounds = 20

func stories(t *testing.T, extra string) *queen {
	t.Helper()
	_, model := llamaServer(t)
	return start(t, "models: {stories: {ref: \"file:"+model+"\", engine: llama.cpp, slots: 2, context: 1024, args: [\"-t\", \"1\", \"-tb\", \"1\"]}}\n"+extra)
}

// TestOpenAINode is the openai npm client over a real llama-server, twenty times in a row without a retry.
func TestOpenAINode(t *testing.T) {
	node, err := exec.LookPath("node")
	need(t, err == nil, "node")
	_, err = os.Stat(filepath.Join("node", "node_modules", "openai"))
	need(t, err == nil, "node client (npm ci in cmd/queen-rbee/e2e/node)")
	q := stories(t, "")
	cmd := exec.Command(node, "stories.mjs", itoa(rounds))
	cmd.Dir = "node"
	cmd.Env = append(os.Environ(), "RBEE_URL="+q.url)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), itoa(rounds)+" rounds") {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestOpenAIGo is the same with github.com/openai/openai-go.
func TestOpenAIGo(t *testing.T) {
	q := stories(t, "")
	client := openai.NewClient(option.WithBaseURL(q.url+"/v1"), option.WithAPIKey("any"), option.WithMaxRetries(0))
	for i := range rounds {
		stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{
			Model: "stories", Temperature: openai.Float(0), MaxTokens: openai.Int(30),
			Messages:      []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Once upon a time")},
			StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
		})
		acc := openai.ChatCompletionAccumulator{}
		for stream.Next() {
			if !acc.AddChunk(stream.Current()) {
				t.Fatalf("round %d: the accumulator rejects a chunk: %s", i, stream.Current().RawJSON())
			}
		}
		if err := stream.Err(); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if len(acc.Choices) != 1 || !strings.Contains(acc.Choices[0].Message.Content, "little girl named Lily") ||
			acc.Choices[0].FinishReason != "length" || acc.Usage.CompletionTokens != 30 {
			t.Fatalf("round %d: %+v", i, acc.ChatCompletion)
		}
		text, err := client.Completions.New(t.Context(), openai.CompletionNewParams{Model: "stories", Temperature: openai.Float(0), MaxTokens: openai.Int(30),
			Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("Once upon a time")}})
		if err != nil || !strings.Contains(text.Choices[0].Text, "little girl named Lily") || text.Usage.CompletionTokens != 30 {
			t.Fatalf("round %d: %v %+v", i, err, text)
		}
	}
	models, err := client.Models.List(t.Context())
	if err != nil || len(models.Data) != 1 || models.Data[0].ID != "stories" {
		t.Fatalf("models %+v, %v", models, err)
	}
	_, err = client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: "nosuch",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}})
	var api *openai.Error
	if !errors.As(err, &api) || api.Code != "model_not_found" || api.StatusCode != 404 {
		t.Fatalf("unknown model: %v", err)
	}
}
