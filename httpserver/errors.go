package httpserver

import (
	"fmt"
	"net/http"
	"time"
)

// Coder is an error with a stable code of the contract. The server finds it wherever it is wrapped.
type Coder interface{ Code() string }

// RetryAfterer is an error that knows when to try again.
type RetryAfterer interface{ RetryAfter() time.Duration }

// Detailer is an error with facts for the client. A "loading" entry is written beside the error object.
type Detailer interface{ Details() map[string]any }

// Headerer is an error that brings response headers, such as x-ratelimit-*.
type Headerer interface{ Header() http.Header }

// Statuser is an error that knows its own HTTP status; it wins over the code's.
type Statuser interface{ Status() int }

// The codes of the contract, and three of HTTP's own.
const (
	CodeInvalidRequest    = "INVALID_REQUEST"
	CodeInvalidModelRef   = "INVALID_MODEL_REF"
	CodeUnauthenticated   = "UNAUTHENTICATED"
	CodeForbidden         = "FORBIDDEN"
	CodeModelNotFound     = "MODEL_NOT_FOUND"
	CodeJobNotFound       = "JOB_NOT_FOUND"
	CodeNodeNotFound      = "NODE_NOT_FOUND"
	CodeWorkerNotFound    = "WORKER_NOT_FOUND"
	CodeConflict          = "CONFLICT"
	CodeResumeDiverged    = "RESUME_DIVERGED"
	CodeRequestTooLarge   = "REQUEST_TOO_LARGE"
	CodeQuotaExceeded     = "QUOTA_EXCEEDED"
	CodeRateLimited       = "RATE_LIMITED"
	CodeCancelled         = "CANCELLED"
	CodeWorkerFailed      = "WORKER_FAILED"
	CodeHiveFailed        = "HIVE_FAILED"
	CodeProvisionFailed   = "PROVISION_FAILED"
	CodeInsufficientVRAM  = "INSUFFICIENT_VRAM"
	CodeNoHiveAvailable   = "NO_HIVE_AVAILABLE"
	CodeSystemAtCapacity  = "SYSTEM_AT_CAPACITY"
	CodeShuttingDown      = "SHUTTING_DOWN"
	CodeModelLoading      = "MODEL_LOADING"
	CodeDeadlineExceeded  = "DEADLINE_EXCEEDED"
	CodeInternal          = "INTERNAL"
	CodeNotFound          = "NOT_FOUND"
	CodeMethodNotAllowed  = "METHOD_NOT_ALLOWED"
	CodeNotAvailable      = "NOT_AVAILABLE"
	CodeContextLength     = "CONTEXT_LENGTH_EXCEEDED"
	CodeRequestTimeout    = "REQUEST_TIMEOUT"
	statusClientGone      = 499
	defaultRetryAfterTime = time.Second
)

// codeInfo says what a code means in HTTP.
type codeInfo struct {
	status int
	openai string // OpenAI's own code, "" = ours in lower case
	retry  int8   // 1: a retry can help, -1: it can't, 0: say nothing
}

// lookup returns the facts of a code; ok is false for a code that is not the contract's.
func lookup(code string) (info codeInfo, ok bool) {
	switch code {
	case CodeInvalidRequest, CodeInvalidModelRef:
		return codeInfo{400, "", -1}, true
	case CodeContextLength:
		return codeInfo{400, "context_length_exceeded", -1}, true
	case CodeUnauthenticated:
		return codeInfo{401, "invalid_api_key", -1}, true
	case CodeForbidden:
		return codeInfo{403, "", -1}, true
	case CodeModelNotFound:
		return codeInfo{404, "model_not_found", -1}, true
	case CodeJobNotFound, CodeNodeNotFound, CodeWorkerNotFound, CodeNotFound:
		return codeInfo{404, "", -1}, true
	case CodeMethodNotAllowed:
		return codeInfo{405, "", -1}, true
	case CodeRequestTimeout:
		return codeInfo{408, "", -1}, true
	case CodeConflict, CodeResumeDiverged:
		return codeInfo{409, "", -1}, true
	case CodeRequestTooLarge:
		return codeInfo{413, "", -1}, true
	case CodeQuotaExceeded:
		return codeInfo{429, "insufficient_quota", -1}, true
	case CodeRateLimited:
		return codeInfo{429, "rate_limit_exceeded", 1}, true
	case CodeCancelled:
		return codeInfo{statusClientGone, "", -1}, true
	case CodeNotAvailable:
		return codeInfo{501, "", -1}, true
	case CodeWorkerFailed, CodeHiveFailed, CodeProvisionFailed:
		return codeInfo{502, "", 0}, true
	case CodeInsufficientVRAM, CodeNoHiveAvailable, CodeSystemAtCapacity, CodeShuttingDown, CodeModelLoading:
		return codeInfo{503, "", 1}, true
	case CodeDeadlineExceeded:
		return codeInfo{504, "", -1}, true
	case CodeInternal:
		return codeInfo{500, "", 0}, true
	}
	return codeInfo{}, false
}

// Error is a refusal by the server itself. Other modules' errors need not be of this type: see Coder.
type Error struct {
	ErrCode string         // a code of the contract
	Message string         // what is wrong and what to do next
	Param   string         // the field it is about, may be empty
	Retry   time.Duration  // for Retry-After, 0 = none or the code's default
	Facts   map[string]any // details, may be nil
	Cause   error          // for logs only, may be nil
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Code returns the code of the contract.
func (e *Error) Code() string { return e.ErrCode }

// RetryAfter returns when to try again.
func (e *Error) RetryAfter() time.Duration { return e.Retry }

// Details returns facts for the client.
func (e *Error) Details() map[string]any { return e.Facts }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func invalid(param, format string, args ...any) *Error {
	return &Error{ErrCode: CodeInvalidRequest, Param: param, Message: words(format, args)}
}

func refuse(code, format string, args ...any) *Error {
	return &Error{ErrCode: code, Message: words(format, args)}
}

// words spares a text that is always the same its formatting.
func words(format string, args []any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}

func notAvailable(what string) *Error {
	return refuse(CodeNotAvailable, "this server was started without %s", what)
}

// problem is an error resolved for rendering.
type problem struct {
	code, message, param string
	status               int
	info                 codeInfo
	after                time.Duration
	details              map[string]any
	header               http.Header
}

// resolve finds out what an error means for a client. An error without a code never shows its text.
func resolve(err error) problem {
	p := problem{code: CodeInternal, message: "something went wrong inside the server; its log has the details under the correlation id"}
	if own, ok := err.(*Error); ok && own.Cause == nil { // most refusals: searching their chain for each interface would be most of their cost
		if info, known := lookup(own.ErrCode); known && own.ErrCode != CodeInternal {
			p = problem{code: own.ErrCode, message: own.Message, param: own.Param, status: info.status, info: info, after: own.Retry, details: own.Facts}
			return p.patient()
		}
	}
	var in facets
	in.of(err)
	if in.own != nil {
		p.param = in.own.Param
	}
	known := false
	if in.coder != nil {
		if p.info, known = lookup(in.coder.Code()); known {
			p.code = in.coder.Code()
			if msg, ok := in.coder.(error); ok && p.code != CodeInternal {
				p.message = msg.Error()
			}
		}
	}
	if !known {
		p.info, _ = lookup(CodeInternal)
	}
	p.status = p.info.status
	if !known {
		return p
	}
	if in.status != nil {
		if status := in.status.Status(); status >= 400 && status < 600 {
			p.status = status
		}
	}
	if in.retry != nil {
		p.after = in.retry.RetryAfter()
	}
	p = p.patient()
	if in.details != nil {
		p.details = in.details.Details()
	}
	if in.header != nil {
		p.header = in.header.Header()
	}
	return p
}

// facets are what an error can say of itself, each from the first one of its chain that does.
type facets struct {
	own     *Error
	coder   Coder
	status  Statuser
	retry   RetryAfterer
	details Detailer
	header  Headerer
}

// of looks for all of them at once, as errors.As would for each: to search the chain again and again is dear, with
// reflection or without.
func (f *facets) of(err error) {
	for err != nil {
		if f.own == nil {
			f.own, _ = err.(*Error)
		}
		if f.coder == nil {
			f.coder, _ = err.(Coder)
		}
		if f.status == nil {
			f.status, _ = err.(Statuser)
		}
		if f.retry == nil {
			f.retry, _ = err.(RetryAfterer)
		}
		if f.details == nil {
			f.details, _ = err.(Detailer)
		}
		if f.header == nil {
			f.header, _ = err.(Headerer)
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				f.of(err)
			}
			return
		default:
			return
		}
	}
}

// find is errors.As without reflection, which would be a tenth of what a refusal costs. Methods named As are not asked.
func find[T any](err error) (found T, ok bool) {
	for err != nil {
		if found, ok = err.(T); ok {
			return found, true
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			for _, err := range e.Unwrap() {
				if found, ok = find[T](err); ok {
					return found, true
				}
			}
			return found, false
		default:
			return found, false
		}
	}
	return found, false
}

// patient adds when to try again where the status asks for it and nobody said.
func (p problem) patient() problem {
	if p.after <= 0 && (p.status == http.StatusTooManyRequests || p.status == http.StatusServiceUnavailable) {
		p.after = defaultRetryAfterTime
	}
	return p
}
