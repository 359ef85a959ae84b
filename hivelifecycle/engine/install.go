package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

// Package is one build of an engine that can be installed.
type Package = hiveapi.EnginePackage

// Catalog lists the builds that an operator allows. Checksums are pinned there or come from the release's own API at
// install time; the library invents none.
type Catalog struct {
	Packages []Package `json:"packages"`
}

// ParseCatalog reads a catalogue, one JSON object; an unknown field or a package that can't be installed is an error.
func ParseCatalog(r io.Reader) (Catalog, error) {
	var c Catalog
	dec := json.NewDecoder(io.LimitReader(r, 4<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, invalid("the engine catalogue can't be read: %v", err)
	}
	for i, p := range c.Packages {
		if err := checkPackage(p); err != nil {
			return c, fmt.Errorf("package %d of the engine catalogue: %w", i+1, err)
		}
	}
	return c, nil
}

// Fitting lists the packages of an engine for a machine, those of the wanted backends first, in the order of backends.
func (c Catalog) Fitting(engine, version, goos, arch string, backends []string) []Package {
	var out []Package
	for _, b := range backends {
		for _, p := range c.Packages {
			if p.Engine == engine && (version == "" || p.Version == version) && p.OS == goos && p.Arch == arch && p.Backend == b {
				out = append(out, p)
			}
		}
	}
	return out
}

var (
	packageWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	hexSum      = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func checkPackage(p Package) error {
	for _, w := range []string{p.Engine, p.Version, p.OS, p.Arch, p.Backend, p.Program} {
		if !packageWord.MatchString(w) || strings.Contains(w, "..") {
			return invalid("%.40q can't be part of a package's name", w)
		}
	}
	if p.Engine == "bin" || p.Engine == "tmp" {
		return invalid("an engine can't be called %s", p.Engine)
	}
	if p.SHA256 == "" && p.DigestURL == "" {
		return invalid("%s %s has neither sha256 nor digest_url: nothing unverified is installed", p.Engine, p.Version)
	}
	if p.SHA256 != "" && !hexSum.MatchString(p.SHA256) {
		return invalid("%s %s: sha256 is not 64 hexadecimal digits", p.Engine, p.Version)
	}
	for _, u := range []string{p.URL, p.DigestURL} {
		if u == "" && u == p.DigestURL {
			continue
		}
		if err := checkSource(u); err != nil {
			return err
		}
	}
	return nil
}

// checkSource allows https, files by absolute path, and plain http on loopback only.
func checkSource(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.User != nil {
		return invalid("%.100q is no address", s)
	}
	switch {
	case u.Scheme == "https" && u.Host != "":
		return nil
	case u.Scheme == "bundle" && packageWord.MatchString(u.Opaque) && u.RawQuery == "":
		return nil
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
		return nil
	case u.Scheme == "http" && net.ParseIP(u.Hostname()).IsLoopback():
		return nil
	}
	return invalid("%.100q: engines come from https:, from bundle:NAME or from file: with an absolute path", s)
}

// InstallerOptions tune an Installer; all may be left out.
type InstallerOptions struct {
	// Client fetches; nil = one that follows at most five redirects, to allowed addresses only.
	Client *http.Client
	// MaxBytes bounds an archive and what is in it; default 16 GiB.
	MaxBytes int64
}

// Installer keeps engines under one directory: ENGINE/VERSION-BACKEND/..., and in bin/ a link to each active program.
type Installer struct {
	dir string
	o   InstallerOptions
	mu  sync.Mutex // one change at a time
}

// NewInstaller returns an installer for a directory, which is made when it is needed. Give the same one to
// Options.EngineDir.
func NewInstaller(dir string, o InstallerOptions) *Installer {
	if o.Client == nil {
		o.Client = &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 5 {
				return errors.New("more than five redirects")
			}
			return checkSource(r.URL.String())
		}}
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 30
	}
	return &Installer{dir: dir, o: o}
}

// Install fetches a package, checks it, unpacks it beside the other versions, tries it and makes it the active one.
// Whatever fails, the version that was active stays. Installing what is there only tries and activates it.
func (in *Installer) Install(ctx context.Context, p Package, progress func(done, total int64, what string)) error {
	if err := checkPackage(p); err != nil {
		return err
	}
	if p.OS != runtime.GOOS || p.Arch != runtime.GOARCH {
		return invalid("%s %s is for %s/%s, this machine is %s/%s", p.Engine, p.Version, p.OS, p.Arch, runtime.GOOS, runtime.GOARCH)
	}
	if progress == nil {
		progress = func(int64, int64, string) {}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	final := filepath.Join(in.dir, p.Engine, p.Version+"-"+p.Backend)
	if _, err := os.Stat(final); err == nil {
		return in.activate(ctx, p, final)
	}
	if err := os.MkdirAll(filepath.Join(in.dir, "tmp"), 0o700); err != nil {
		return installFailed(p, "the engines' directory can't be made", err)
	}
	work, err := os.MkdirTemp(filepath.Join(in.dir, "tmp"), "install-")
	if err != nil {
		return installFailed(p, "no room to work in", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	sum, err := in.digest(ctx, p)
	if err != nil {
		return installFailed(p, "its checksum can't be had", err)
	}
	archive := filepath.Join(work, "archive")
	if err := in.fetch(ctx, p.URL, archive, sum, progress); err != nil {
		return installFailed(p, "it can't be fetched", err)
	}
	progress(0, 0, "unpacking")
	tree := filepath.Join(work, "tree")
	if err := unpack(archive, p, tree, in.o.MaxBytes); err != nil {
		return installFailed(p, "it can't be unpacked", err)
	}
	progress(0, 0, "trying")
	if err := smoke(ctx, p, tree); err != nil {
		return installFailed(p, "it does not run on this machine; the former version stays active", err)
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return installFailed(p, "it can't be put in its place", err)
	}
	if err := os.Rename(tree, final); err != nil {
		return installFailed(p, "it can't be put in its place", err)
	}
	return in.link(p, final)
}

func (in *Installer) activate(ctx context.Context, p Package, final string) error {
	if err := smoke(ctx, p, final); err != nil {
		return installFailed(p, "it does not run on this machine; the former version stays active", err)
	}
	return in.link(p, final)
}

// digest is the archive's sha256: pinned, or what the release's API says now.
func (in *Installer) digest(ctx context.Context, p Package) (string, error) {
	if p.SHA256 != "" {
		return p.SHA256, nil
	}
	body, _, err := in.open(ctx, p.DigestURL)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	b, err := io.ReadAll(io.LimitReader(body, 8<<20))
	if err != nil {
		return "", err
	}
	return releaseDigest(b, strings.TrimPrefix(path.Base(p.URL), "bundle:"))
}

// releaseDigest finds an asset's digest in a release of the GitHub API.
func releaseDigest(b []byte, asset string) (string, error) {
	var release struct {
		Assets []struct {
			Name   string `json:"name"`
			Digest string `json:"digest"`
		} `json:"assets"`
	}
	if err := json.Unmarshal(b, &release); err != nil {
		return "", fmt.Errorf("the release can't be read: %w", err)
	}
	for _, a := range release.Assets {
		if a.Name != asset {
			continue
		}
		sum, ok := strings.CutPrefix(a.Digest, "sha256:")
		if !ok || !hexSum.MatchString(sum) {
			return "", fmt.Errorf("the release names no sha256 for %.80q; pin one in the catalogue", asset)
		}
		return sum, nil
	}
	return "", fmt.Errorf("the release has no asset %.80q", asset)
}

// open begins to read a source.
func (in *Installer) open(ctx context.Context, source string) (io.ReadCloser, int64, error) {
	if err := checkSource(source); err != nil {
		return nil, 0, err
	}
	name, ok := strings.CutPrefix(source, "file://")
	if bundled, is := strings.CutPrefix(source, "bundle:"); is {
		name, ok = in.sent(bundled), true
	}
	if ok {
		f, err := os.Open(name)
		if err != nil {
			return nil, 0, err
		}
		info, err := f.Stat()
		if err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		return f, info.Size(), nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", "rbee-hive")
	res, err := in.o.Client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, 0, errors.Join(fmt.Errorf("%s answered %s", req.URL.Host, res.Status), res.Body.Close())
	}
	return res.Body, res.ContentLength, nil
}

// fetch writes a source to a file and checks its sha256.
func (in *Installer) fetch(ctx context.Context, source, dst, sum string, progress func(int64, int64, string)) error {
	body, total, err := in.open(ctx, source)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	f, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	h, done, last := sha256.New(), int64(0), time.Time{}
	buf := make([]byte, 256<<10)
	for {
		n, rerr := body.Read(buf)
		if done += int64(n); done > in.o.MaxBytes {
			rerr = fmt.Errorf("it is over %d bytes", in.o.MaxBytes)
		}
		h.Write(buf[:n])
		_, werr := f.Write(buf[:n])
		if err := errors.Join(werr, ctx.Err()); err != nil {
			return errors.Join(err, f.Close())
		}
		if time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			progress(done, total, "fetching")
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return errors.Join(rerr, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("its sha256 is %s and should be %s: it is damaged, or not what the operator pinned", got, sum)
	}
	return nil
}

// smoke runs the program once; it has to say something and exit with 0.
func smoke(ctx context.Context, p Package, tree string) error {
	program, err := findProgram(tree, p.Program)
	if err != nil {
		return err
	}
	args := p.Smoke
	if len(args) == 0 {
		args = []string{"--version"}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = baseEnv(os.Environ())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", p.Program, strings.Join(args, " "), err, clip(string(out)))
	}
	return nil
}

func installFailed(p Package, what string, err error) error {
	return &Error{Name: "PROVISION_FAILED", Message: fmt.Sprintf("%s %s (%s): %s: %v", p.Engine, p.Version, p.Backend, what, err), Err: err}
}
