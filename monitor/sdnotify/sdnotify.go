// Package sdnotify tells the service manager how a program is: that it serves, that it is ending, and, for as long as a check
// of the program's own says so, that it is alive. It speaks systemd's protocol (sd_notify(3)): one datagram to the
// socket that NOTIFY_SOCKET names. Without a service manager everything here does nothing.
package sdnotify

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Notifier speaks to the service manager that started this process. The nil Notifier and the zero value are silent.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// FromEnv makes a Notifier from NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and removes them from the environment, so that
// the programs that this one starts don't speak in its name.
func FromEnv() *Notifier {
	n := &Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	pid := os.Getenv("WATCHDOG_PID")
	if err == nil && usec > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails for no name of ours
	}
	return n
}

// Ready says that the program serves, with one line of status for whoever looks at the unit.
func (n *Notifier) Ready(status string) error {
	return n.send("READY=1\nSTATUS=" + oneLine(status))
}

// Stopping says that the program has begun to end.
func (n *Notifier) Stopping(status string) error {
	return n.send("STOPPING=1\nSTATUS=" + oneLine(status))
}

// Watch runs check twice in each watchdog interval until ctx ends, and says that the program is alive when it returns nil. A
// check that fails or does not return in time is passed to missed and nothing is sent: when that lasts, the service manager
// ends the program and starts it again. Watch returns at once where no watchdog was asked for.
func (n *Notifier) Watch(ctx context.Context, check func(ctx context.Context) error, missed func(error)) {
	if n == nil || n.socket == "" || n.watchdog <= 0 {
		return
	}
	half := n.watchdog / 2
	tick := time.NewTicker(half)
	defer tick.Stop()
	for {
		err := within(ctx, half, check)
		if err == nil {
			err = n.send("WATCHDOG=1")
		}
		if err != nil && ctx.Err() == nil && missed != nil {
			missed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// within runs a check that may hang for ever.
func within(ctx context.Context, limit time.Duration, check func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- check(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the check of being alive did not return within %s: %w", limit, ctx.Err())
	}
}

// send is one datagram. A name that begins with @ is in Linux' abstract space, which package net knows by the same sign.
func (n *Notifier) send(state string) error {
	if n == nil || n.socket == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

// Answers is a check for Watch: an HTTP server answers a GET of url, whatever it says. The configuration is for https; nil is
// Go's own.
func Answers(url string, config *tls.Config) func(ctx context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(r)
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
}
