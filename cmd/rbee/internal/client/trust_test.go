package client

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTrust: an https queen's certificate is verified, against the file that is named or the system's authorities.
func TestTrust(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }))
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(base, file string) error {
		c, err := New(base, "", file)
		if err != nil {
			return err
		}
		return c.JSON(t.Context(), "GET", "/health", nil, nil)
	}
	if err := ask(s.URL, ca); err != nil {
		t.Errorf("with its authority: %v", err)
	}
	err := ask(s.URL, "")
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "--ca") {
		t.Errorf("with the system's: %v", err)
	}
	if err := ask(strings.Replace(s.URL, "127.0.0.1", "localhost", 1), ca); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "not trusted") {
		t.Errorf("under another name: %v", err)
	}
	t.Setenv("RBEE_CA", ca)
	if err := ask(s.URL, ""); err != nil {
		t.Errorf("by RBEE_CA: %v", err)
	}
	if err := ask(s.URL, filepath.Join(filepath.Dir(ca), "none")); err == nil || !strings.Contains(err.Error(), "can't be read") {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(ca, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(s.URL, ""); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("a file without one: %v", err)
	}
}
