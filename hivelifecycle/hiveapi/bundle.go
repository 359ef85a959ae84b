package hiveapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// SendEngine gives the hive an archive for a package whose URL is bundle:NAME, over the connection that it has to its
// queen. It ends with ctx, however long it takes.
func (c *Client) SendEngine(ctx context.Context, name string, r io.Reader, size int64) error {
	u := *c.base
	u.Path += PathEngineBundle + url.PathEscape(name)
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), r)
	if err != nil {
		return fmt.Errorf("hiveapi: %w", err)
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Authorization", "Bearer "+c.token)
	res, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("hive at %s: %w", c.base.Host, err)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	_ = res.Body.Close()
	if res.StatusCode >= 300 {
		return errorFrom(res, b)
	}
	return err
}
