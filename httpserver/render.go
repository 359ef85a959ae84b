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
func writeError(w http.ResponseWriter, f face, correlation string, err error) problem {
	p := resolve(err)
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	v := []string{"application/json", p.code}
	h["Content-Type"], h["X-Rbee-Error"] = v[:1:1], v[1:]
	h.Del("Content-Length")
	setRetry(h, p)
	var loading any
	if p.details != nil {
		loading = p.details["loading"]
	}
	var body any
	switch f {
	case faceOpenAI:
		var param *string
		if p.param != "" {
			param = &p.param
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
	w.WriteHeader(p.status)
	b, merr := json.Marshal(body)
	if merr != nil { // details that can't be written
		b, _ = json.Marshal(nativeError{Error: nativeBody{Code: p.code, Message: p.message, CorrelationID: correlation}})
	}
	_, _ = w.Write(append(b, '\n'))
	return p
}

func setRetry(h http.Header, p problem) {
	if p.after > 0 && (p.status == http.StatusTooManyRequests || p.status == http.StatusServiceUnavailable) {
		secs := int64((p.after + time.Second - 1) / time.Second)
		v := []string{strconv.FormatInt(secs, 10), strconv.FormatInt(max(p.after.Milliseconds(), 1), 10)}
		h["Retry-After"], h["Retry-After-Ms"] = v[:1:1], v[1:]
	}
	switch {
	case p.info.retry > 0:
		h.Set("X-Should-Retry", "true")
	case p.info.retry < 0:
		h.Set("X-Should-Retry", "false")
	}
}

func openaiCode(p problem) string {
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
