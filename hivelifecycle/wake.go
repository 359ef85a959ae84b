package hivelifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// magicPacket is six bytes of ones and the hardware address sixteen times.
func magicPacket(mac net.HardwareAddr) []byte {
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac, 16)...)
}

// wakeOnLAN broadcasts the magic packet.
func wakeOnLAN(ctx context.Context, mac net.HardwareAddr) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp4", "255.255.255.255:9")
	if err != nil {
		return err
	}
	_, err = c.Write(magicPacket(mac))
	return errors.Join(err, c.Close())
}

// wake sends the packet and tries to connect until the machine answers or two minutes are over.
func (h *hive) wake(ctx context.Context, c NetworkConfig, t *host) error {
	mac, err := net.ParseMAC(c.MAC)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	h.m.event(h.name, StepWake, Begun, fmt.Sprintf("%s does not answer; waking it.", c.Target))
	for {
		if err := h.m.o.Wake(ctx, mac); err != nil {
			return h.failed(StepWake, err, "wake the machine by hand")
		}
		err = t.connect(ctx)
		if err == nil || permanent(err) {
			return err
		}
		if !sleep(ctx, 3*time.Second) {
			return err
		}
	}
}
