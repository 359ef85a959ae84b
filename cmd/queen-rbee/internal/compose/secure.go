package compose

import (
	"crypto/tls"
	"time"

	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/certs"
	"github.com/queen-rbee/queen-rbee/cmd/queen-rbee/internal/config"
)

// endsSoon is how long before its end a certificate is warned of; the doctor does so too.
const endsSoon = 14 * 24 * time.Hour

// openTLS reads the certificate for the listener; nil where it speaks plain HTTP.
func (q *Queen) openTLS() (*tls.Config, error) {
	if !q.cfg.TLS.On() {
		return nil, nil
	}
	k, err := certs.Open(q.cfg.TLS.Cert, q.cfg.TLS.Key)
	if err != nil {
		return nil, err
	}
	q.certs = k
	q.sayUntil("the listener speaks TLS")
	return k.Config(), nil
}

// renew takes up what the files of the certificate hold now; that TLS begins or ends has to wait for the next start.
func (q *Queen) renew(t config.TLS) error {
	if q.certs == nil || !t.On() {
		return nil
	}
	changed, err := q.certs.Renew(t.Cert, t.Key)
	if changed {
		q.sayUntil("the certificate was renewed")
	}
	return err
}

func (q *Queen) sayUntil(what string) {
	until := q.certs.Until()
	if left := time.Until(until); left < endsSoon {
		q.log.Warn(what+", with a certificate that ends soon or has ended: renew it and send SIGHUP", "until", until)
		return
	}
	q.log.Info(what, "until", until)
}
