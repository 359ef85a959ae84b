package hiveapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
)

// ServerTLS makes a hive's side of mutual TLS out of what its queen handed over: PEM with the hive's certificate, its
// key, and the certificate of the queen's own authority. Only a client whose certificate that authority made for
// clients is let in, so that one hive's certificate does not open another.
func ServerTLS(bundle []byte) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(bundle, bundle) // takes the key and the first certificates, the hive's own and the authority's
	if err != nil {
		return nil, fmt.Errorf("the certificate that the queen sent is damaged: %w", err)
	}
	if len(cert.Certificate) != 2 {
		return nil, fmt.Errorf("the queen sent %d certificates, not the hive's and her authority's", len(cert.Certificate))
	}
	ca, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil || !ca.IsCA {
		return nil, errors.Join(errors.New("the second certificate that the queen sent is not her authority's"), err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	cert.Certificate = cert.Certificate[:1]
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}, nil
}

// tlsFault names what went wrong with a certificate; nil when the failure was another one.
func tlsFault(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert *net.OpError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid):
		return fmt.Errorf("%w: it shows a certificate that this queen did not make for it (%v): stop what listens there, or start the hive again", ErrCertificate, err)
	case errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("%w: it refuses this queen's certificate (%v): it belongs to another queen, or her hives-ca.pem was replaced: start the hive again", ErrCertificate, err)
	case errors.As(err, &record):
		return fmt.Errorf("%w: it does not speak TLS: start the hive again, or set mtls: false for it", ErrCertificate)
	}
	return nil
}
