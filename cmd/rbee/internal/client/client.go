// Package client speaks HTTP to a queen.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// Client is one queen's address and key.
type Client struct {
	Base string
	Key  string
	HTTP *http.Client
}

// DefaultURL is where a queen listens when nobody said otherwise.
const DefaultURL = "http://127.0.0.1:7833"

// New takes the address, the key and the file with the authority of an https queen's certificate from the arguments, RBEE_URL,
// RBEE_KEY and RBEE_CA, or ~/.config/rbee/config.yaml. Without such a file the system's authorities count.
func New(base, key, ca string) (*Client, error) {
	var file struct {
		URL string `yaml:"url"`
		Key string `yaml:"key"`
		CA  string `yaml:"ca"`
	}
	if path := ConfigFile(); path != "" {
		data, err := os.ReadFile(path)
		if err == nil {
			err = yaml.UnmarshalWithOptions(data, &file, yaml.Strict())
			if errors.Is(err, io.EOF) {
				err = nil // an empty file
			}
		} else if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: it may have url:, key: and ca: %w", path, err)
		}
	}
	c := &Client{Base: first(base, os.Getenv("RBEE_URL"), file.URL, DefaultURL), Key: first(key, os.Getenv("RBEE_KEY"), file.Key)}
	u, err := url.Parse(c.Base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("the queen's address %q is not http://HOST:PORT or https://HOST:PORT", c.Base)
	}
	c.Base = strings.TrimSuffix(c.Base, "/")
	config, err := trust(first(ca, os.Getenv("RBEE_CA"), file.CA))
	if err != nil {
		return nil, err
	}
	c.HTTP = &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSClientConfig: config},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// trust makes the certificates in a PEM file the only ones that a queen's may come from; the certificate itself may be the file,
// where it signs itself.
func trust(file string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return config, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the authority's certificate can't be read: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate: --ca (RBEE_CA) takes a PEM file with the authority's", file)
	}
	return config, nil
}

// ConfigFile is where a person keeps the queen's address and key, and the authority's file: rbee/config.yaml in $XDG_CONFIG_HOME or ~/.config.
func ConfigFile() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "rbee", "config.yaml")
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// ErrUnreachable says that no queen answers at the address.
var ErrUnreachable = errors.New("the queen cannot be reached")

// APIError is the queen's own refusal.
type APIError struct {
	Status  int
	Code    string
	Message string
	Details map[string]any
}

// Error implements error.
func (e *APIError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("the queen answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

// Do sends one request; body is encoded as JSON unless nil, header are names and values. The caller closes the response.
func (c *Client) Do(ctx context.Context, method, path string, body any, accept string, header ...string) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var bad *tls.CertificateVerificationError
		if errors.As(err, &bad) {
			return nil, fmt.Errorf("%w at %s: its certificate is not trusted: give the authority's with --ca FILE (RBEE_CA), or call it by a name that it names (%w)", ErrUnreachable, c.Base, bad.Err)
		}
		return nil, fmt.Errorf("%w at %s: is it running? start one with rbee serve, or set RBEE_URL (%w)", ErrUnreachable, c.Base, err)
	}
	if res.StatusCode >= 400 {
		defer func() { _ = res.Body.Close() }()
		return nil, apiError(res)
	}
	return res, nil
}

func apiError(res *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	e := &APIError{Status: res.StatusCode, Message: strings.TrimSpace(string(data))}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Details map[string]any
		} `json:"error"`
	}
	if json.Unmarshal(data, &body) == nil && body.Error.Message != "" {
		e.Code, e.Message, e.Details = body.Error.Code, body.Error.Message, body.Error.Details
	}
	if code := res.Header.Get("X-Rbee-Error"); code != "" {
		e.Code = code
	}
	if e.Message == "" {
		e.Message = res.Status
	}
	return e
}

// JSON sends a request and decodes the answer into out, which may be nil.
func (c *Client) JSON(ctx context.Context, method, path string, body, out any) error {
	res, err := c.Do(ctx, method, path, body, "application/json")
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("the queen's answer cannot be read: %w", err)
	}
	return nil
}
