package remote

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"al.essio.dev/pkg/shellescape"
	"github.com/pkg/sftp"
)

// Quote makes one word for a POSIX shell of any text without NUL.
func Quote(s string) string { return shellescape.Quote(s) }

// Upload writes src to dst on the machine. dst has the whole content or is as it was: it is written beside it, checked
// and renamed. size may be -1; sha256, in hexadecimal, may be empty, else src must match it. The checksum is taken again
// on the machine. It uses sftp where the server offers it, else cat.
func (c *Client) Upload(ctx context.Context, src io.Reader, size int64, sha256hex, dst string, mode fs.FileMode) error {
	if err := checkPath(dst); err != nil {
		return err
	}
	var raw [6]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(dst), "."+path.Base(dst)+".part-"+hex.EncodeToString(raw[:]))
	in := &hashed{r: src, h: sha256.New()}
	err := c.withSFTP(ctx, func(f *sftp.Client) error { return putSFTP(f, in, tmp, mode) })
	if errors.Is(err, errNoSFTP) {
		err = c.shell(ctx, fmt.Sprintf("umask 077; cat > %s && chmod %o %s", Quote(tmp), mode.Perm(), Quote(tmp)), in, nil)
	}
	if err == nil {
		err = in.check(size, sha256hex)
	}
	if err == nil {
		err = c.settle(ctx, tmp, dst, in.sum())
	}
	if err != nil {
		c.discard(context.WithoutCancel(ctx), tmp)
		return c.transferErr("upload "+dst, err)
	}
	return nil
}

// Download copies src on the machine to dst and returns its length. sha256, in hexadecimal, may be empty, else the
// content must match it; what was written to dst before a failure is worth nothing.
func (c *Client) Download(ctx context.Context, src string, dst io.Writer, sha256hex string) (int64, error) {
	if err := checkPath(src); err != nil {
		return 0, err
	}
	h := sha256.New()
	var n int64
	err := c.withSFTP(ctx, func(f *sftp.Client) error {
		r, err := f.Open(src)
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		n, err = io.Copy(io.MultiWriter(dst, h), r)
		return err
	})
	if errors.Is(err, errNoSFTP) {
		cw := &counted{w: io.MultiWriter(dst, h)}
		err = c.shell(ctx, "cat -- "+Quote(src), nil, cw)
		n = cw.n
	}
	if err == nil {
		err = match(sha256hex, h)
	}
	if err != nil {
		return n, c.transferErr("download "+src, err)
	}
	return n, nil
}

func (c *Client) transferErr(op string, err error) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	remedy := "check the disk and the permissions there"
	if errors.Is(err, ErrChecksum) {
		remedy = "try again"
	}
	return c.conn.err(op, err, remedy)
}

func checkPath(p string) error {
	if p == "" || strings.HasSuffix(p, "/") || strings.ContainsAny(p, "\x00\r\n") {
		return &TargetError{"file", p, "is no file name"}
	}
	return nil
}

// errNoSFTP says that the server has no sftp subsystem.
var errNoSFTP = errors.New("no sftp subsystem")

// withSFTP runs f with an sftp client of its own session; the end of ctx closes it.
func (c *Client) withSFTP(ctx context.Context, f func(*sftp.Client) error) error {
	s, err := c.session(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.ch.Close() }()
	asked := make(chan error, 1)
	go func() { asked <- s.request("subsystem", "sftp") }()
	if err := c.await(ctx, asked); errors.Is(err, errRefused) {
		return errNoSFTP
	} else if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.ch.Close() })
	defer stop()
	fc, err := sftp.NewClientPipe(s.ch, s.ch)
	if err != nil {
		if ctx.Err() == nil && !c.conn.lost() {
			return errNoSFTP // a subsystem that is configured but broken, or drowned in rc-file noise
		}
		return errors.Join(ctx.Err(), err)
	}
	defer func() { _ = fc.Close() }()
	if err := f(fc); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}

func putSFTP(f *sftp.Client, in *hashed, tmp string, mode fs.FileMode) error {
	w, err := f.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = w.ReadFrom(in)
	return errors.Join(err, w.Chmod(mode.Perm()), w.Close())
}

// settle takes the checksum of tmp on the machine and renames it: with the machine's own tools in one command, else,
// for accounts without a shell, over sftp. No session is held meanwhile, so that transfers can't starve each other.
func (c *Client) settle(ctx context.Context, tmp, dst, want string) error {
	q := Quote(tmp)
	out, stderr, exit, err := c.Run(ctx, "f="+q+`
s=$(sha256sum "$f" 2>/dev/null || shasum -a 256 "$f" 2>/dev/null || openssl dgst -r -sha256 "$f" 2>/dev/null )
case "$s" in *`+want+`*) mv -f -- "$f" `+Quote(dst)+` && s=moved;; esac
printf '\n`+sumMark+`%s\n' "$s"`, nil)
	if err != nil {
		return err
	}
	_, rest, marked := strings.Cut(string(out), "\n"+sumMark)
	rest = strings.TrimPrefix(rest, `\`) // sha256sum's sign for escaped names
	switch {
	case marked && strings.HasPrefix(rest, "moved"):
		return nil
	case marked && len(rest) >= 64 && rest[:64] == want:
		return fmt.Errorf("it could not be renamed (status %d): %.200q", exit, strings.Join(strings.Fields(string(stderr)), " "))
	case marked && len(rest) >= 64:
		return ErrChecksum
	}
	err = c.withSFTP(ctx, func(f *sftp.Client) error { return settleSFTP(f, tmp, dst, want) })
	if errors.Is(err, errNoSFTP) {
		h := sha256.New()
		if err := c.shell(ctx, "cat -- "+q, nil, h); err != nil {
			return err
		}
		if err := match(want, h); err != nil {
			return err
		}
		return c.shell(ctx, "mv -f -- "+q+" "+Quote(dst), nil, nil)
	}
	return err
}

const sumMark = "rbee-sum:"

func settleSFTP(f *sftp.Client, tmp, dst, want string) error {
	r, err := f.Open(tmp)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = r.WriteTo(h)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if err := match(want, h); err != nil {
		return err
	}
	if f.PosixRename(tmp, dst) == nil || f.Rename(tmp, dst) == nil {
		return nil
	}
	if err := f.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f.Rename(tmp, dst)
}

// discard takes away what a failed upload left; there is nobody to tell when that fails as well.
func (c *Client) discard(ctx context.Context, tmp string) {
	ctx, cancel := context.WithTimeout(ctx, c.conn.o.SessionTimeout)
	defer cancel()
	if err := c.shell(ctx, "rm -f -- "+Quote(tmp), nil, nil); err != nil && !c.conn.lost() {
		_ = c.withSFTP(ctx, func(f *sftp.Client) error { return f.Remove(tmp) })
	}
}

// shell runs a command that must succeed.
func (c *Client) shell(ctx context.Context, cmd string, stdin io.Reader, stdout io.Writer) error {
	errs := &capped{limit: 64 << 10, full: func() {}}
	exit, err := c.Stream(ctx, cmd, stdin, stdout, errs)
	if err != nil {
		return err
	}
	if exit != 0 {
		text := strings.Join(strings.Fields(string(errs.bytes())), " ")
		return fmt.Errorf("status %d: %.200q", exit, text)
	}
	return nil
}

// hashed takes the sum and the length of what is read through it, and remembers why reading failed.
type hashed struct {
	r   io.Reader
	h   hash.Hash
	n   int64
	err error
}

// Read reads and counts.
func (s *hashed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.h.Write(b[:n])
	s.n += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *hashed) sum() string { return hex.EncodeToString(s.h.Sum(nil)) }

func (s *hashed) check(size int64, sum string) error {
	if s.err != nil {
		return s.err
	}
	if size >= 0 && s.n != size {
		return fmt.Errorf("%w: the source has %d bytes, not %d", ErrChecksum, s.n, size)
	}
	return match(sum, s.h)
}

func match(want string, h hash.Hash) error {
	if want != "" && !strings.EqualFold(want, hex.EncodeToString(h.Sum(nil))) {
		return fmt.Errorf("%w: it is %x", ErrChecksum, h.Sum(nil))
	}
	return nil
}

// counted counts what is written.
type counted struct {
	w io.Writer
	n int64
}

// Write writes and counts.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
