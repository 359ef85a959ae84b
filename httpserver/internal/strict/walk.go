package strict

import "bytes"

// What is walked here was checked before: only the ends of values are looked for.

// Elements calls fn for each element of a raw array that is known to be valid; it reports false when raw is no array
// or fn returned false.
func Elements(raw []byte, fn func(value []byte) bool) bool {
	if len(raw) == 0 || raw[0] != '[' {
		return false
	}
	i := blank(raw, 1)
	if i < len(raw) && raw[i] == ']' {
		return true
	}
	for i < len(raw) {
		end := past(raw, i)
		if end < 0 || !fn(raw[i:end:end]) {
			return false
		}
		if i = blank(raw, end); i >= len(raw) || raw[i] == ']' {
			return true
		}
		i = blank(raw, i+1) // ,
	}
	return false
}

// Members calls fn for each member of a raw object that is known to be valid; it reports false when raw is no object or fn
// returned false.
func Members(raw []byte, fn func(key, value []byte) bool) bool {
	if len(raw) == 0 || raw[0] != '{' {
		return false
	}
	i := blank(raw, 1)
	if i < len(raw) && raw[i] == '}' {
		return true
	}
	for i < len(raw) && raw[i] == '"' {
		end := pastString(raw, i)
		if end < 0 {
			return false
		}
		key := raw[i+1 : end-1 : end-1]
		if bytes.IndexByte(key, '\\') >= 0 {
			key = unescape(key)
		}
		i = blank(raw, blank(raw, end)+1) // :
		if i >= len(raw) {
			return false
		}
		if end = past(raw, i); end < 0 || !fn(key, raw[i:end:end]) {
			return false
		}
		if i = blank(raw, end); i >= len(raw) || raw[i] == '}' {
			return i < len(raw)
		}
		i = blank(raw, i+1) // ,
	}
	return false
}

// blank returns where the white space from i on ends.
func blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// past returns where the value that begins at i ends, or -1.
func past(b []byte, i int) int {
	switch b[i] {
	case '"':
		return pastString(b, i)
	case '{', '[':
		return pastNested(b, i)
	case ',', ':', ']', '}':
		return -1
	}
	for i < len(b) {
		switch b[i] {
		case ',', ']', '}', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

func pastNested(b []byte, i int) int {
	for depth := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = pastString(b, i) - 1; i < 0 {
				return -1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// pastString looks for the next quote before which there is an even number of backslashes.
func pastString(b []byte, i int) int {
	for at := i + 1; ; {
		n := bytes.IndexByte(b[at:], '"')
		if n < 0 {
			return -1
		}
		quote := at + n
		slash := quote - 1
		for slash > i && b[slash] == '\\' {
			slash--
		}
		if at = quote + 1; (quote-slash)%2 == 1 {
			return at
		}
	}
}
