package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"unicode/utf8"
)

var errNotJSON = errors.New("not a JSON object")

// member is one name and value of an object, as places in the text, and what becomes of it.
type member struct {
	name       []byte
	start      int // of the name's quote
	value, end int
	edit       string // what stands there instead of the value, where edited
	edited     bool
	gone       bool
}

// raw is the member's value as it stands in the text.
func (m member) raw(text []byte) []byte { return text[m.value:m.end] }

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns the place after the string whose opening quote is at i, or -1.
func skipString(b []byte, i int) int {
	end := i
	for i++; i <= len(b); {
		if end < i {
			n := bytes.IndexByte(b[i:], '"')
			if n < 0 {
				return -1
			}
			end = i + n
		}
		n := bytes.IndexByte(b[i:end], '\\')
		if n < 0 {
			return end + 1
		}
		i += n + 2 // behind what is escaped, which may be the quote
	}
	return -1
}

// skipValue returns the place after the value that begins at i, or -1. It follows structure only: what stands between
// brackets is the worker's to judge. It does not recurse, so depth costs nothing.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	start := i
	for i < len(b) && !ends(b[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// ends says whether a byte ends a number or a word.
func ends(c byte) bool {
	switch c {
	case ' ', '\t', '\r', '\n', ',', ']', '}', ':', '"', '[', '{':
		return true
	}
	return false
}

// members appends the members of the object that the text is to out, which is mostly memory that the caller has at hand. Values
// are not validated inside.
func members(b []byte, out []member) ([]member, error) {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return nil, errNotJSON
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return out, tail(b, i+1)
	}
	for {
		m := member{start: i}
		if i >= len(b) || b[i] != '"' {
			return nil, errNotJSON
		}
		if i = skipString(b, i); i < 0 {
			return nil, errNotJSON
		}
		m.name = nameOf(b[m.start:i])
		i = space(b, i)
		if i >= len(b) || b[i] != ':' {
			return nil, errNotJSON
		}
		m.value = space(b, i+1)
		if m.end = skipValue(b, m.value); m.end < 0 {
			return nil, errNotJSON
		}
		out = append(out, m)
		i = space(b, m.end)
		if i >= len(b) {
			return nil, errNotJSON
		}
		if b[i] == '}' {
			return out, tail(b, i+1)
		}
		if b[i] != ',' {
			return nil, errNotJSON
		}
		i = space(b, i+1)
	}
}

func tail(b []byte, i int) error {
	if space(b, i) != len(b) {
		return errNotJSON
	}
	return nil
}

// nameOf unquotes a member's name as every other reader of JSON does; a plain name, the rule, is a part of the text.
func nameOf(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 && utf8.Valid(quoted) {
		return quoted[1 : len(quoted)-1]
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return quoted
	}
	return []byte(s)
}

// elements lists the places of an array's elements: pairs of start and end.
func elements(b []byte) ([][2]int, error) {
	i := space(b, 0)
	if i >= len(b) || b[i] != '[' {
		return nil, errNotJSON
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == ']' {
		return nil, tail(b, i+1)
	}
	var out [][2]int
	for {
		end := skipValue(b, i)
		if end < 0 {
			return nil, errNotJSON
		}
		out = append(out, [2]int{i, end})
		i = space(b, end)
		if i >= len(b) || (b[i] != ',' && b[i] != ']') {
			return nil, errNotJSON
		}
		if b[i] == ']' {
			return out, tail(b, i+1)
		}
		i = space(b, i+1)
	}
}

// body is a JSON object under edit. Values that no edit names keep their bytes.
type body struct {
	text    []byte
	members []member
	edits   int // members that are edited or gone
	added   []addition
}

type addition struct{ name, raw string }

// bodies are those of requests that have been built: nothing of one is kept but its room.
var bodies = sync.Pool{New: func() any { return &body{members: make([]member, 0, 16)} }} //nolint:gochecknoglobals // memory, not state

// borrowBody is parseBody for who gives the body back; also when there is an error.
func borrowBody(text []byte) (*body, error) {
	b, _ := bodies.Get().(*body)
	ms, err := members(text, b.members)
	if err != nil {
		b.members = b.members[:cap(b.members)] // some of it has been used
		return b, err
	}
	b.text, b.members = text, ms
	return b, nil
}

// giveBack ends the use of a body; what get and bytes gave stays valid.
func (b *body) giveBack() {
	if cap(b.members) > 64 || cap(b.added) > 64 {
		return
	}
	clear(b.members)
	clear(b.added)
	*b = body{members: b.members[:0], added: b.added[:0]}
	bodies.Put(b)
}

func parseBody(text []byte) (*body, error) {
	ms, err := members(text, nil)
	if err != nil {
		return nil, err
	}
	return &body{text: text, members: ms}, nil
}

// get gives a member's raw value as it would be sent; the last of several wins, as engines read it.
func (b *body) get(name string) ([]byte, bool) {
	for i := len(b.added) - 1; i >= 0; i-- {
		if b.added[i].name == name {
			return []byte(b.added[i].raw), true
		}
	}
	for i := len(b.members) - 1; i >= 0; i-- {
		m := &b.members[i]
		if m.gone || string(m.name) != name {
			continue
		}
		if m.edited {
			return []byte(m.edit), true
		}
		return m.raw(b.text), true
	}
	return nil, false
}

// set gives the member a raw value, wherever and however often it stands.
func (b *body) set(name, raw string) {
	found := false
	for i := range b.members {
		m := &b.members[i]
		if m.gone || string(m.name) != name {
			continue
		}
		if m.edited || string(m.raw(b.text)) != raw {
			m.edit, m.edited = raw, true
			b.edits++
		}
		found = true
	}
	for i := range b.added {
		if b.added[i].name == name {
			b.added[i].raw, found = raw, true
		}
	}
	if !found {
		b.added = append(b.added, addition{name, raw})
	}
}

// setText is set with a text; one that stands there already costs nothing.
func (b *body) setText(name, text string) {
	if len(b.added) == 0 && plainText(text) && b.has(name, text) {
		return
	}
	b.set(name, quote(text))
}

// has reports whether the member stands there, and wherever it does with this plain text.
func (b *body) has(name, text string) bool {
	found := false
	for i := range b.members {
		m := &b.members[i]
		if m.gone || string(m.name) != name {
			continue
		}
		raw := m.raw(b.text)
		if m.edited || len(raw) != len(text)+2 || raw[0] != '"' || string(raw[1:len(raw)-1]) != text {
			return false
		}
		found = true
	}
	return found
}

// drop removes members.
func (b *body) drop(names ...string) {
	for _, name := range names {
		for i := range b.members {
			if string(b.members[i].name) == name {
				b.members[i].gone = true
				b.edits++
			}
		}
		for i := 0; i < len(b.added); i++ {
			if b.added[i].name == name {
				b.added = append(b.added[:i], b.added[i+1:]...)
				i--
			}
		}
	}
}

// rename moves a value to another name, unless that name is taken.
func (b *body) rename(from, to string) {
	v, ok := b.get(from)
	if !ok {
		return
	}
	b.drop(from)
	if _, taken := b.get(to); !taken {
		b.set(to, string(v))
	}
}

// bytes is the text with its edits; the text itself when there are none.
func (b *body) bytes() []byte {
	if b.edits == 0 && len(b.added) == 0 {
		return b.text
	}
	n := len(b.text) + 2
	for i := range b.members {
		n += len(b.members[i].edit)
	}
	for _, a := range b.added {
		n += len(a.name) + len(a.raw) + 4
	}
	out := append(make([]byte, 0, n), '{')
	for i := range b.members {
		m := &b.members[i]
		if m.gone {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		if m.edited {
			out = append(append(out, b.text[m.start:m.value]...), m.edit...)
			continue
		}
		out = append(out, b.text[m.start:m.end]...)
	}
	for _, a := range b.added {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(appendQuote(out, a.name), ':'), a.raw...)
	}
	return append(out, '}')
}

// appendQuote appends a JSON string.
func appendQuote(b []byte, s string) []byte {
	if plainText(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	return append(b, quote(s)...)
}

// quote is a JSON string.
func quote(s string) string {
	if plainText(s) {
		return `"` + s + `"`
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) != nil {
		return strconv.Quote("")
	}
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// plainText reports whether a text stands between quotes as it is.
func plainText(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return true
}
