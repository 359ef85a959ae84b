// Package hubtest is a hub server for tests that behaves like the real one: the API's revision and tree
// calls with pages, resolve with a redirect to a content server on another host and a signed address that
// expires, ranges, ETags, commits, LFS checksums, gated and private repositories, limits. It misbehaves
// on demand: slow, cut, corrupt, with a web page instead of the file, ignoring ranges.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Token is what a gated or private repository wants.
const Token = "hf_testtoken"

// File is a file of a repository.
type File struct {
	Path   string
	Size   int64
	Data   io.ReaderAt
	LFS    bool
	SHA256 string
	gitOID string
}

// Repo is a repository with one commit.
type Repo struct {
	Commit         string
	Gated, Private bool
	files          map[string]*File
}

// Fault is how the content server misbehaves for one request. The zero value is none.
type Fault struct {
	Status     int           // answer this
	RetryAfter string        // with this header
	HTML       bool          // answer 200 with a web page
	NoRange    bool          // ignore the range
	CutAfter   int64         // close the connection after so many bytes of the body, when positive
	Corrupt    bool          // flip a bit
	Redirect   string        // redirect there
	Stall      bool          // send half of the body and then nothing until the client leaves
	Delay      time.Duration // wait before the answer, for a client that may leave
	ETag       string        // instead of the true one
}

// Server is a hub with its content server.
type Server struct {
	Hub, CDN *httptest.Server

	// PageSize is how many entries a page of the tree has; 0 means 1000.
	PageSize int

	Requests  atomic.Int64 // to the content server
	Served    atomic.Int64 // bytes of bodies
	HubCalls  atomic.Int64
	TokenSeen atomic.Bool // the content server saw a credential: it must not

	mu    sync.Mutex
	repos map[string]*Repo
	epoch int // of signed addresses
	trips [2]func(r *http.Request) Fault
}

// SetTrip has f asked for each request to the content server; nil ends that.
func (s *Server) SetTrip(f func(r *http.Request) Fault) { s.setTrip(0, f) }

// SetHubTrip has f asked for each request to the hub; nil ends that.
func (s *Server) SetHubTrip(f func(r *http.Request) Fault) { s.setTrip(1, f) }

func (s *Server) setTrip(i int, f func(r *http.Request) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trips[i] = f
}

func (s *Server) fault(i int, r *http.Request) Fault {
	s.mu.Lock()
	f := s.trips[i]
	s.mu.Unlock()
	if f == nil {
		return Fault{}
	}
	return f(r)
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{repos: map[string]*Repo{}}
	s.Hub = httptest.NewServer(http.HandlerFunc(s.hub))
	s.CDN = httptest.NewServer(http.HandlerFunc(s.cdn))
	t.Cleanup(func() {
		s.Hub.CloseClientConnections()
		s.CDN.CloseClientConnections()
		s.Hub.Close()
		s.CDN.Close()
	})
	return s
}

// Endpoint is what HF_ENDPOINT is set to.
func (s *Server) Endpoint() string { return s.Hub.URL }

// Allow is what an operator has to allow beside the endpoint: the content server is on loopback here.
func (s *Server) Allow() []string { return []string{s.CDN.URL} }

// Expire makes every signed address given so far invalid.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
}

// Repo makes or finds a repository.
func (s *Server) Repo(name string) *Repo {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[name]
	if r == nil {
		r = &Repo{files: map[string]*File{}}
		s.repos[name] = r
		r.commit(name)
	}
	return r
}

func (r *Repo) commit(salt string) {
	sum := sha1.Sum([]byte(salt + fmt.Sprint(len(r.files))))
	r.Commit = hex.EncodeToString(sum[:])
}

// Add puts a file into a repository; lfs says whether it is a large one.
func (s *Server) Add(repo, path string, data []byte, lfs bool) *File {
	sum := sha256.Sum256(data)
	g := sha1.New()
	fmt.Fprintf(g, "blob %d\x00", len(data))
	g.Write(data)
	return s.put(repo, &File{Path: path, Size: int64(len(data)), Data: bytes.NewReader(data), LFS: lfs,
		SHA256: hex.EncodeToString(sum[:]), gitOID: hex.EncodeToString(g.Sum(nil))})
}

// AddAt puts a large file with content that is made on demand into a repository.
func (s *Server) AddAt(repo, path string, data io.ReaderAt, size int64, sha256 string) *File {
	return s.put(repo, &File{Path: path, Size: size, Data: data, LFS: true, SHA256: sha256, gitOID: strings.Repeat("0", 40)})
}

func (s *Server) put(repo string, f *File) *File {
	r := s.Repo(repo)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.files[f.Path] = f
	h := fnv.New64a()
	for _, name := range r.names() {
		fmt.Fprintln(h, name, r.files[name].SHA256)
	}
	r.commit(repo + strconv.FormatUint(h.Sum64(), 16))
	return f
}

func (r *Repo) names() []string {
	var out []string
	for n := range r.files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func hubError(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, message)
}

func (s *Server) hub(w http.ResponseWriter, r *http.Request) {
	s.HubCalls.Add(1)
	if s.misbehave(w, r, s.fault(1, r)) {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	api := strings.HasPrefix(path, "api/models/")
	parts := strings.SplitN(strings.TrimPrefix(path, "api/models/"), "/", 5)
	if len(parts) < 4 {
		hubError(w, http.StatusNotFound, "", "Not Found")
		return
	}
	name, verb, rev := parts[0]+"/"+parts[1], parts[2], parts[3]
	s.mu.Lock()
	repo := s.repos[name]
	s.mu.Unlock()
	authorized := r.Header.Get("Authorization") == "Bearer "+Token
	switch {
	case repo == nil, repo.Private && !authorized:
		hubError(w, http.StatusUnauthorized, "RepoNotFound", "Repository not found")
		return
	case rev != "main" && rev != repo.Commit && rev != "v1.0":
		hubError(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+rev)
		return
	case repo.Gated && !authorized && verb != "revision":
		status := http.StatusUnauthorized
		if r.Header.Get("Authorization") != "" {
			status = http.StatusForbidden
		}
		hubError(w, status, "GatedRepo", "Access to model "+name+" is restricted")
		return
	}
	switch {
	case api && verb == "revision":
		_ = json.NewEncoder(w).Encode(map[string]any{"id": name, "sha": repo.Commit, "gated": repo.Gated})
	case api && verb == "tree":
		s.tree(w, r, repo)
	case !api && verb == "resolve" && len(parts) == 5:
		s.resolve(w, r, name, repo, parts[4])
	default:
		hubError(w, http.StatusNotFound, "", "Not Found")
	}
}

func (s *Server) tree(w http.ResponseWriter, r *http.Request, repo *Repo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := s.PageSize
	if size == 0 {
		size = 1000
	}
	names := repo.names()
	at, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	end := min(len(names), at+size)
	if end < len(names) {
		next := *r.URL
		q := next.Query()
		q.Set("cursor", strconv.Itoa(end))
		next.RawQuery = q.Encode()
		w.Header().Set("Link", fmt.Sprintf(`<%s%s>; rel="next"`, s.Hub.URL, next.RequestURI()))
	}
	out := []map[string]any{}
	if at == 0 {
		out = append(out, map[string]any{"type": "directory", "path": "some", "oid": strings.Repeat("a", 40), "size": 0})
	}
	for _, n := range names[at:end] {
		f := repo.files[n]
		e := map[string]any{"type": "file", "path": f.Path, "size": f.Size, "oid": f.gitOID}
		if f.LFS {
			e["oid"] = strings.Repeat("b", 40) // of the pointer
			e["lfs"] = map[string]any{"oid": f.SHA256, "size": f.Size, "pointerSize": 134}
		}
		out = append(out, e)
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (s *Server) resolve(w http.ResponseWriter, r *http.Request, name string, repo *Repo, path string) {
	s.mu.Lock()
	f, epoch := repo.files[path], s.epoch
	s.mu.Unlock()
	if f == nil {
		hubError(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	w.Header().Set("X-Repo-Commit", repo.Commit)
	if !f.LFS {
		w.Header().Set("ETag", `"`+f.gitOID+`"`)
		s.serve(w, r, f, Fault{})
		return
	}
	w.Header().Set("X-Linked-Etag", `"`+f.SHA256+`"`)
	w.Header().Set("X-Linked-Size", strconv.FormatInt(f.Size, 10))
	target := fmt.Sprintf("%s/%s/%s?Expires=%d&Signature=secret", s.CDN.URL, name, (&url.URL{Path: path}).EscapedPath(), epoch)
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusFound)
}

func (s *Server) cdn(w http.ResponseWriter, r *http.Request) {
	s.Requests.Add(1)
	if r.Header.Get("Authorization") != "" {
		s.TokenSeen.Store(true)
	}
	fault := s.fault(0, r)
	if s.misbehave(w, r, fault) {
		return
	}
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
	s.mu.Lock()
	var f *File
	if len(parts) == 3 && s.repos[parts[0]+"/"+parts[1]] != nil {
		f = s.repos[parts[0]+"/"+parts[1]].files[parts[2]]
	}
	expired := r.URL.Query().Get("Expires") != strconv.Itoa(s.epoch)
	s.mu.Unlock()
	switch {
	case expired:
		http.Error(w, "Request has expired", http.StatusForbidden)
	case f == nil:
		http.NotFound(w, r)
	default:
		w.Header().Set("ETag", `"`+f.SHA256[:32]+`"`)
		s.serve(w, r, f, fault)
	}
}

// misbehave answers in place of the true handler.
func (s *Server) misbehave(w http.ResponseWriter, r *http.Request, f Fault) bool {
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
		}
	}
	switch {
	case f.Status != 0:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		w.WriteHeader(f.Status)
	case f.Redirect != "":
		w.Header().Set("Location", f.Redirect)
		w.WriteHeader(http.StatusFound)
	case f.HTML:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<!doctype html><html><body>Please log in to the hotel's network</body></html>")
	default:
		return false
	}
	return true
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, f *File, fault Fault) {
	if fault.NoRange {
		r.Header.Del("Range")
		r.Header.Del("If-Range")
	}
	if fault.ETag != "" {
		w.Header().Set("ETag", fault.ETag)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &counter{ResponseWriter: w, s: s, fault: fault, r: r}
	http.ServeContent(out, r, "", time.Time{}, io.NewSectionReader(f.Data, 0, f.Size))
}

// counter counts, cuts and spoils a body.
type counter struct {
	http.ResponseWriter
	s     *Server
	r     *http.Request
	fault Fault
	n     int64
}

func (c *counter) Write(b []byte) (int, error) {
	if c.fault.CutAfter > 0 && c.n+int64(len(b)) > c.fault.CutAfter {
		b = b[:c.fault.CutAfter-c.n]
		_, _ = c.ResponseWriter.Write(b)
		if fl, ok := c.ResponseWriter.(http.Flusher); ok {
			fl.Flush()
		}
		c.s.Served.Add(int64(len(b)))
		panic(http.ErrAbortHandler)
	}
	if c.fault.Stall && c.n+int64(len(b)) > 16<<10 {
		if fl, ok := c.ResponseWriter.(http.Flusher); ok {
			fl.Flush()
		}
		<-c.r.Context().Done()
		return 0, c.r.Context().Err()
	}
	if c.fault.Corrupt && c.n == 0 && len(b) > 0 {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
	}
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	c.s.Served.Add(int64(n))
	return n, err
}
