package sserelay

import (
	"context"
	"strings"
	"time"
)

// Prefix returns the text emitted so far and its token count, for a continuation on another worker. ok is false
// where that is refused from what was emitted: several choices, logprobs, tool calls or reasoning under way, bodies,
// raw streams. What the request itself rules out is the caller's to know.
func (s *Stream) Prefix() (text string, tokens int, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s.prefix(ctx)
}

func (s *Stream) prefix(ctx context.Context) (string, int, bool) {
	s.wmu.Lock()
	refuse, tokens := s.state.refuse, s.state.tokens
	s.wmu.Unlock()
	if refuse {
		return "", tokens, false
	}
	var b strings.Builder
	sc := &scanner{s: s, pos: 1}
	err := sc.all(ctx, func(m Meta, data []byte) {
		if m.Kind() == KindData && m.has(flagText) {
			b.WriteString(frameText(m, data))
		}
	})
	return b.String(), tokens, err == nil
}

// frameText decodes the text of a data frame.
func frameText(m Meta, block []byte) string {
	switch m.Protocol() {
	case Execute:
		t, _ := parseToken(blockData(block))
		return unquote(t.text)
	case Chat, Completion:
		c, _ := parseChunk(blockData(block))
		return unquote(c.choice.text)
	}
	return ""
}
