package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/gorilla/mux"
)

// maxStreams bounds what one HTTP/2 connection may ask for at once, maxFrame the memory that a frame of it takes.
const (
	maxStreams = 250
	maxFrame   = 64 << 10
)

// Server is the HTTP face. Make one with New.
type Server struct {
	submitter Submitter
	auth      Authenticator
	o         Options
	routes    []*route
	mux       *mux.Router
	plain     map[string]map[string]*route // what the mux finds, by method and path, where the path has no pattern
	document  []byte                       // /openapi.json

	http     *http.Server
	draining atomic.Bool
	closing  chan struct{} // closed when draining begins: feeds end
	once     sync.Once
	bodies   atomic.Int64 // bytes held by large bodies
	pages    atomic.Int64 // open requests to workers' pages
	refused  sync.Pool    // memory of bodies that were refused, as *[]byte
	taken    takenSet
	door     atomic.Pointer[doorway]
}

// New makes a Server over what runs jobs and what knows callers.
func New(submitter Submitter, auth Authenticator, o Options) (*Server, error) {
	if submitter == nil || auth == nil {
		return nil, errors.New("httpserver: a Submitter and an Authenticator are needed")
	}
	s := &Server{submitter: submitter, auth: auth, o: o.withDefaults(), closing: make(chan struct{})}
	s.routes = s.table()
	s.mux = mux.NewRouter().UseEncodedPath().SkipClean(true)
	for _, r := range s.routes {
		s.mux.Handle(r.path, r).Methods(r.methods()...)
	}
	s.plain = s.index()
	var err error
	if s.document, err = s.describe(); err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.o.HeaderTime,
		ReadTimeout:       s.o.BodyTimeout, // until the body is there; see response.limited
		WriteTimeout:      s.o.WriteTimeout,
		IdleTimeout:       s.o.IdleTimeout,
		MaxHeaderBytes:    32 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: maxFrame, WriteByteTimeout: s.o.WriteTimeout}, // over TLS only
		ConnContext:       s.greet,

		DisableGeneralOptionsHandler: true, // OPTIONS * is answered like everything else
	}
	if s.o.Poller != nil {
		s.http.BaseContext = func(l net.Listener) context.Context { return context.WithValue(context.Background(), doorKey{}, l) }
	}
	return s, nil
}

// Handler returns the whole surface: with authentication, bounds and error rendering around the routes.
func (s *Server) Handler() http.Handler { return s }

// Serve answers on the listener until Drain, or until the context ends, which cuts what is open.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.o.Poller == nil && s.o.TLS != nil {
		l = tls.NewListener(l, s.o.TLS)
	}
	if s.o.Poller != nil {
		d := newDoorway(l, &s.o)
		s.door.Store(d)
		if s.draining.Load() {
			d.retire()
		}
		l = d
	}
	stop := context.AfterFunc(ctx, func() {
		_ = s.http.Close()
		s.taken.cutAll()
	})
	defer stop()
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Drain refuses new jobs with SHUTTING_DOWN, ends event feeds, and waits for open answers until the context ends; what
// is still open then is cut.
func (s *Server) Drain(ctx context.Context) error {
	s.Refuse()
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close()
	}
	return errors.Join(err, s.taken.wait(ctx))
}

// Refuse begins the refusal of new jobs, ends event feeds and closes connections that wait for a request, without closing the
// listener.
func (s *Server) Refuse() {
	s.draining.Store(true)
	s.once.Do(func() {
		close(s.closing)
		s.http.SetKeepAlivesEnabled(false)
		if d := s.door.Load(); d != nil {
			d.retire()
		}
	})
}
