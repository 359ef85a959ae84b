package clients

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
)

func client(t *testing.T, g *rig, key string) openai.Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return openai.NewClient(option.WithBaseURL(g.url+"/v1"), option.WithAPIKey(key), option.WithMaxRetries(0), option.WithHTTPClient(&http.Client{Transport: tr}))
}

func chat(model, text string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}}
}

const tale = "Once upon a time"

func TestOpenAIGo(t *testing.T) {
	g := newRig(t)
	c, ctx := client(t, g, "infer"), t.Context()
	t.Run("models", func(t *testing.T) {
		page, err := c.Models.List(ctx)
		if err != nil || len(page.Data) != 1 || page.Data[0].ID != "stories" {
			t.Fatalf("%+v %v", page, err)
		}
		if m, err := c.Models.Get(ctx, "stories"); err != nil || m.OwnedBy != "simulator" {
			t.Fatalf("%+v %v", m, err)
		}
	})
	t.Run("chat", func(t *testing.T) {
		r, err := c.Chat.Completions.New(ctx, chat("stories", "x"))
		if err != nil || r.Choices[0].Message.Content != tale || r.Usage.TotalTokens == 0 {
			t.Fatalf("%+v %v", r, err)
		}
	})
	t.Run("stream with accumulator and usage", func(t *testing.T) {
		p := chat("stories", "x")
		p.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: param.NewOpt(true)}
		s := c.Chat.Completions.NewStreaming(ctx, p)
		var acc openai.ChatCompletionAccumulator
		for s.Next() {
			if !acc.AddChunk(s.Current()) {
				t.Fatal("the accumulator rejects a chunk")
			}
		}
		if err := s.Err(); err != nil || acc.Choices[0].Message.Content != tale || acc.Choices[0].FinishReason != "stop" || acc.Usage.CompletionTokens != 4 {
			t.Fatalf("%+v %v", acc, err)
		}
	})
	t.Run("abort", func(t *testing.T) {
		actx, cancel := context.WithCancel(ctx)
		defer cancel()
		s := c.Chat.Completions.NewStreaming(actx, chat("stories", "hang"))
		if !s.Next() {
			t.Fatal(s.Err())
		}
		cancel()
		for s.Next() {
			continue
		}
		select {
		case <-g.released:
		case <-time.After(10 * time.Second):
			t.Fatal("the job was not told")
		}
	})
	t.Run("error in a stream", func(t *testing.T) {
		s := c.Chat.Completions.NewStreaming(ctx, chat("stories", "break"))
		for s.Next() {
			continue
		}
		if s.Err() == nil {
			t.Fatal("a broken stream ended cleanly")
		}
	})
	t.Run("completions and embeddings", func(t *testing.T) {
		r, err := c.Completions.New(ctx, openai.CompletionNewParams{Model: "stories", Prompt: openai.CompletionNewParamsPromptUnion{OfString: param.NewOpt("x")}})
		if err != nil || r.Choices[0].Text != tale {
			t.Fatalf("%+v %v", r, err)
		}
		e, err := c.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "stories", Input: openai.EmbeddingNewParamsInputUnion{OfString: param.NewOpt("x")}})
		if err != nil || len(e.Data[0].Embedding) != 2 {
			t.Fatalf("%+v %v", e, err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		for _, tc := range []struct {
			key, model, code string
			status           int
		}{{"admin", "none", "model_not_found", 404}, {"wrong", "stories", "invalid_api_key", 401}, {"infer", "other", "forbidden", 403}} {
			cl := client(t, g, tc.key)
			_, err := cl.Chat.Completions.New(ctx, chat(tc.model, "x"))
			var e *openai.Error
			if !errors.As(err, &e) || e.StatusCode != tc.status || e.Code != tc.code {
				t.Errorf("%+v: %v", tc, err)
			}
		}
	})
	t.Run("batch", func(t *testing.T) { batch(t, c) })
}

func batch(t *testing.T, c openai.Client) {
	ctx := t.Context()
	in := `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"stories","messages":[{"role":"user","content":"x"}]}}`
	f, err := c.Files.New(ctx, openai.FileNewParams{Purpose: openai.FilePurposeBatch, File: openai.File(strings.NewReader(in), "in.jsonl", "application/jsonl")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Batches.New(ctx, openai.BatchNewParams{InputFileID: f.ID, Endpoint: openai.BatchNewParamsEndpointV1ChatCompletions, CompletionWindow: openai.BatchNewParamsCompletionWindow24h})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; b.Status != openai.BatchStatusCompleted; n++ {
		<-tick.C
		if b, err = c.Batches.Get(ctx, b.ID); err != nil || n > 1000 {
			t.Fatalf("%+v %v", b, err)
		}
	}
	resp, err := c.Files.Content(ctx, b.OutputFileID)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(out), tale) {
		t.Fatalf("%s %v", out, err)
	}
}
