package provisioner

import (
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxRef is the longest reference in bytes.
const MaxRef = 512

// The schemes of a reference. An alias has none.
const (
	SchemeHF     = "hf"     // hf:ORG/REPO[@REV][::file=PATH]
	SchemeFile   = "file"   // file:/ABS/PATH
	SchemeOllama = "ollama" // ollama:NAME[:TAG]
	SchemeSim    = "sim"    // sim:NAME[?parameters]
	SchemeHTTPS  = "https"  // https://HOST/PATH, where a machine allows it
	SchemeAlias  = ""       // a name that the configuration resolves
)

// Ref is a parsed model reference. It is data: no part of it may be joined to a path or a command
// without the checks of where it is used.
type Ref struct {
	Scheme string
	// Org, Repo, Revision ("" means the default branch) and File ("" means the best that fits) are of hf.
	Org, Repo, Revision, File string
	Path                      string     // of file: absolute and clean
	Name, Tag                 string     // of ollama, sim (no tag) and aliases (no tag)
	Query                     url.Values // of sim
	URL                       string     // of https
}

// String is the canonical form; parsing it gives the same Ref.
func (r Ref) String() string {
	switch r.Scheme {
	case SchemeHF:
		s := "hf:" + r.Org + "/" + r.Repo
		if r.Revision != "" {
			s += "@" + r.Revision
		}
		if r.File != "" {
			s += "::file=" + r.File
		}
		return s
	case SchemeFile:
		return "file:" + r.Path
	case SchemeOllama:
		if r.Tag != "" {
			return "ollama:" + r.Name + ":" + r.Tag
		}
		return "ollama:" + r.Name
	case SchemeSim:
		if len(r.Query) > 0 {
			return "sim:" + r.Name + "?" + r.Query.Encode()
		}
		return "sim:" + r.Name
	case SchemeHTTPS:
		return r.URL
	}
	return r.Name
}

// Pinned says that the reference names one content for ever: a commit, for hf.
func (r Ref) Pinned() bool { return r.Scheme != SchemeHF || commitHash(r.Revision) }

// RepoID is ORG/REPO, for hf.
func (r Ref) RepoID() string { return r.Org + "/" + r.Repo }

func commitHash(s string) bool {
	if len(s) != 40 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// ParseRef parses a reference or an alias. Whatever could be taken for something else further on is
// ErrInvalidRef: `..`, NUL, control characters, invalid UTF-8, a leading `-`, more than MaxRef bytes.
func ParseRef(s string) (Ref, error) {
	if err := checkText(s); err != nil {
		return Ref{}, err
	}
	scheme, rest, found := strings.Cut(s, ":")
	if !found {
		return parseAlias(s)
	}
	switch scheme {
	case SchemeHF:
		return parseHF(s, rest)
	case SchemeFile:
		return parseFile(s, rest)
	case SchemeOllama:
		return parseOllama(s, rest)
	case SchemeSim:
		return parseSim(s, rest)
	case SchemeHTTPS:
		return parseHTTPS(s)
	case "http", "s3", "gs", "oci", "docker", "ftp", "data", "sha256", "modelscope", "ms":
		return Ref{}, refError(s, "the scheme "+scheme+": is not supported; use hf:, file:, ollama:, https: or a configured name")
	}
	return parseAlias(s)
}

func checkText(s string) error {
	switch {
	case s == "":
		return refError(s, "it is empty")
	case len(s) > MaxRef:
		return refError(s, "it is longer than 512 bytes")
	case !utf8.ValidString(s):
		return refError(strings.ToValidUTF8(s, "?"), "it is not valid UTF-8")
	case strings.HasPrefix(s, "-"):
		return refError(s, "it begins with `-`")
	case strings.Contains(s, ".."):
		return refError(s, "it contains `..`")
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }); i >= 0 {
		return refError(s, "it contains a control character")
	}
	return nil
}

// word says that s begins with a letter or digit and holds only those and the extra characters.
func word(s, extra string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || strings.IndexByte(extra, c) < 0) {
			return false
		}
	}
	return s != ""
}

func parseAlias(s string) (Ref, error) {
	if !word(s, "._:/@+-") || strings.Contains(s, "//") || strings.HasSuffix(s, "/") || strings.Contains(s, "/-") {
		return Ref{}, refError(s, "a name consists of letters, digits and . _ - : / @ +, and begins with a letter or digit")
	}
	return Ref{Name: s}, nil
}

func parseHF(s, rest string) (Ref, error) {
	r := Ref{Scheme: SchemeHF}
	repo, opts, hasOpts := strings.Cut(rest, "::")
	if hasOpts {
		file, ok := strings.CutPrefix(opts, "file=")
		if !ok {
			return Ref{}, refError(s, "after :: only file=PATH is known")
		}
		if !relative(file) {
			return Ref{}, refError(s, "the file must be a plain path inside the repository")
		}
		r.File = file
	}
	repo, rev, hasRev := strings.Cut(repo, "@")
	if hasRev {
		if !word(rev, "._/-") || !relative(rev) {
			return Ref{}, refError(s, "the revision after @ must be a branch, a tag or a commit")
		}
		r.Revision = rev
	}
	org, name, ok := strings.Cut(repo, "/")
	if !ok || !word(org, "._-") || !word(name, "._-") || len(org) > 96 || len(name) > 96 {
		return Ref{}, refError(s, "the form is hf:ORG/REPO[@REVISION][::file=PATH]")
	}
	r.Org, r.Repo = org, name
	return r, nil
}

// relative says that a slash-separated path stays where it starts and has no odd parts.
func relative(p string) bool {
	if p == "" || strings.ContainsAny(p, "\\:*?\"<>|") {
		return false
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || strings.HasPrefix(part, "-") || strings.TrimSpace(part) != part || len(part) > 255 {
			return false
		}
	}
	return true
}

func parseFile(s, rest string) (Ref, error) {
	path, ok := strings.CutPrefix(rest, "/")
	if !ok || path == "" {
		return Ref{}, refError(s, "the form is file:/ABSOLUTE/PATH")
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || len(part) > 255 {
			return Ref{}, refError(s, "the path must be clean: no empty part and no `.`")
		}
	}
	if strings.ContainsRune(path, '\\') {
		return Ref{}, refError(s, "the path contains a backslash")
	}
	return Ref{Scheme: SchemeFile, Path: rest}, nil
}

func parseOllama(s, rest string) (Ref, error) {
	name, tag, hasTag := strings.Cut(rest, ":")
	parts := strings.Split(name, "/")
	if len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !word(p, "._-") }) || hasTag && !word(tag, "._-") {
		return Ref{}, refError(s, "the form is ollama:NAME[:TAG]")
	}
	return Ref{Scheme: SchemeOllama, Name: name, Tag: tag}, nil
}

func parseSim(s, rest string) (Ref, error) {
	name, query, _ := strings.Cut(rest, "?")
	if !word(name, "._-") {
		return Ref{}, refError(s, "the form is sim:NAME[?parameter=value&...]")
	}
	r := Ref{Scheme: SchemeSim, Name: name}
	if query == "" {
		return r, nil
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Ref{}, refError(s, "the parameters are not of the form a=b&c=d")
	}
	for k, v := range values {
		if !word(k, "_") || len(v) != 1 || checkText("x"+v[0]) != nil {
			return Ref{}, refError(s, "each parameter has a plain name and one value")
		}
	}
	if _, err := simNeed(values); err != nil {
		return Ref{}, refError(s, err.Error())
	}
	r.Query = values
	if canonical := r.String(); len(canonical) > MaxRef {
		return Ref{}, refError(s, "it is longer than 512 bytes")
	}
	return r, nil
}

func parseHTTPS(s string) (Ref, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || !strings.HasPrefix(s, "https://"):
		return Ref{}, refError(s, "the form is https://HOST/PATH")
	case u.User != nil:
		return Ref{}, refError("https://...", "credentials do not belong into a reference")
	case u.Fragment != "" || u.Path == "" || strings.HasSuffix(u.Path, "/") || strings.Contains(u.Path, "..") || strings.ContainsRune(u.Path, '\\'):
		return Ref{}, refError(s, "the URL must name a file")
	}
	if err := checkText("x" + u.Path + u.Host); err != nil {
		return Ref{}, refError(s, "the URL hides a control character")
	}
	u.Host = strings.ToLower(u.Host)
	canonical := u.String()
	if len(canonical) > MaxRef {
		return Ref{}, refError(s, "it is longer than 512 bytes")
	}
	return Ref{Scheme: SchemeHTTPS, URL: canonical}, nil
}
