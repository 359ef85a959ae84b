package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair writes a certificate that signs itself, and its key.
func pair(t *testing.T, dir string, serial int64, until time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "queen"},
		DNSNames: []string{"queen.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until}, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "queen"}}, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	put(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return cert, key
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shown is the serial number that a client of the configuration sees, with the most that it speaks.
func shown(server *tls.Config, most uint16) (int64, string, error) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	go func() { _ = tls.Server(b, server).Handshake() }()
	c := tls.Client(a, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, MaxVersion: most}) //nolint:gosec // old versions are what is asked for
	if err := c.Handshake(); err != nil {
		return 0, "", err
	}
	s := c.ConnectionState()
	return s.PeerCertificates[0].SerialNumber.Int64(), s.NegotiatedProtocol, nil
}

// TestRenewed: a renewed certificate is shown from then on, a broken one is refused and the one before goes on.
func TestRenewed(t *testing.T) {
	dir, until := t.TempDir(), time.Now().Add(48*time.Hour).Truncate(time.Second)
	cert, key := pair(t, dir, 1, until)
	k, err := Open(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if !k.Until().Equal(until) {
		t.Errorf("until %s, want %s", k.Until(), until)
	}
	config := k.Config()
	shows := func(want int64) {
		t.Helper()
		if got, proto, err := shown(config, 0); err != nil || got != want || proto != "h2" {
			t.Fatalf("certificate %d over %q, %v; want %d", got, proto, err, want)
		}
	}
	shows(1)
	if changed, err := k.Renew(cert, key); changed || err != nil {
		t.Errorf("the same files: %v %v", changed, err)
	}
	pair(t, dir, 2, until)
	if changed, err := k.Renew(cert, key); !changed || err != nil {
		t.Errorf("a renewed one: %v %v", changed, err)
	}
	shows(2)
	old, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	pair(t, dir, 3, until)
	put(t, key, old) // the other half of the renewal has not come yet
	if _, err := k.Renew(cert, key); err == nil {
		t.Error("a key of another certificate was taken")
	}
	shows(2)
	if _, _, err := shown(config, tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
}

// TestRefused: what is wrong is said with the file's name, and nothing of what is in a key.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, cert, key string)
		want  string
	}{
		"no certificate":    {func(t *testing.T, cert, _ string) { remove(t, cert) }, "tls.cert: "},
		"no key":            {func(t *testing.T, _, key string) { remove(t, key) }, "no such file"},
		"readable by all":   {func(t *testing.T, _, key string) { mode(t, key, 0o644) }, "chmod o="},
		"not PEM":           {func(t *testing.T, _, key string) { put(t, key, []byte("sesame")) }, "belong together"},
		"a key as the cert": {func(t *testing.T, cert, key string) { copyOver(t, key, cert) }, "belong together"},
		"a passphrase": {func(t *testing.T, _, key string) {
			put(t, key, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VzYW1l\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		}, "passphrase"},
		"endless": {func(t *testing.T, cert, _ string) { put(t, cert, make([]byte, maxFile+1)) }, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, key := pair(t, t.TempDir(), 1, time.Now().Add(time.Hour))
			mode(t, key, 0o640) // a group may have it
			if err := Check(cert, key); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, cert, key)
			err := Check(cert, key)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "c2Vz") {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, opened := Open(cert, key); !errors.Is(opened, err) && opened.Error() != err.Error() {
				t.Errorf("opened: %v", opened)
			}
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string, m os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, m); err != nil {
		t.Fatal(err)
	}
}

func copyOver(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	put(t, to, data)
}
