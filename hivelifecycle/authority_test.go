package hivelifecycle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

func newAuthority(t *testing.T) (*authority, string) {
	t.Helper()
	dir := t.TempDir()
	a, err := loadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a, filepath.Join(dir, authorityFile)
}

func TestMutualTLS(t *testing.T) {
	ours, path := newAuthority(t)
	other, _ := newAuthority(t)
	bundle, err := ours.forHive("hive_a")
	if err != nil {
		t.Fatal(err)
	}
	server, err := hiveapi.ServerTLS(bundle)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"status":"ok","id":"hive_a"}`)) }))
	srv.TLS = server
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	stolen, err := tls.X509KeyPair(bundle, bundle)
	if err != nil {
		t.Fatal(err)
	}
	asHive, none := ours.config("hive_a"), ours.config("hive_a")
	asHive.Certificates, none.Certificates = []tls.Certificate{stolen}, nil
	foreign := ours.config("hive_a")
	foreign.Certificates = []tls.Certificate{other.client}
	again, err := loadAuthority(filepath.Dir(path)) // a queen that was restarted
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		config *tls.Config
		words  string // "" = it works
	}{
		"ours":                     {ours.config("hive_a"), ""},
		"ours after a restart":     {again.config("hive_a"), ""},
		"another hive's id":        {ours.config("hive_b"), "did not make for it"},
		"another queen":            {other.config("hive_a"), "did not make for it"},
		"no certificate":           {none, "refuses this queen's certificate"},
		"another queen's":          {foreign, "refuses this queen's certificate"},
		"a hive's own certificate": {asHive, "refuses this queen's certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := hiveapi.New(srv.Listener.Addr().String(), "token", hiveapi.Options{TLS: tc.config})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			h, err := c.Health(context.Background())
			switch {
			case tc.words == "" && (err != nil || h.ID != "hive_a"):
				t.Errorf("%+v %v", h, err)
			case tc.words != "" && (!errors.Is(err, hiveapi.ErrCertificate) || !strings.Contains(err.Error(), tc.words)):
				t.Errorf("%v, want %q", err, tc.words)
			}
		})
	}
}

func TestAuthorityFile(t *testing.T) {
	a, path := newAuthority(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	if _, err := a.cert.Verify(x509.VerifyOptions{Roots: a.config("x").RootCAs}); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := loadAuthority(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by others: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("nonsense"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadAuthority(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("damaged: %v", err)
	}
	for name, bundle := range map[string]string{"empty": "", "words": "certificate", "no authority": string(a.pem)} {
		if _, err := hiveapi.ServerTLS([]byte(bundle)); err == nil {
			t.Errorf("a hive took %s", name)
		}
	}
	c := NetworkConfig{Name: "x", Target: SSHTarget{Host: "h"}, Direct: true}
	if err := c.check(); err == nil || !strings.Contains(err.Error(), "no address") {
		t.Errorf("direct without an address: %v", err)
	}
}
