package sserelay

import (
	"bytes"
	"testing"
)

// FuzzLikeness: a chunk that is taken for like the one before must parse to the same but for its text.
func FuzzLikeness(f *testing.F) {
	const a = `{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}`
	for _, b := range []string{
		`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"two \n \u00e9 \\"},"finish_reason":null}]}`,
		`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop","x":{"content":"one"},"finish_reason":null}]}`,
		`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}`,
		`{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"\"},"finish_reason":null}]}`,
		`{"id":"y","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}`,
		`{"choices":[{"index":0,"text":"a"}]}`,
	} {
		f.Add([]byte(a), []byte(b))
		f.Add([]byte(b), []byte(a))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		first, ok := parseChunk(one)
		if !ok || first.done || first.err != nil || first.flags() != flagText || first.tokenCount() != 1 {
			return
		}
		var l likeness
		l.learn(one, &first)
		if !l.matches(two) {
			return
		}
		ch, ok := parseChunk(two)
		if !ok || ch.done || ch.err != nil || ch.usage != nil || ch.flags() != flagText || ch.tokenCount() != 1 {
			t.Fatalf("%q was taken for like %q", two, one)
		}
		if !bytes.Equal(ch.id, first.id) || !bytes.Equal(ch.model, first.model) || ch.choice.index != 0 {
			t.Fatalf("%q has another identity than %q", two, one)
		}
	})
}

func TestLikenessIsUsed(t *testing.T) {
	one := []byte(`{"id":"x","choices":[{"index":0,"delta":{"content":"one"},"finish_reason":null}]}`)
	ch, _ := parseChunk(one)
	var l likeness
	l.learn(one, &ch)
	for text, want := range map[string]bool{"two": true, "": false, `a\n`: true, `"`: false, `\`: false, "\x01": false} {
		two := []byte(`{"id":"x","choices":[{"index":0,"delta":{"content":"` + text + `"},"finish_reason":null}]}`)
		if l.matches(two) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
