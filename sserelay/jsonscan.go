package sserelay

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
)

// A strict JSON reader over raw bytes that allocates nothing: a frame is looked at once per token, and encoding/json
// would build a tree for it.

const maxDepth = 200

// skipSpace returns the index of the first byte at or after i that is not white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue checks the value that begins at i and returns the index after it, or -1.
func skipValue(b []byte, i, depth int) int {
	if i >= len(b) || depth > maxDepth {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return skipString(b, i)
	case c == '{':
		return skipObject(b, i, depth, nil)
	case c == '[':
		return skipArray(b, i, depth, nil)
	case c == 't':
		return skipLiteral(b, i, "true")
	case c == 'f':
		return skipLiteral(b, i, "false")
	case c == 'n':
		return skipLiteral(b, i, "null")
	case c == '-' || c >= '0' && c <= '9':
		return skipNumber(b, i)
	}
	return -1
}

func skipLiteral(b []byte, i int, want string) int {
	if len(b)-i < len(want) || string(b[i:i+len(want)]) != want {
		return -1
	}
	return i + len(want)
}

// skipString checks the string whose opening quote is at i.
func skipString(b []byte, i int) int {
	for i = plainEnd(b, i+1); i < len(b); i = plainEnd(b, i+1) {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return -1
		case c == '\\':
			i++
			if i >= len(b) {
				return -1
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for k := 1; k <= 4; k++ {
					if i+k >= len(b) || !isHex(b[i+k]) {
						return -1
					}
				}
				i += 4
			default:
				return -1
			}
		}
	}
	return -1
}

// plainEnd returns the index of the first byte at or after i that means something inside a string, or is not allowed there:
// a quote, a backslash, a control character.
func plainEnd(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 { // eight bytes at once; the lowest bit that is set is right, those above it may not be
		w := binary.LittleEndian.Uint64(b[i:])
		q, s := w^ones*'"', w^ones*'\\'
		if m := ((w-ones*' ')&^w | (q-ones)&^q | (s-ones)&^s) & tops; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == '"' || c == '\\' || c < ' ' {
			return i
		}
	}
	return i
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

func skipNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	from := i
	if i = skipDigits(b, i); i == from || b[from] == '0' && i > from+1 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		from = i + 1
		if i = skipDigits(b, from); i == from {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		from = i
		if i = skipDigits(b, from); i == from {
			return -1
		}
	}
	return i
}

// skipObject checks the object at i; fn, unless nil, sees each member and returns false to stop looking (the rest is
// still checked).
func skipObject(b []byte, i, depth int, fn func(key, val []byte) bool) int {
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return -1
		}
		k := i
		if i = skipString(b, i); i < 0 {
			return -1
		}
		key := b[k+1 : i-1]
		if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
			return -1
		}
		v := skipSpace(b, i+1)
		if i = skipValue(b, v, depth+1); i < 0 {
			return -1
		}
		if fn != nil && !fn(key, b[v:i]) {
			fn = nil
		}
		if i = skipSpace(b, i); i >= len(b) {
			return -1
		}
		if b[i] == '}' {
			return i + 1
		}
		if b[i] != ',' {
			return -1
		}
		i = skipSpace(b, i+1)
	}
}

// skipArray checks the array at i; fn, unless nil, sees each element.
func skipArray(b []byte, i, depth int, fn func(val []byte) bool) int {
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for {
		v := i
		if i = skipValue(b, v, depth+1); i < 0 {
			return -1
		}
		if fn != nil && !fn(b[v:i]) {
			fn = nil
		}
		if i = skipSpace(b, i); i >= len(b) {
			return -1
		}
		if b[i] == ']' {
			return i + 1
		}
		if b[i] != ',' {
			return -1
		}
		i = skipSpace(b, i+1)
	}
}

// eachField calls fn with the raw members of the object b until fn returns false. It reports whether b is one
// well-formed JSON object and nothing else.
func eachField(b []byte, fn func(key, val []byte) bool) bool {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	i = skipObject(b, i, 0, fn)
	return i >= 0 && skipSpace(b, i) == len(b)
}

// eachElement calls fn with the raw elements of the array b until fn returns false.
func eachElement(b []byte, fn func(val []byte) bool) bool {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '[' {
		return false
	}
	i = skipArray(b, i, 0, fn)
	return i >= 0 && skipSpace(b, i) == len(b)
}

// member returns the raw value of one member of an object, nil when it is absent.
func member(b []byte, name string) (val []byte) {
	eachField(b, func(k, v []byte) bool {
		if string(k) == name {
			val = v
			return false
		}
		return true
	})
	return val
}

// isNull reports whether a raw value is absent or null.
func isNull(v []byte) bool { return len(v) == 0 || v[0] == 'n' }

// isText reports whether a raw value is a string with something in it.
func isText(v []byte) bool { return len(v) > 2 && v[0] == '"' }

// isFilled reports whether a raw value is neither absent, null nor empty.
func isFilled(v []byte) bool {
	if isNull(v) {
		return false
	}
	switch string(v) {
	case `""`, "[]", "{}":
		return false
	}
	return true
}

// inner returns the bytes of a raw string between its quotes, still escaped.
func inner(v []byte) []byte {
	if len(v) < 2 || v[0] != '"' {
		return nil
	}
	return v[1 : len(v)-1]
}

// number returns a raw value as a whole number, 0 when it is none.
func number(v []byte) int {
	if n, err := strconv.Atoi(string(v)); err == nil {
		return n
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f < -1e15 || f > 1e15 {
		return 0
	}
	return int(f)
}

// quote appends s as a JSON string.
func quote(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '"' && c != '\\' && c >= ' ' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"')
}

// oneLine appends raw JSON without the line ends that white space between its parts may hold.
func oneLine(dst, raw []byte) []byte {
	if bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0 {
		return append(dst, raw...)
	}
	for _, c := range raw {
		if c != '\n' && c != '\r' { // inside strings they are always escaped
			dst = append(dst, c)
		}
	}
	return dst
}
