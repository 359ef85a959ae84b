package strict

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// keys remembers the keys of one object: a few in an array, more in a map.
type keys struct {
	few  [12][]byte
	n    int
	many map[string]struct{}
}

// add reports whether the key is new.
func (k *keys) add(key []byte) bool {
	if k.many != nil {
		if _, ok := k.many[string(key)]; ok {
			return false
		}
		k.many[string(key)] = struct{}{}
		return true
	}
	for _, old := range k.few[:k.n] {
		if bytes.Equal(old, key) {
			return false
		}
	}
	if k.n < len(k.few) {
		k.few[k.n] = key
		k.n++
		return true
	}
	k.many = make(map[string]struct{}, 4*len(k.few))
	for _, old := range k.few {
		k.many[string(old)] = struct{}{}
	}
	k.many[string(key)] = struct{}{}
	return true
}

// unescape decodes the inside of a string that is known to be valid.
func unescape(raw []byte) []byte {
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(quoted, '"')
	quoted = append(quoted, raw...)
	quoted = append(quoted, '"')
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return raw
	}
	return []byte(s)
}

// String decodes a raw JSON string value; ok is false when it is none.
func String(raw []byte) (s string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	return string(unescape(inner)), true
}

// Chars counts the characters of a raw JSON string value without decoding it.
func Chars(raw []byte) int {
	n, end := 0, len(raw)-1
	for i := 1; i < end; {
		if run := min(plainRun(raw[i:]), end-i); run > 0 {
			n, i = n+run, i+run
			continue
		}
		switch c := raw[i]; {
		case c == '\\' && raw[i+1] == 'u':
			n, i = n+1, i+6
		case c == '\\':
			n, i = n+1, i+2
		case c < 0x80:
			n, i = n+1, i+1
		default:
			for i < end && raw[i] >= 0x80 {
				if raw[i]&0xC0 != 0x80 { // not a continuation byte
					n++
				}
				i++
			}
		}
	}
	return n
}

func inRange(number []byte) bool {
	_, err := strconv.ParseFloat(string(number), 64)
	return err == nil
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func clip(key []byte) string {
	if len(key) > 64 {
		key = key[:64]
	}
	return string(bytes.ToValidUTF8(key, []byte("?")))
}
