// Package hub reads repositories of the Hugging Face hub, or of a mirror with its layout: the commit
// behind a revision, the files with their sizes and checksums, where a file is served, and which of the
// files of a model fit a device best.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/provisioner/fetch"
)

// DefaultEndpoint is the public hub.
const DefaultEndpoint = "https://huggingface.co"

// maxMetadata bounds an answer of the API.
const maxMetadata = 32 << 20

// File is one file of a repository.
type File struct {
	Path   string
	Size   int64
	SHA256 string // of a large file (LFS)
	GitOID string // of a small one: git's own checksum
}

// Client asks one hub.
type Client struct {
	endpoint string
	http     *fetch.Client
}

// New returns a client for the hub at endpoint ("" means the public one). The caller keeps c.
func New(endpoint string, c *fetch.Client) *Client {
	if endpoint == "" {
		endpoint = DefaultEndpoint
	}
	return &Client{endpoint: strings.TrimRight(endpoint, "/"), http: c}
}

// Error is what a hub refused, in words that say what to do.
type Error struct {
	Ref     string
	Status  int
	Message string
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return e.Ref + ": " + e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Code is the error code of the queen's API.
func (e *Error) Code() string {
	if e.Status == http.StatusNotFound {
		return "MODEL_NOT_FOUND"
	}
	return "PROVISION_FAILED"
}

// RetryAfter is what the hub asked for.
func (e *Error) RetryAfter() time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(e.Err, &r) {
		return r.RetryAfter()
	}
	return 0
}

// Temporary says that the same request may succeed later.
func (e *Error) Temporary() bool {
	var t interface{ Temporary() bool }
	return errors.As(e.Err, &t) && t.Temporary()
}

// Explain turns a failed request for a repository into an Error that says what to do.
func Explain(ref provisioner.Ref, err error) error {
	var fe *fetch.Error
	if !errors.As(err, &fe) {
		return err
	}
	page := DefaultEndpoint + "/" + ref.RepoID()
	e := &Error{Ref: ref.String(), Status: fe.Status, Err: err}
	switch code := fe.Header.Get("X-Error-Code"); {
	case code == "GatedRepo" || fe.Status == http.StatusForbidden:
		e.Message = "access is restricted; accept the conditions on " + page + " and give a token of that account (HF_TOKEN)"
	case fe.Status == http.StatusUnauthorized:
		e.Message = "the repository does not exist, is private, or needs a token; check the name on " + page + " and give HF_TOKEN"
	case code == "RevisionNotFound":
		e.Message = fmt.Sprintf("there is no revision %q; look under `Files and versions` on %s", ref.Revision, page)
	case code == "EntryNotFound":
		e.Message = fmt.Sprintf("there is no file %q; look under `Files and versions` on %s", ref.File, page)
	case fe.Status == http.StatusNotFound:
		e.Message = "not found on the hub; check the name on " + page
	case fe.Status == http.StatusTooManyRequests:
		e.Message = "the hub limits its requests; wait, or give a token (HF_TOKEN) for a higher limit"
	case fe.Status == 0:
		e.Message = "the hub can't be reached (" + err.Error() + "); check the network or set HF_ENDPOINT to a mirror"
	default:
		e.Message = "the hub failed: " + fe.Message
	}
	return e
}

func bearer(token string) string {
	if token == "" {
		return ""
	}
	return "Bearer " + token
}

// Commit resolves a reference's revision ("" means main) to a commit.
func (c *Client) Commit(ctx context.Context, ref provisioner.Ref, token string) (string, error) {
	if ref.Pinned() {
		return ref.Revision, nil
	}
	rev := ref.Revision
	if rev == "" {
		rev = "main"
	}
	var info struct {
		SHA string `json:"sha"`
	}
	u := c.endpoint + "/api/models/" + ref.RepoID() + "/revision/" + url.PathEscape(rev)
	if _, err := c.json(ctx, u, token, &info); err != nil {
		return "", Explain(ref, err)
	}
	pinned := ref
	pinned.Revision = info.SHA
	if !pinned.Pinned() {
		return "", &Error{Ref: ref.String(), Message: "the hub named no commit; is HF_ENDPOINT a hub?"}
	}
	return info.SHA, nil
}

// Files lists a repository at a commit.
func (c *Client) Files(ctx context.Context, ref provisioner.Ref, commit, token string) ([]File, error) {
	next := c.endpoint + "/api/models/" + ref.RepoID() + "/tree/" + commit + "?recursive=true"
	var out []File
	for page := 0; next != "" && page < 100; page++ {
		var entries []struct {
			Type, Path, OID string
			Size            int64
			LFS             *struct {
				OID  string
				Size int64
			}
		}
		link, err := c.json(ctx, next, token, &entries)
		if err != nil {
			return nil, Explain(ref, err)
		}
		for _, e := range entries {
			if e.Type != "file" {
				continue
			}
			f := File{Path: e.Path, Size: e.Size, GitOID: e.OID}
			if e.LFS != nil {
				f.SHA256, f.Size, f.GitOID = strings.TrimPrefix(e.LFS.OID, "sha256:"), e.LFS.Size, ""
			}
			if err := checkFile(f); err != nil {
				return nil, &Error{Ref: ref.String(), Message: err.Error()}
			}
			out = append(out, f)
		}
		if next, err = c.within(link); err != nil {
			return nil, &Error{Ref: ref.String(), Message: err.Error()}
		}
	}
	return out, nil
}

// checkFile refuses names that no repository has: they come from a server and become paths.
func checkFile(f File) error {
	for part := range strings.SplitSeq(f.Path, "/") {
		if part == "" || part == "." || part == ".." || len(part) > 255 || strings.ContainsAny(part, "\x00\\") {
			return fmt.Errorf("the hub names a file %.80q, which is no plain path", f.Path)
		}
	}
	if f.Size < 0 || f.Size > 1<<50 {
		return fmt.Errorf("the hub gives %.80q a size of %d", f.Path, f.Size)
	}
	if f.SHA256 != "" && !isHex(f.SHA256, 64) || f.GitOID != "" && !isHex(f.GitOID, 40) {
		return fmt.Errorf("the hub gives %.80q a checksum that is none", f.Path)
	}
	return nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// URL is where a file is to be had.
func (c *Client) URL(ref provisioner.Ref, commit, path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return c.endpoint + "/" + ref.RepoID() + "/resolve/" + commit + "/" + strings.Join(parts, "/")
}

// within keeps the next page on the same hub, for the token goes along.
func (c *Client) within(link string) (string, error) {
	for part := range strings.SplitSeq(link, ",") {
		target, params, ok := strings.Cut(strings.TrimSpace(part), ">")
		if !ok || !strings.Contains(params, `rel="next"`) {
			continue
		}
		target = strings.TrimPrefix(target, "<")
		base, err := url.Parse(c.endpoint)
		if err != nil {
			return "", err
		}
		u, err := base.Parse(target)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme {
			return "", errors.New("the hub's next page is on another host")
		}
		return u.String(), nil
	}
	return "", nil
}

func (c *Client) json(ctx context.Context, u, token string, v any) (link string, err error) {
	resp, err := c.http.Do(ctx, fetch.Request{URL: u, Authorization: bearer(token), Header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata+1))
	switch {
	case err != nil:
		return "", &fetch.Error{URL: u, Message: "the answer was cut", Err: err}
	case len(raw) > maxMetadata:
		return "", &fetch.Error{URL: u, Status: resp.StatusCode, Message: "the answer is too large"}
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return "", &fetch.Error{URL: u, Status: resp.StatusCode, Message: "the answer is not the hub's JSON; is HF_ENDPOINT a hub?"}
	}
	return resp.Header.Get("Link"), nil
}
