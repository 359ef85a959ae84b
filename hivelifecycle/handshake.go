package hivelifecycle

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// caller makes the few calls of the hive's HTTP API that its life needs.
type caller struct {
	addr, id, token string
	dial            dialFunc
	tls             *tls.Config
}

func callerOf(ep Endpoint) caller {
	return caller{addr: ep.Address, id: ep.ID, token: ep.Token, dial: ep.Dial, tls: ep.TLS}
}

func (c caller) with(ctx context.Context, f func(context.Context, *hiveapi.Client) error) error {
	cl, err := hiveapi.New(c.addr, c.token, hiveapi.Options{Dial: c.dial, TLS: c.tls})
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }()
	return f(ctx, cl)
}

// handshake challenges whatever answers at the address. The token is never sent before the answer was right.
func (c caller) handshake(ctx context.Context) (h hiveapi.Health, err error) {
	err = c.with(ctx, func(ctx context.Context, cl *hiveapi.Client) error {
		h, err = cl.Handshake(ctx, c.id)
		return err
	})
	if errors.Is(err, hiveapi.ErrHandshake) || errors.Is(err, hiveapi.ErrProtocol) || errors.Is(err, hiveapi.ErrCertificate) {
		err = fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return h, err
}

// shake repeats the handshake until it succeeds, is answered wrongly, or patience ends.
func (c caller) shake(ctx context.Context, patience time.Duration) (hiveapi.Health, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		h, err := c.handshake(ctx)
		if err == nil || errors.Is(err, ErrHandshake) {
			return h, err
		}
		if !sleep(ctx, 25*time.Millisecond) {
			return hiveapi.Health{}, err
		}
	}
}

// shutdown asks the hive to end, after it has proved who it is.
func (c caller) shutdown(ctx context.Context, keepWorkers bool) error {
	return c.with(ctx, func(ctx context.Context, cl *hiveapi.Client) error {
		if _, err := cl.Handshake(ctx, c.id); err != nil {
			return err
		}
		return cl.Shutdown(ctx, hiveapi.ShutdownRequest{KeepWorkers: keepWorkers})
	})
}

// drain waits until no worker is busy or loading, for at most d; it returns how many still were.
func (c caller) drain(ctx context.Context, d time.Duration) (busy int, err error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err = c.with(ctx, func(ctx context.Context, cl *hiveapi.Client) error {
		if _, err := cl.Handshake(ctx, c.id); err != nil {
			return err
		}
		for {
			ws, err := cl.Workers(ctx)
			if err != nil {
				return err
			}
			busy = 0
			for _, w := range ws {
				if w.State == hiveapi.WorkerBusy || w.State == hiveapi.WorkerLoading {
					busy++
				}
			}
			if busy == 0 {
				return nil
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
		}
	})
	return busy, err
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
