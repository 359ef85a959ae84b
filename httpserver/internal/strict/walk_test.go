package strict

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// FuzzWalk holds what walks checked values against encoding/json, and lets it loose on values that nobody checked.
func FuzzWalk(f *testing.F) {
	for _, s := range []string{`[1, "a,b" ,[2],{"x":"]"}, null,true ]`, `{"a" : 1,"\u0062":"\\","c\"":{"d":["}"]}, "":-1.5e3}`, `[]`, ` {} `, `{"a":"\\\\\""}`, `["\\"]`, `[1`, `{"a":`, `{"a"}`,
		`["é","日本語","\ud83d\ude00","abcdefgh\u0041"]`, `[,]`, `{"a":}`, `{"a":1,}`, `["\`, `["\"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.TrimSpace(b)
		var elements, values, keys []string
		isList := Elements(b, func(v []byte) bool { elements = append(elements, string(v)); chars(v); return true })
		isObject := Members(b, func(k, v []byte) bool {
			keys, values = append(keys, string(k)), append(values, string(v))
			chars(v)
			return true
		})
		if Value(b, 1000) != nil {
			return
		}
		var list []json.RawMessage
		if json.Unmarshal(b, &list) == nil && list != nil {
			var want []string
			for _, e := range list {
				want = append(want, string(e))
			}
			if diff := cmp.Diff(want, elements); !isList || isObject || diff != "" {
				t.Fatalf("%q: %v %s", b, isList, diff)
			}
			return
		}
		if len(b) == 0 || b[0] != '{' {
			if isList || isObject {
				t.Fatalf("%q is taken for a list or an object", b)
			}
			return
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(b, &object); err != nil {
			t.Fatal(err)
		}
		if !isObject || isList || len(keys) != len(object) {
			t.Fatalf("%q: %v, %d members, want %d", b, isObject, len(keys), len(object))
		}
		for i, k := range keys {
			if values[i] != string(object[k]) {
				t.Fatalf("%q: member %q is %q, want %q", b, k, values[i], object[k])
			}
		}
	})
}

// chars counts where a string stands.
func chars(v []byte) {
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' && Value(v, 1) == nil {
		Chars(v)
	}
}

// FuzzChars: the characters of a string are those that encoding/json decodes, each half of a surrogate pair counted.
func FuzzChars(f *testing.F) {
	for _, s := range []string{"", "abc", "abcdefgh", "abcdefg\\", "éééééééé", "日本語 text that is longer", "\x01\"\\/\b", "😀 and more and more", strings.Repeat("\n", 20)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if n := Chars(raw); n != utf8.RuneCountInString(s) {
			t.Fatalf("%s: %d characters, want %d", raw, n, utf8.RuneCountInString(s))
		}
		var escaped []byte // every character as an escape
		for _, r := range s {
			if r < 0x10000 {
				escaped = append(escaped, []byte(`\u`+hex4(r))...)
			}
		}
		if n := Chars(append(append([]byte{'"'}, escaped...), '"')); n != len(escaped)/6 {
			t.Fatalf("%s: %d characters, want %d", escaped, n, len(escaped)/6)
		}
	})
}

func hex4(r rune) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15]})
}
