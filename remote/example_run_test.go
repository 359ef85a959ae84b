package remote_test

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	gssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"

	"github.com/queen-rbee/queen-rbee/remote"
)

func Example() {
	ctx := context.Background()
	host, key, stop := machine()
	defer stop()

	pool := remote.NewPool(remote.Options{ConfigFile: remote.None, AgentSocket: remote.None})
	defer func() { _ = pool.Close() }()
	host.Identity = key
	c, err := pool.Connect(ctx, host)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Close() }()
	out, _, exit, err := c.Run(ctx, "shout "+remote.Quote("it's me"), strings.NewReader("hello"))
	fmt.Printf("%s, exit %d, error %v\n", out, exit, err)
	// Output: shout "it's me": HELLO, exit 3, error <nil>
}

// machine is an SSH server that shouts what it reads.
func machine() (t remote.Target, keyFile string, stop func()) {
	dir, err := os.MkdirTemp("", "remote")
	if err != nil {
		panic(err)
	}
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		panic(err)
	}
	keyFile = filepath.Join(dir, "id")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(block), 0o600); err != nil {
		panic(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		panic(err)
	}
	srv := &gssh.Server{
		Handler: func(s gssh.Session) {
			in, _ := io.ReadAll(s)
			fmt.Fprintf(s, "%s %q: %s", s.Command()[0], s.Command()[1], strings.ToUpper(string(in)))
			_ = s.Exit(3)
		},
		PublicKeyHandler: func(gssh.Context, gssh.PublicKey) bool { return true },
	}
	srv.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = srv.Serve(l) }()
	t = remote.Target{User: "me", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, HostKey: ssh.FingerprintSHA256(signer.PublicKey())}
	return t, keyFile, func() { _ = srv.Close(); _ = os.RemoveAll(dir) }
}
