package hiveapi

import (
	"context"
	"net/http"
	"net/url"
)

// CancelProvision ends a download for all who wait for it; what it fetched stays for the next time. One that has ended
// is left as it is.
func (c *Client) CancelProvision(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, PathProvision+"/"+url.PathEscape(id), nil, nil, nil, true)
}
