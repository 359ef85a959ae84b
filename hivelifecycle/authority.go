package hivelifecycle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// authorityFile holds the certificate and the key of the queen's own certificate authority, mode 0600.
const authorityFile = "hives-ca.pem"

// certLife is how long certificates are good for. The authority is pinned by both sides and its key never leaves the data
// directory; a hive gets a new certificate with each start.
const certLife = 10 * 365 * 24 * time.Hour

// authority makes the certificates of mutual TLS between a queen and the hives that she reaches directly. Nobody else
// trusts it, and it trusts nobody else.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	pem    []byte // the certificate
	client tls.Certificate
}

// loadAuthority reads the authority in dir, making it the first time.
func loadAuthority(dir string) (*authority, error) {
	path := filepath.Join(dir, authorityFile)
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeAuthority(path); err == nil {
			b, err = readPrivate(path)
		}
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): restore it, or remove it and start the hives again", path, err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if err != nil || !ok || !cert.IsCA {
		return nil, fmt.Errorf("%s is not the authority that a queen makes: restore it, or remove it and start the hives again", path)
	}
	a := &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})}
	mine, err := a.issue("queen", x509.ExtKeyUsageClientAuth)
	if err == nil {
		a.client, err = tls.X509KeyPair(mine, mine)
	}
	return a, err
}

func readPrivate(path string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others, or is no file (mode %s); run chmod 600 on it", path, info.Mode())
	}
	return os.ReadFile(path)
}

// makeAuthority writes a new authority unless another process was faster.
func makeAuthority(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := template("rbee queen")
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign
	b, err := sign(t, t, key, key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".hives-ca-*") // 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func template(name string) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails
	now := time.Now()
	return &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-7 * 24 * time.Hour), NotAfter: now.Add(certLife)} // the machines' clocks may differ
}

// sign gives the certificate and its key as PEM.
func sign(t, parent *x509.Certificate, key, by *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), by)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...), nil
}

// issue makes a certificate for one use, with its key.
func (a *authority) issue(name string, use x509.ExtKeyUsage) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template(name)
	t.KeyUsage, t.ExtKeyUsage, t.DNSNames = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}, []string{name}
	return sign(t, a.cert, key, a.key)
}

// forHive is what a hive is handed through stdin: its certificate, its key, and the authority that it is to trust.
func (a *authority) forHive(id string) ([]byte, error) {
	b, err := a.issue(id, x509.ExtKeyUsageServerAuth)
	return bytes.Join([][]byte{b, a.pem}, nil), err
}

// config is the queen's side of a connection to the hive with that id.
func (a *authority) config(id string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: id, Certificates: []tls.Certificate{a.client}}
}

// authority is loaded when the first direct hive needs it.
func (m *Manager) authority() (*authority, error) {
	m.caMu.Lock()
	defer m.caMu.Unlock()
	if m.ca == nil {
		a, err := loadAuthority(m.o.DataDir)
		if err != nil {
			return nil, err
		}
		m.ca = a
	}
	return m.ca, nil
}

// tlsFor is the queen's side of talking to a hive; nil where SSH or loopback carry the traffic.
func (m *Manager) tlsFor(c NetworkConfig, id identity) (*tls.Config, error) {
	if !c.Direct || c.Plain {
		return nil, nil
	}
	a, err := m.authority()
	if err != nil {
		return nil, err
	}
	return a.config(id.ID), nil
}

// certificate makes what a hive needs for its side.
func (m *Manager) certificate(id identity) ([]byte, error) {
	a, err := m.authority()
	if err != nil {
		return nil, err
	}
	return a.forHive(id.ID)
}
