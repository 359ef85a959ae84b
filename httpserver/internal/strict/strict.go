// Package strict scans JSON bodies once: it accepts exactly one value of bounded depth in valid UTF-8, refuses objects
// that name a key twice (which encoding/json silently accepts), and hands out the members of the outermost object
// without copying them.
package strict

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// Error says what is wrong with a body, and where.
type Error struct {
	Offset int
	Reason string
	Key    string // for a duplicate key
}

// Error implements error.
func (e *Error) Error() string {
	var room [128]byte
	b := append(room[:0], e.Reason...)
	if e.Key != "" {
		b = strconv.AppendQuote(append(b, ' '), e.Key)
	}
	return string(strconv.AppendInt(append(b, " at byte "...), int64(e.Offset), 10))
}

// Object checks that b is one JSON object nested at most depth deep, and calls member for each of its members: the
// decoded key and the raw value, both valid as long as b. An error of member ends the scan and is returned.
func Object(b []byte, depth int, member func(key, value []byte) error) error {
	s := scanner{b: b, depth: depth}
	s.space()
	if s.i >= len(b) || b[s.i] != '{' {
		if s.i >= len(b) {
			return s.fail("empty body: a JSON object is wanted")
		}
		return s.fail("a JSON object is wanted")
	}
	if err := s.object(1, member); err != nil {
		return err
	}
	return s.end()
}

// Value checks that b is one JSON value nested at most depth deep.
func Value(b []byte, depth int) error {
	s := scanner{b: b, depth: depth}
	s.space()
	if err := s.value(0); err != nil {
		return err
	}
	return s.end()
}

type scanner struct {
	b     []byte
	i     int
	depth int
}

func (s *scanner) fail(reason string) error { return &Error{Offset: s.i, Reason: reason} }

func (s *scanner) end() error {
	s.space()
	if s.i != len(s.b) {
		return s.fail("more than one JSON value")
	}
	return nil
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) value(level int) error {
	if s.i >= len(s.b) {
		return s.fail("unexpected end of JSON")
	}
	switch c := s.b[s.i]; {
	case c == '{':
		return s.object(level+1, nil)
	case c == '[':
		return s.array(level + 1)
	case c == '"':
		_, _, err := s.str()
		return err
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	case c == '-' || (c >= '0' && c <= '9'):
		return s.number()
	}
	return s.fail("unexpected character in JSON")
}

func (s *scanner) word(w string) error {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return s.fail("unexpected character in JSON")
	}
	s.i += len(w)
	return nil
}

func (s *scanner) object(level int, member func(key, value []byte) error) error {
	if level > s.depth {
		return s.fail("JSON nested too deeply")
	}
	s.i++ // {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == '}' {
		s.i++
		return nil
	}
	var seen keys
	for {
		if s.i >= len(s.b) || s.b[s.i] != '"' {
			return s.fail("a string key is wanted")
		}
		at := s.i
		key, escaped, err := s.str()
		if err != nil {
			return err
		}
		if escaped {
			key = unescape(key)
		}
		if !seen.add(key) {
			return &Error{Offset: at, Reason: "duplicate key", Key: clip(key)}
		}
		s.space()
		if s.i >= len(s.b) || s.b[s.i] != ':' {
			return s.fail("':' is wanted after a key")
		}
		s.i++
		s.space()
		from := s.i
		if err := s.value(level); err != nil {
			return err
		}
		if member != nil {
			if err := member(key, s.b[from:s.i:s.i]); err != nil {
				return err
			}
		}
		s.space()
		if s.i >= len(s.b) {
			return s.fail("unexpected end of JSON")
		}
		switch s.b[s.i] {
		case ',':
			s.i++
			s.space()
		case '}':
			s.i++
			return nil
		default:
			return s.fail("',' or '}' is wanted")
		}
	}
}

func (s *scanner) array(level int) error {
	if level > s.depth {
		return s.fail("JSON nested too deeply")
	}
	s.i++ // [
	s.space()
	if s.i < len(s.b) && s.b[s.i] == ']' {
		s.i++
		return nil
	}
	for {
		if err := s.value(level); err != nil {
			return err
		}
		s.space()
		if s.i >= len(s.b) {
			return s.fail("unexpected end of JSON")
		}
		switch s.b[s.i] {
		case ',':
			s.i++
			s.space()
		case ']':
			s.i++
			return nil
		default:
			return s.fail("',' or ']' is wanted")
		}
	}
}

// str reads a string and returns what stands between the quotes.
func (s *scanner) str() (raw []byte, escaped bool, err error) {
	s.i++ // "
	from := s.i
	for s.i < len(s.b) {
		s.i += plainRun(s.b[s.i:])
		if s.i >= len(s.b) {
			break
		}
		c := s.b[s.i]
		switch {
		case c == '"':
			raw = s.b[from:s.i:s.i]
			s.i++
			return raw, escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return nil, false, err
			}
		case c < 0x20:
			return nil, false, s.fail("control character in a string")
		case c < utf8.RuneSelf:
			s.i++
		default:
			r, n := utf8.DecodeRune(s.b[s.i:])
			if r == utf8.RuneError && n <= 1 {
				return nil, false, s.fail("invalid UTF-8")
			}
			s.i += n
		}
	}
	return nil, false, s.fail("unexpected end of JSON")
}

// plainRun returns how many bytes at the beginning of b are ASCII that needs no look inside a string: no quote, no
// backslash, no control character. It looks at eight bytes at a time; prompts are long.
func plainRun(b []byte) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		special := (x | (x - ones*0x20) | (quote - ones) | (slash - ones)) & high
		if special != 0 {
			return n + bits.TrailingZeros64(special)/8
		}
	}
	return n
}

func (s *scanner) escape() error {
	if s.i+1 >= len(s.b) {
		return s.fail("unexpected end of JSON")
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return nil
	case 'u':
		if s.i+6 > len(s.b) {
			return s.fail("unexpected end of JSON")
		}
		for _, c := range s.b[s.i+2 : s.i+6] {
			if hex(c) < 0 {
				return s.fail("bad \\u escape")
			}
		}
		s.i += 6
		return nil
	}
	return s.fail("bad escape in a string")
}

func (s *scanner) number() error {
	from := s.i
	if s.b[s.i] == '-' {
		s.i++
	}
	switch {
	case s.i >= len(s.b):
		return s.fail("unexpected end of JSON")
	case s.b[s.i] == '0':
		s.i++
	case !s.digits():
		return s.fail("bad number")
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if !s.digits() {
			return s.fail("bad number")
		}
	}
	exp := false
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		exp = true
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if !s.digits() {
			return s.fail("bad number")
		}
	}
	if (exp || s.i-from > 300) && !inRange(s.b[from:s.i]) {
		s.i = from
		return s.fail("number out of range")
	}
	return nil
}

func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > from
}
