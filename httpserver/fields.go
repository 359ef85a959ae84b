package httpserver

import (
	"strconv"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/httpserver/internal/strict"
)

// The readers below take one raw JSON value. null counts as not given.

func isNull(v []byte) bool { return string(v) == "null" }

func textField(name string, v []byte, dst *string) error {
	if isNull(v) {
		return nil
	}
	s, ok := strict.String(v)
	if !ok {
		return invalid(name, "%s must be a string", name)
	}
	*dst = s
	return nil
}

func boolField(name string, v []byte, dst *bool) error {
	switch string(v) {
	case "true":
		*dst = true
	case "false":
		*dst = false
	case "null":
	default:
		return invalid(name, "%s must be true or false", name)
	}
	return nil
}

func wholeField(name string, v []byte, lo, hi int64, dst *int) error {
	if isNull(v) {
		return nil
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n < lo || n > hi {
		return invalid(name, "%s must be a whole number from %d to %d", name, lo, hi)
	}
	if dst != nil {
		*dst = int(n)
	}
	return nil
}

func rangeField(name string, v []byte, lo, hi float64) error {
	if isNull(v) {
		return nil
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || f < lo || f > hi {
		return invalid(name, "%s must be a number from %g to %g", name, lo, hi)
	}
	return nil
}

func stopField(name string, v []byte) error {
	switch {
	case isNull(v), v[0] == '"':
		return nil
	case v[0] == '[':
		n := 0
		if strict.Elements(v, func(e []byte) bool { n++; return e[0] == '"' }) && n <= 64 {
			return nil
		}
	}
	return invalid(name, "%s must be a string or a list of at most 64 strings", name)
}

// modelField reads a model's name: 1 to 512 bytes without control characters.
func modelField(v []byte, dst *string) error {
	s, ok := strict.String(v)
	if !ok || s == "" {
		return invalid("model", "model must be the name of a model: GET /v1/models lists them")
	}
	if err := checkModel(s); err != nil {
		return err
	}
	*dst = s
	return nil
}

func checkModel(s string) error { return checkModelRef("model", s) }

func checkModelRef(name, s string) error {
	bad := len(s) > 512 || strings.HasPrefix(s, "-") || strings.Contains(s, "..")
	for i := range len(s) {
		bad = bad || s[i] < 0x20 || s[i] == 0x7f
	}
	if bad {
		return &Error{ErrCode: CodeInvalidModelRef, Param: name,
			Message: "model names have at most 512 bytes, don't begin with '-' and hold no '..' and no control characters"}
	}
	return nil
}

// checkSession bounds an affinity key.
func checkSession(name, key string) error {
	if len(key) > 256 {
		return invalid(name, "a session key has at most 256 bytes")
	}
	return nil
}

// parseDeadline reads an RFC 3339 time or a Go duration from now.
func parseDeadline(name, v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil && d > 0 && d < 10*365*24*time.Hour {
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return time.Time{}, invalid(name, "%s must be an RFC 3339 time or a duration such as 90s", name)
	}
	if !t.After(now) {
		return time.Time{}, &Error{ErrCode: CodeDeadlineExceeded, Param: name, Message: "the deadline has passed already"}
	}
	return t, nil
}

func parsePriority(name, v string) (string, error) {
	switch v {
	case "", PriorityInteractive:
		return PriorityInteractive, nil
	case PriorityBatch:
		return PriorityBatch, nil
	}
	return "", invalid(name, "%s must be interactive or batch", name)
}

// spoken reports whether a member of a message holds text that the model reads.
func spoken(name string) bool {
	switch name {
	case "content", "text", "arguments", "function", "tool_calls", "thinking", "reasoning_content":
		return true
	}
	return false
}

// chars counts the characters of text in the JSON value of messages, prompt or input: strings in lists, and the
// content, text, thinking and arguments of objects. A number (a token id) counts as four.
func chars(v []byte, depth int) int {
	if len(v) == 0 || depth > 6 {
		return 0
	}
	n := 0
	switch v[0] {
	case '"':
		return strict.Chars(v)
	case '[':
		strict.Elements(v, func(e []byte) bool { n += chars(e, depth+1); return true })
	case '{':
		strict.Members(v, func(k, e []byte) bool {
			if spoken(string(k)) {
				n += chars(e, depth+1)
			}
			return true
		})
	case 't', 'f', 'n':
	default:
		return 4
	}
	return n
}
