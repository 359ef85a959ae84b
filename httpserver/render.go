package httpserver

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// face is the family of clients that a path belongs to; it decides the shape of errors.
type face uint8

const (
	faceNative face = iota
	faceOpenAI
	faceOllama
)

func faceOf(path string) face {
	switch {
	case strings.HasPrefix(path, "/v1/") || path == "/v1":
		return faceOpenAI
	case strings.HasPrefix(path, "/api/") || path == "/api":
		return faceOllama
	}
	return faceNative
}

type nativeError struct {
	Error   nativeBody `json:"error"`
	Loading any        `json:"loading,omitempty"`
}

type nativeBody struct {
	Code          string         `json:"code"`
	Message       string         `json:"message"`
	Details       map[string]any `json:"details"`
	CorrelationID string         `json:"correlation_id"`
}

type openaiError struct {
	Error   openaiBody `json:"error"`
	Loading any        `json:"loading,omitempty"`
}

type openaiBody struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
}

type ollamaError struct {
	Error   string `json:"error"`
	Loading any    `json:"loading,omitempty"`
}

// writeError renders a refusal in the shape of the path's clients.
func writeError(w http.ResponseWriter, f face, correlation string, p *problem) {
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	v := append(make([]string, 0, 5), "application/json", p.code)
	h["Content-Type"], h["X-Rbee-Error"] = v[:1:1], v[1:2:2]
	delete(h, "Content-Length")
	setRetry(h, p, v)
	w.WriteHeader(p.status)
	box, _ := chunks.Get().(*[]byte)
	b, ok := p.brief((*box)[:0], f, correlation)
	if !ok {
		b = p.full(b[:0], f, correlation)
	}
	*box = append(b, '\n')
	if own, ok := w.(*response); ok {
		w = own.ResponseWriter // its time has just begun
	}
	_, _ = w.Write(*box)
	if cap(*box) <= 64<<10 {
		chunks.Put(box)
	}
}

// brief renders an error that has nothing to say but the usual, which needs no reflection.
func (p *problem) brief(b []byte, f face, correlation string) (out []byte, ok bool) {
	if p.details["loading"] != nil || f == faceNative && len(p.details) > 0 {
		return b, false
	}
	switch f {
	case faceOpenAI:
		b = appendText(append(b, `{"error":{"message":`...), p.message)
		b = appendText(append(b, `,"type":`...), openaiType(p.status, p.code))
		b = append(b, `,"param":`...)
		if p.param == "" {
			b = append(b, "null"...)
		} else {
			b = appendText(b, p.param)
		}
		b = appendText(append(b, `,"code":`...), openaiCode(p))
		return append(b, "}}"...), true
	case faceOllama:
		return append(appendText(append(b, `{"error":`...), p.message), '}'), true
	}
	b = appendText(append(b, `{"error":{"code":`...), p.code)
	b = append(appendText(append(b, `,"message":`...), p.message), `,"details":{`...)
	if p.param != "" {
		b = appendText(append(b, `"param":`...), p.param)
	}
	return append(appendText(append(b, `},"correlation_id":`...), correlation), "}}"...), true
}

// full renders any error.
func (p *problem) full(b []byte, f face, correlation string) []byte {
	loading := p.details["loading"]
	var body any
	switch f {
	case faceOpenAI:
		var param *string
		if given := p.param; given != "" {
			param = &given
		}
		body = openaiError{openaiBody{p.message, openaiType(p.status, p.code), param, openaiCode(p)}, loading}
	case faceOllama:
		body = ollamaError{p.message, loading}
	default:
		details := map[string]any{}
		for k, v := range p.details {
			if k != "loading" {
				details[k] = v
			}
		}
		if p.param != "" {
			details["param"] = p.param
		}
		body = nativeError{nativeBody{p.code, p.message, details, correlation}, loading}
	}
	text, err := json.Marshal(body)
	if err != nil { // details that can't be written
		text, _ = json.Marshal(nativeError{Error: nativeBody{Code: p.code, Message: p.message, CorrelationID: correlation}})
	}
	return append(b, text...)
}

// appendText appends s as encoding/json writes it.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return append(b, quote(s)...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// setRetry says whether and when to try again. The values go behind those of v, which have one backing array.
func setRetry(h http.Header, p *problem, v []string) {
	if p.after > 0 && (p.status == http.StatusTooManyRequests || p.status == http.StatusServiceUnavailable) {
		secs := int64((p.after + time.Second - 1) / time.Second)
		n := len(v)
		v = append(v, strconv.FormatInt(secs, 10), strconv.FormatInt(max(p.after.Milliseconds(), 1), 10))
		h["Retry-After"], h["Retry-After-Ms"] = v[n:n+1:n+1], v[n+1:n+2:n+2]
	}
	if p.info.retry != 0 {
		n := len(v)
		v = append(v, strconv.FormatBool(p.info.retry > 0))
		h["X-Should-Retry"] = v[n : n+1 : n+1]
	}
}

func openaiCode(p *problem) string {
	if p.info.openai != "" {
		return p.info.openai
	}
	return strings.ToLower(p.code)
}

func openaiType(status int, code string) string {
	switch {
	case code == CodeQuotaExceeded:
		return "insufficient_quota"
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= 400 && status < 499:
		return "invalid_request_error"
	}
	return "server_error"
}

// writeJSON writes a value with a status. A failure to write is the client's own.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
	return nil
}
