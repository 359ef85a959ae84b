package httpserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gorilla/mux"
)

// call is one request on its way through the server.
type call struct {
	s           *Server
	w           *response // &own
	r           *http.Request
	peer        *peer // nil when another http.Server serves the request
	vars        map[string]string
	id          Identity
	requestID   string
	correlation string
	route       string
	began       time.Time // for Options.Observe

	over   chan error // tells the handler that waits for it how the answer ended; nil where none waits
	own    response
	said   [6]string // values of the headers that every answer has, in one piece
	keyBad bool      // the Authenticator said so
	read   bool      // somebody has begun to read the body
}

// response remembers whether the answer has begun.
type response struct {
	http.ResponseWriter
	call   *call
	status int
	taken  *Taken // once the connection is somebody else's
	held   int64  // bytes of the body that count against Options.BodyMemory
	paced  bool   // what writes a stream sets its own deadlines
	// limited is set where net/http has given the request BodyTimeout and its answer WriteTimeout: that spares most requests
	// three calls that move the connection's timers.
	limited bool
	armed   time.Time
	flushed bool // net/http has sent all that it was given
}

// arm bounds how long the client may take to take the answer: again with each part of it, but not at each write.
func (w *response) arm() {
	if w.paced {
		return
	}
	limit, now := w.call.s.o.WriteTimeout, time.Now()
	if now.Sub(w.armed) < limit/4 {
		return
	}
	w.armed = now
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(limit))
}

// pace leaves the deadlines to what writes a stream, and takes off the one of the answer before.
func (w *response) pace() {
	w.paced = true
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Time{})
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		w.arm()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.flushed = false
	w.arm()
	return w.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (w *response) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.flushed = http.NewResponseController(w.ResponseWriter).Flush() == nil
}

// Hijack implements http.Hijacker for relays that take the connection over.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusOK
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController through.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type identityKey struct{}

// IdentityOf returns the caller of a request that the Server passed to one of the handlers in its Options, or whose
// context it passed to a backend there.
func IdentityOf(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(identityKey{}).(Identity)
	return id, ok
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 && s.o.Poller != nil {
		s.apart(rw, r)
		return
	}
	s.handle(rw, r, nil)
}

// handle answers a request; taken says that somebody else goes on with the answer.
func (s *Server) handle(rw http.ResponseWriter, r *http.Request, over chan error) (taken bool) {
	c := &call{s: s, r: r, route: "unmatched", over: over}
	c.own.ResponseWriter, c.own.call, c.w = rw, c, &c.own
	c.meet()
	if s.o.Observe != nil {
		c.began = s.o.Clock()
	}
	c.identify()
	if len(r.TransferEncoding) > 0 { // a Content-Length beside it, which net/http drops unseen, would be an attempt to smuggle
		r.Close = true
		c.w.Header()["Connection"] = []string{"close"}
	}
	defer func() {
		if v := recover(); v != nil {
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(http.ErrAbortHandler) // net/http cuts the connection; this is its own signal
			}
			c.release()
			s.o.Log.Error("handler panicked", "correlation_id", c.correlation, "panic", v, "stack", string(debug.Stack()))
			if c.w.status != 0 {
				panic(http.ErrAbortHandler)
			}
			c.fail(refuse(CodeInternal, "panic"))
		}
		if s.o.Observe != nil && c.w.taken == nil {
			s.o.Observe(c.route, r.Method, c.w.status, s.o.Clock().Sub(c.began))
		}
	}()
	rt, err := c.admit()
	if rt != nil {
		c.route = rt.path
	}
	if err == nil && rt != nil {
		err = rt.run(c)
	}
	c.release()
	if err != nil && c.w.taken == nil {
		c.fail(err)
	}
	return c.w.taken != nil
}

// admit checks everything that does not depend on the endpoint and finds the route; without one the answer is written.
func (c *call) admit() (*route, error) {
	if err := c.checkBrowser(); err != nil {
		return nil, err
	}
	if err := checkPath(c.r.URL); err != nil {
		return nil, err
	}
	if c.share() {
		return nil, nil
	}
	if err := c.authorize(); err != nil {
		return nil, err
	}
	if rt := c.s.exact(c.r); rt != nil {
		return rt, nil
	}
	var m mux.RouteMatch
	if !c.s.mux.Match(c.r, &m) {
		if errors.Is(m.MatchErr, mux.ErrMethodMismatch) {
			allow := c.s.allowed(c.r)
			if len(allow) == 0 {
				return nil, c.s.unknownPath(c.r)
			}
			c.w.Header().Set("Allow", strings.Join(allow, ", "))
			return nil, refuse(CodeMethodNotAllowed, "%s is not a method of this path: use %s", clip(c.r.Method, 16), strings.Join(allow, " or "))
		}
		return nil, c.s.unknownPath(c.r)
	}
	rt, ok := m.Handler.(*route)
	if !ok {
		return nil, c.s.unknownPath(c.r)
	}
	c.vars = m.Vars
	return rt, nil
}

// fail renders an error, unless the answer has begun.
func (c *call) fail(err error) {
	if c.w.status != 0 {
		if errors.Is(err, ErrAborted) {
			panic(http.ErrAbortHandler)
		}
		if c.r.Context().Err() == nil {
			c.s.o.Log.Warn("answer ended with an error", "correlation_id", c.correlation, "err", logText(err))
		}
		return
	}
	if c.r.Context().Err() != nil && errors.Is(err, c.r.Context().Err()) {
		err = refuse(CodeCancelled, "cancelled: the client has gone") // who closed its own side only reads it
	}
	c.w.paced = false
	c.leave()
	p := resolve(err)
	if c.keyBad && p.status == http.StatusUnauthorized {
		c.w.Header()["Www-Authenticate"] = []string{`Bearer realm="rbee"`}
	}
	writeError(c.w, faceOf(c.r.URL.Path), c.correlation, &p)
	if p.status >= 500 {
		level := slog.LevelError
		switch p.code { // said to each of many clients while the server does what it should: no fault, and no line for each
		case CodeSystemAtCapacity, CodeShuttingDown, CodeModelLoading, CodeDeadlineExceeded, CodeNotAvailable:
			level = slog.LevelDebug
		}
		if !c.s.o.Log.Enabled(c.r.Context(), level) {
			return
		}
		c.s.o.Log.Log(c.r.Context(), level, "request failed", "correlation_id", c.correlation, "code", p.code, "err", logText(err))
	}
}

// logText is what the log says of an error: the words of a worker can repeat a prompt or a key, so errors that quote them
// implement LogText.
func logText(err error) string {
	var quoting interface {
		error
		LogText() string
	}
	if errors.As(err, &quoting) {
		return quoting.LogText()
	}
	return err.Error()
}

// WriteError renders an error as the server does for the request's path. It is for handlers in the Options; they must
// have written nothing yet.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	p := resolve(err)
	writeError(w, faceOf(r.URL.Path), w.Header().Get("X-Correlation-Id"), &p)
}

func (c *call) identify() {
	c.requestID = headerID(c.r.Header, "X-Request-Id")
	if c.requestID == "" {
		c.requestID = newID()
	}
	c.correlation = headerID(c.r.Header, "X-Correlation-Id")
	if c.correlation == "" {
		c.correlation = c.requestID
	}
	h := c.w.Header()
	c.say(h, "X-Request-Id", 0, c.requestID)
	c.say(h, "X-Correlation-Id", 1, c.correlation)
}

// headerID returns a header's value when it is 1 to 128 characters of [A-Za-z0-9._-].
func headerID(h http.Header, name string) string {
	v := h[name]
	if len(v) != 1 || len(v[0]) == 0 || len(v[0]) > 128 || !plain(v[0]) {
		return ""
	}
	return v[0]
}

func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func newID() string {
	var b [16]byte
	var text [32]byte
	binary.LittleEndian.PutUint64(b[:], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	hex.Encode(text[:], b[:])
	return string(text[:])
}

func checkPath(u *url.URL) error {
	if len(u.Path) > 2048 {
		return refuse(CodeInvalidRequest, "the path is longer than 2048 bytes")
	}
	for i := range len(u.Path) {
		if u.Path[i] < 0x20 || u.Path[i] == 0x7f {
			return refuse(CodeInvalidRequest, "the path holds a control character")
		}
	}
	return nil
}

func (s *Server) unknownPath(r *http.Request) error {
	return refuse(CodeNotFound, "no endpoint %s %s: see /openapi.json for the list", clip(r.Method, 16), clip(r.URL.EscapedPath(), 200))
}

// allowed lists the methods that the request's path does have; that anything may be posted to an engine says nothing.
func (s *Server) allowed(r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
		probe := &http.Request{Method: m, URL: r.URL, Header: r.Header, Host: r.Host}
		var match mux.RouteMatch
		if !s.mux.Match(probe, &match) || match.MatchErr != nil {
			continue
		}
		if rt, ok := match.Handler.(*route); ok && !rt.engines {
			out = append(out, m)
		}
	}
	return out
}

func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "?")
}

func (c *call) now() time.Time { return c.s.o.Clock() }
