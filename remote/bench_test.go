package remote

import "testing"

// BenchmarkRun is one command on a pooled connection: the cost of everything but the connecting.
func BenchmarkRun(b *testing.B) {
	s := startSSHD(b, "127.0.0.1", nil)
	c := s.client(b, Options{})
	b.Run("one", func(b *testing.B) {
		for b.Loop() {
			if _, _, _, err := c.Run(b.Context(), "true", nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.SetParallelism(4)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, _, _, err := c.Run(b.Context(), "true", nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkConnect is a whole handshake with sshd.
func BenchmarkConnect(b *testing.B) {
	s := startSSHD(b, "127.0.0.1", nil)
	for b.Loop() {
		c := s.client(b, Options{})
		_ = c.Close()
	}
}
