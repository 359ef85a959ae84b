package sserelay

import (
	"encoding/json"
	"strings"
)

// callSet joins the pieces of streamed tool calls.
type callSet struct {
	list []*toolCall
}

type toolCall struct {
	index    int
	id, kind string
	name     string
	args     strings.Builder
}

// add takes the tool_calls array of one delta or message.
func (s *callSet) add(raw []byte) {
	at := 0
	eachElement(raw, func(v []byte) bool {
		index := at
		if i := member(v, "index"); i != nil {
			index = number(i)
		}
		at++
		c := s.at(index)
		f := member(v, "function")
		if id := unquote(member(v, "id")); id != "" {
			c.id = id
		}
		if kind := unquote(member(v, "type")); kind != "" {
			c.kind = kind
		}
		c.name += unquote(member(f, "name"))
		if a := member(f, "arguments"); len(a) > 0 && a[0] == '{' {
			c.args.Write(a) // Ollama sends an object
		} else {
			c.args.WriteString(unquote(a))
		}
		return true
	})
}

func (s *callSet) at(index int) *toolCall {
	for _, c := range s.list {
		if c.index == index {
			return c
		}
	}
	c := &toolCall{index: index, kind: "function"}
	s.list = append(s.list, c)
	return c
}

// openai returns the whole calls as a message's tool_calls.
func (s *callSet) openai() []byte {
	b := []byte{'['}
	for i, c := range s.list {
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(append(b, `{"id":`...), c.id)
		b = quote(append(b, `,"type":`...), c.kind)
		b = quote(append(b, `,"function":{"name":`...), c.name)
		b = quote(append(b, `,"arguments":`...), c.args.String())
		b = append(b, "}}"...)
	}
	return append(b, ']')
}

// ollama returns the whole calls as Ollama has them: arguments are an object.
func (s *callSet) ollama() []byte {
	b := []byte{'['}
	for i, c := range s.list {
		if i > 0 {
			b = append(b, ',')
		}
		args := c.args.String()
		if !json.Valid([]byte(args)) {
			args = "{}"
		}
		b = quote(append(b, `{"function":{"name":`...), c.name)
		b = append(append(append(b, `,"arguments":`...), args...), "}}"...)
	}
	return append(b, ']')
}
