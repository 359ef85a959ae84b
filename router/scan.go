package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

var errNotJSON = errors.New("not a JSON object")

// member is one name and value of an object, as places in the text.
type member struct {
	name       string
	start      int // of the name's quote
	value, end int
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
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
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
	for i < len(b) && bytes.IndexByte([]byte(" \t\r\n,]}:\"[{"), b[i]) < 0 {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// members lists the members of the object that the text is. Values are not validated inside.
func members(b []byte) ([]member, error) {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return nil, errNotJSON
	}
	out := make([]member, 0, 12)
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

// nameOf unquotes a member's name as every other reader of JSON does; a plain name, the rule, needs no decoder.
func nameOf(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 && utf8.Valid(quoted) {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return string(quoted)
	}
	return s
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
	changed map[int]string // member index to new raw value
	gone    map[int]bool
	added   []addition
}

type addition struct{ name, raw string }

func parseBody(text []byte) (*body, error) {
	ms, err := members(text)
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
		if b.members[i].name != name || b.gone[i] {
			continue
		}
		if v, ok := b.changed[i]; ok {
			return []byte(v), true
		}
		return b.members[i].raw(b.text), true
	}
	return nil, false
}

// set gives the member a raw value, wherever and however often it stands.
func (b *body) set(name, raw string) {
	found := false
	for i := range b.members {
		if b.members[i].name != name || b.gone[i] {
			continue
		}
		if string(b.members[i].raw(b.text)) != raw || b.changed != nil {
			if b.changed == nil {
				b.changed = make(map[int]string, 4)
			}
			b.changed[i] = raw
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

// drop removes members.
func (b *body) drop(names ...string) {
	for _, name := range names {
		for i := range b.members {
			if b.members[i].name == name {
				if b.gone == nil {
					b.gone = make(map[int]bool, 4)
				}
				b.gone[i] = true
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
	if len(b.changed) == 0 && len(b.gone) == 0 && len(b.added) == 0 {
		return b.text
	}
	n := len(b.text) + 2
	for _, v := range b.changed {
		n += len(v)
	}
	for _, a := range b.added {
		n += len(a.name) + len(a.raw) + 4
	}
	out := append(make([]byte, 0, n), '{')
	for i, m := range b.members {
		if b.gone[i] {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		if v, ok := b.changed[i]; ok {
			out = append(append(out, b.text[m.start:m.value]...), v...)
			continue
		}
		out = append(out, b.text[m.start:m.end]...)
	}
	for _, a := range b.added {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, quote(a.name)...), ':'), a.raw...)
	}
	return append(out, '}')
}

// quote is a JSON string.
func quote(s string) string {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] >= 0x20 && s[i] < 0x7f && s[i] != '"' && s[i] != '\\'
	}
	if plain {
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
