package sserelay

import "bytes"

// Most chunks of an answer differ from the one before in nothing but the text. likeness recognises such a chunk without
// parsing it: what stands before and after the text is the same, byte for byte, and the text is one whole JSON string, so
// that all else that parsing could find is what it found in the chunk before.
type likeness struct {
	data     []byte
	from, to int // of the text in data, without its quotes; to is 0 when there is nothing to compare with
}

// learn remembers a chunk of one token of text.
func (l *likeness) learn(data []byte, ch *chunk) {
	l.to = 0
	if ch.usage != nil || ch.timings != nil || ch.verbose != nil || ch.tokens != nil || ch.choice.role != nil || len(data) > 4<<10 {
		return
	}
	l.data = append(l.data[:0], data...)
	l.from = cap(data) - cap(ch.choice.text) + 1
	l.to = l.from + len(ch.choice.text) - 2
}

// matches reports whether data is like the chunk that was learnt.
func (l *likeness) matches(data []byte) bool {
	if l.to == 0 {
		return false
	}
	after := l.data[l.to:]
	end := len(data) - len(after)
	return end > l.from && bytes.Equal(data[:l.from], l.data[:l.from]) && bytes.Equal(data[end:], after) &&
		skipString(data, l.from-1) == end+1
}
