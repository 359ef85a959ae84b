package app

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"

	"github.com/queen-rbee/queen-rbee/monitor/sdnotify"
)

// manager tells the service manager, when there is one, how the queen is.
type manager struct {
	n    *sdnotify.Notifier
	log  *slog.Logger
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// serving says that the queen serves, and from then on that she is alive, for as long as she answers at her own address and
// her parts answer too.
func (m *manager) serving(scheme string, addr net.Addr, alive func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.told(m.n.Ready("serves at " + scheme + "://" + addr.String()))
	// She asks herself whether she answers, and believes nothing that is said: the certificate need not name the loopback.
	answers := sdnotify.Answers(scheme+"://"+reachable(addr)+"/health", &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
	m.wg.Go(func() {
		m.n.Watch(ctx, func(ctx context.Context) error {
			if err := answers(ctx); err != nil {
				return err
			}
			return alive(ctx)
		}, func(err error) {
			m.log.Error("the check of being alive failed; the service manager will act when that lasts", "error", err)
		})
	})
}

// draining says that the queen has begun to end; from here on nobody needs to know that she is alive.
func (m *manager) draining() {
	m.told(m.n.Stopping("drains"))
	if m.stop != nil {
		m.stop()
	}
}

// end waits until nothing is said any more.
func (m *manager) end() {
	if m.stop != nil {
		m.stop()
	}
	m.wg.Wait()
}

func (m *manager) told(err error) {
	if err != nil {
		m.log.Warn("the service manager was not told", "error", err)
	}
}

// reachable is an address to dial for one that was listened on: all addresses include the loopback.
func reachable(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if host = "127.0.0.1"; ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}
