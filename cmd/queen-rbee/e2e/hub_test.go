package e2e

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeHub serves one repository in the layout of the Hugging Face hub.
type fakeHub struct {
	*httptest.Server
	repo, file, commit string
	data               []byte

	mu     sync.Mutex
	served map[int64]int // chunks by where they begin, how often
	token  string        // wanted, when set
	hold   int64         // what begins here or later waits for free
	free   chan struct{}
}

// newHub serves data as file of repo, and makes the programs that the test starts use it.
func newHub(t *testing.T, repo, file string, data []byte) *fakeHub {
	t.Helper()
	return newHubAt(t, "127.0.0.1:0", repo, file, data)
}

// newHubAt is newHub at an address that other machines can reach.
func newHubAt(t *testing.T, addr, repo, file string, data []byte) *fakeHub {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(data)
	h := &fakeHub{repo: repo, file: file, commit: hex.EncodeToString(id[:]), data: data, served: map[int64]int{}, hold: int64(len(data)) + 1, free: make(chan struct{})}
	h.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	h.Start()
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	t.Setenv("HF_ENDPOINT", h.URL)
	t.Setenv("HF_TOKEN", "")
	return h
}

// holdFrom makes chunks that begin at off or later wait until release.
func (h *fakeHub) holdFrom(off int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hold = off
}

func (h *fakeHub) release() { close(h.free) }

// downloads is how often any chunk was asked for, and how often those before off were.
func (h *fakeHub) downloads(off int64) (all, before int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at, n := range h.served {
		all += n
		if at < off {
			before += n
		}
	}
	return all, before
}

// ServeHTTP implements http.Handler.
func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	token := h.token
	h.mu.Unlock()
	if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
		w.Header().Set("X-Error-Code", "GatedRepo")
		http.Error(w, "Access to model "+h.repo+" is restricted", http.StatusUnauthorized)
		return
	}
	sum := sha256.Sum256(h.data)
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/models/"+h.repo+"/revision/"):
		_ = json.NewEncoder(w).Encode(map[string]any{"id": h.repo, "sha": h.commit})
	case r.URL.Path == "/api/models/"+h.repo+"/tree/"+h.commit:
		_ = json.NewEncoder(w).Encode([]any{map[string]any{"type": "file", "path": h.file, "size": len(h.data), "oid": strings.Repeat("b", 40),
			"lfs": map[string]any{"oid": hex.EncodeToString(sum[:]), "size": len(h.data), "pointerSize": 134}}})
	case r.URL.Path == "/"+h.repo+"/resolve/"+h.commit+"/"+h.file:
		h.content(w, r, hex.EncodeToString(sum[:]))
	default:
		w.Header().Set("X-Error-Code", "RepoNotFound")
		http.Error(w, "Repository not found", http.StatusNotFound)
	}
}

func (h *fakeHub) content(w http.ResponseWriter, r *http.Request, sum string) {
	var first int64
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
	h.mu.Lock()
	h.served[first]++
	hold, free := h.hold, h.free
	h.mu.Unlock()
	if first >= hold {
		select {
		case <-free:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("ETag", `"`+sum+`"`)
	w.Header().Set("X-Repo-Commit", h.commit)
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(bytes.NewReader(h.data), 0, int64(len(h.data))))
}
