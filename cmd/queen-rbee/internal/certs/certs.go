// Package certs keeps the certificate that the queen's listener shows, and takes a renewed one up while she runs.
package certs

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"
)

// maxFile bounds a certificate's or key's file.
const maxFile = 1 << 20

// Keeper holds a certificate with its key. Its methods may be called from any goroutine.
type Keeper struct {
	now atomic.Pointer[tls.Certificate]
}

// Open reads a certificate, its chain behind it, and the key that belongs to it, both as PEM.
func Open(cert, key string) (*Keeper, error) {
	k := &Keeper{}
	if _, err := k.Renew(cert, key); err != nil {
		return nil, err
	}
	return k, nil
}

// Renew reads the files again; connections that are made from then on see the certificate there. With an error the one
// before goes on.
func (k *Keeper) Renew(cert, key string) (changed bool, err error) {
	next, err := read(cert, key)
	if err != nil {
		return false, err
	}
	old := k.now.Swap(next)
	return old == nil || !bytes.Equal(old.Certificate[0], next.Certificate[0]), nil
}

// Check reports whether the files can be used.
func Check(cert, key string) error {
	_, err := read(cert, key)
	return err
}

// Until is when the certificate ends.
func (k *Keeper) Until() time.Time { return k.now.Load().Leaf.NotAfter }

// Config is for the listener: TLS 1.2 at least, HTTP/2 where the client has it.
func (k *Keeper) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.now.Load(), nil }}
}

// read loads a pair. Its errors name files, and say nothing of what is in them.
func read(cert, key string) (*tls.Certificate, error) {
	public, err := load("tls.cert", cert, false)
	if err != nil {
		return nil, err
	}
	private, err := load("tls.key", key, true)
	if err != nil {
		return nil, err
	}
	defer clear(private)
	if bytes.Contains(private, []byte("ENCRYPTED")) {
		return nil, fmt.Errorf("tls.key: %s needs a passphrase, and nobody is there to give it: store it without one (openssl pkey), mode 0600", key)
	}
	pair, err := tls.X509KeyPair(public, private)
	if err != nil {
		return nil, fmt.Errorf("tls: %s and %s are no certificate and key that belong together, as PEM: %w", cert, key, err)
	}
	return &pair, nil
}

func load(name, path string, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %s can't be read: %w", name, path, cause(err))
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s: %s can't be read: %w", name, path, cause(err))
	}
	if secret && info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: every user of this machine may read %s: chmod o= %s", name, path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %s can't be read: %w", name, path, cause(err))
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: %s is larger than %d bytes: it is no PEM file", name, path, maxFile)
	}
	return data, nil
}

// cause is the system's word without the path, which is named already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
