package httpserver

import (
	"encoding/json"
	"fmt"
	"strings"
)

type openaiMessage struct {
	Role       string       `json:"role"`
	Content    any          `json:"content"`
	ToolCalls  []openaiCall `json:"tool_calls,omitempty"`
	ToolCallID string       `json:"tool_call_id,omitempty"`
	Name       string       `json:"name,omitempty"`
}

type openaiCall struct {
	ID       string         `json:"id"`
	Type     string         `json:"type"`
	Function openaiFunction `json:"function"`
}

type openaiFunction struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

type contentPart struct {
	Type     string    `json:"type"`
	Text     string    `json:"text,omitempty"`
	ImageURL *imageURL `json:"image_url,omitempty"`
}

type imageURL struct {
	URL string `json:"url"`
}

// openaiMessages translates Ollama's messages. Ollama's tool calls need no ids: calls are numbered, and each answer of a
// tool takes the oldest open call of its name.
func openaiMessages(in []ollamaMessage) []openaiMessage {
	out := make([]openaiMessage, 0, len(in))
	var open []openaiCall
	calls := 0
	for _, m := range in {
		o := openaiMessage{Role: m.Role, Content: content(m)}
		for _, t := range m.ToolCalls {
			calls++
			id := t.ID
			if id == "" {
				id = fmt.Sprintf("call_%d", calls)
			}
			call := openaiCall{id, "function", openaiFunction{t.Function.Name, arguments(t.Function.Arguments)}}
			o.ToolCalls = append(o.ToolCalls, call)
			open = append(open, call)
		}
		if m.Role == "tool" {
			o.ToolCallID = m.CallID
			if o.ToolCallID == "" {
				o.ToolCallID, open = answered(open, m.ToolName)
			}
		}
		out = append(out, o)
	}
	return out
}

func answered(open []openaiCall, name string) (string, []openaiCall) {
	for i, c := range open {
		if name == "" || c.Function.Name == name {
			return c.ID, append(open[:i:i], open[i+1:]...)
		}
	}
	return "call_0", open
}

// arguments turns Ollama's object into the string that OpenAI has.
func arguments(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "{}"
	}
	if s, ok := unquoted(raw); ok {
		return s
	}
	return string(raw)
}

func unquoted(raw json.RawMessage) (string, bool) {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

func content(m ollamaMessage) any {
	if len(m.Images) == 0 {
		return m.Content
	}
	parts := []contentPart{{Type: "text", Text: m.Content}}
	for _, img := range m.Images {
		if !strings.HasPrefix(img, "data:") {
			img = "data:" + imageType(img) + ";base64," + img
		}
		parts = append(parts, contentPart{Type: "image_url", ImageURL: &imageURL{img}})
	}
	return parts
}

// imageType tells the type of an image from the first characters of its base64 form.
func imageType(b64 string) string {
	switch {
	case strings.HasPrefix(b64, "/9j/"):
		return "image/jpeg"
	case strings.HasPrefix(b64, "R0lG"):
		return "image/gif"
	case strings.HasPrefix(b64, "UklG"):
		return "image/webp"
	}
	return "image/png"
}
