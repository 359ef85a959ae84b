package compose

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"
	"time"

	"github.com/queen-rbee/queen-rbee/hivelifecycle/hiveapi"
	"github.com/queen-rbee/queen-rbee/provisioner"
	"github.com/queen-rbee/queen-rbee/registry"
)

// A hive gets a model from another one through a door that the queen opens for that one download: a listener on the
// loopback of the asking hive's own machine (over its SSH connection, where it is another machine), behind which the
// queen's dialers lead to the hives that have the files. Hives need not reach each other, and none learns another's token.
type lender struct {
	log    *slog.Logger
	token  [sha256.Size]byte
	routes map[string]http.Handler // by node
}

var lentPath = regexp.MustCompile(`^/([^/]+)(/v1/files/[0-9a-f]{64})$`)

// lend opens the door. close it when the download has ended.
func (p *provHives) lend(ctx context.Context, node string, peers []provisioner.Peer) (_ []hiveapi.Source, closeDoor func(), err error) {
	secret := rand.Text()
	l := &lender{log: p.f.log, token: sha256.Sum256([]byte("Bearer " + secret)), routes: map[string]http.Handler{}}
	for _, peer := range peers {
		if link, ok := p.f.links.link(peer.Node); ok && plainNode.MatchString(peer.Node) {
			l.routes[peer.Node] = toHive(link)
		}
	}
	if len(l.routes) == 0 {
		return nil, func() {}, nil
	}
	ln, release, err := p.listen(ctx, node)
	if err != nil {
		return nil, func() {}, err
	}
	srv := &http.Server{Handler: l, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(p.f.log.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			p.f.log.Debug("lending ended", "node", node, "error", err)
		}
	}()
	var out []hiveapi.Source
	for peer := range l.routes {
		out = append(out, hiveapi.Source{URL: "http://" + ln.Addr().String() + "/" + peer, Authorization: "Bearer " + secret})
	}
	return out, func() {
		_ = srv.Close()
		<-done
		release()
	}, nil
}

// plainNode is a hive's name that can stand in a path as it is.
var plainNode = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// ServeHTTP implements http.Handler.
func (l *lender) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
	m := lentPath.FindStringSubmatch(r.URL.Path)
	switch {
	case subtle.ConstantTimeCompare(got[:], l.token[:]) != 1:
		http.Error(w, "this door is for one download of another hive", http.StatusUnauthorized)
	case m == nil || l.routes[m[1]] == nil || r.Method != http.MethodGet:
		http.NotFound(w, r)
	default:
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = m[2], "", ""
		l.routes[m[1]].ServeHTTP(w, r)
	}
}

// toHive passes requests on to a hive, over the queen's way to it.
func toHive(link *hiveLink) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", link.ep.Address, ""
			if link.ep.TLS != nil {
				r.Out.URL.Scheme = "https"
			}
			r.Out.Header = http.Header{"Authorization": {"Bearer " + link.ep.Token}}
			for _, k := range []string{"Range", "If-Range", "Accept-Encoding"} {
				if v := r.In.Header.Get(k); v != "" {
					r.Out.Header.Set(k, v)
				}
			}
		},
		Transport: &http.Transport{DialContext: link.ep.Dial, TLSClientConfig: link.ep.TLS, DisableKeepAlives: true, DisableCompression: true, ResponseHeaderTimeout: 30 * time.Second},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			http.Error(w, "hive "+link.node+" does not answer", http.StatusBadGateway)
		},
	}
}

// listenNear listens on the loopback of a hive's machine.
func (q *Queen) listenNear(ctx context.Context, node string) (_ net.Listener, release func(), err error) {
	h, ok := q.reg.Snapshot().Hive(node)
	if !ok {
		return nil, nil, errNoNode
	}
	if h.Mode != registry.ModeNetwork {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		return l, func() {}, err
	}
	client, err := q.pool.Connect(ctx, remoteTarget(q.networkConfig(h).Target))
	if err != nil {
		return nil, nil, err
	}
	l, err := client.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		_ = client.Close()
		return nil, nil, err
	}
	if host, port, err := net.SplitHostPort(l.Addr().String()); err != nil || port == "0" || strings.Trim(host, "0.:[]") == "" && host != "::1" {
		_ = l.Close()
		_ = client.Close()
		return nil, nil, errors.New("the machine's sshd does not say where it listens")
	}
	return l, func() { _ = client.Close() }, nil
}
