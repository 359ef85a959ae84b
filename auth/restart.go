package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"
)

// RestartAudit puts a log that does not match its anchor aside, as evidence, and begins a new one whose first entry says
// so: by whom, where the old log is kept, and what its anchor was. A log that does match is left alone and aside is "".
func RestartAudit(ctx context.Context, path, by string, store Store, now func() time.Time) (a *Audit, aside string, err error) {
	if now == nil {
		now = time.Now
	}
	a, err = OpenAudit(ctx, path, store, now)
	if !errors.Is(err, ErrTampered) {
		return a, "", err
	}
	reason := errors.Unwrap(err)
	anchor, err := store.AuditHead(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("auth: read audit head: %w", err)
	}
	aside = path + ".tampered-" + now().UTC().Format("20060102T150405.000Z")
	if err := os.Rename(path, aside); err != nil {
		return nil, "", fmt.Errorf("auth: put the audit log aside: %w", err)
	}
	if err := store.SetAuditHead(ctx, Head{}); err != nil {
		return nil, aside, fmt.Errorf("auth: anchor audit head: %w", err)
	}
	if a, err = OpenAudit(ctx, path, store, now); err != nil {
		return nil, aside, err
	}
	err = a.Record(ctx, Entry{Actor: by, Action: "audit.restart", Object: aside,
		Detail: fmt.Sprintf("%v; its anchor: %d entries, %s", reason, anchor.Entries, hex.EncodeToString(anchor.Hash[:]))})
	if err != nil {
		_ = a.Close()
		return nil, aside, err
	}
	return a, aside, nil
}
