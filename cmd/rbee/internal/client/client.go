// Package client speaks HTTP to a queen.
package client

import (
	"bytes"
	"context"
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

// New takes the address and key from the arguments, RBEE_URL and RBEE_KEY, or ~/.config/rbee/config.yaml.
func New(base, key string) (*Client, error) {
	var file struct {
		URL string `yaml:"url"`
		Key string `yaml:"key"`
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
			return nil, fmt.Errorf("%s: it may have url: and key: %w", path, err)
		}
	}
	c := &Client{Base: first(base, os.Getenv("RBEE_URL"), file.URL, DefaultURL), Key: first(key, os.Getenv("RBEE_KEY"), file.Key)}
	u, err := url.Parse(c.Base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("the queen's address %q is not http://HOST:PORT", c.Base)
	}
	c.Base = strings.TrimSuffix(c.Base, "/")
	c.HTTP = &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// ConfigFile is where a person keeps the queen's address and key: rbee/config.yaml in $XDG_CONFIG_HOME or ~/.config.
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
