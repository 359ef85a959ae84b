package sim

import (
	"net/http"
)

// stream writes server-sent events: frames are gathered and go out with flush, the headers with the first of them.
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	buf   []byte
	begun bool
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, rc: http.NewResponseController(w), buf: make([]byte, 0, 1024)}
}

// frame adds an event that has data only.
func (s *stream) frame(data []byte) {
	s.buf = append(s.buf, "data: "...)
	s.buf = append(s.buf, data...)
	s.buf = append(s.buf, '\n', '\n')
}

// parts adds an event that is written in pieces.
func (s *stream) parts(parts ...string) {
	for _, p := range parts {
		s.buf = append(s.buf, p...)
	}
	s.buf = append(s.buf, '\n', '\n')
}

// flush sends what was gathered.
func (s *stream) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	if !s.begun {
		s.begun = true
		h := s.w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("Cache-Control", "no-cache")
		s.w.WriteHeader(http.StatusOK)
	}
	_, err := s.w.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return err
	}
	return s.rc.Flush()
}
