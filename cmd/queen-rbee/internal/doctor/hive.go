package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// skew is how far a hive's clock may be from the queen's.
const skew = 5 * time.Second

// hive examines one machine and tells which engines it has.
func (p Probes) hive(ctx context.Context, h Hive) (out []Check, engines []string) {
	c := Check{"hive " + h.Name, OK, h.Status, ""}
	switch {
	case h.Draining:
		c.Status, c.Message, c.Remedy = Warn, "draining: nothing new is sent there", "rbee hive start "+h.Name+" when it is to work again"
	case !h.Online:
		c.Status, c.Message, c.Remedy = Fail, strings.TrimSuffix(h.Status+": "+h.Message, ": "), "rbee hive start "+h.Name+", then rbee hive logs "+h.Name
	case h.DiskFree > 0 && h.DiskFree < 5<<30:
		c.Status, c.Message, c.Remedy = Warn, fmt.Sprintf("%.1f GiB of disk are free", gib(h.DiskFree)), "drop models with rbee rm, or free the disk"
	}
	out = append(out, c)
	reached := true
	if h.Network {
		key := p.hostKey(ctx, h)
		login := p.login(ctx, h)
		reached = login.Status == OK
		out = append(out, key, login)
		if reached {
			out = append(out, p.skewed(ctx, h))
		}
	}
	if reached {
		out = append(out, p.drivers(ctx, h))
	}
	if !h.Online {
		return out, nil
	}
	ask, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	engines, err := p.Engines(ask, h.Name)
	e := Check{"engines " + h.Name, OK, strings.Join(engines, ", "), ""}
	if err != nil {
		e.Status, e.Message, e.Remedy = Fail, err.Error(), "rbee hive logs "+h.Name
	}
	return append(out, e, p.ports(ctx, h)), engines
}

func (p Probes) hostKey(ctx context.Context, h Hive) Check {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	c := Check{"host key " + h.Name, OK, "", ""}
	line, fingerprint, err := p.HostKey(ctx, h.Name)
	switch {
	case err != nil:
		c.Status, c.Message, c.Remedy = Fail, err.Error(), "check that the machine is on, its name and port, and the firewall"
	case h.Pin == "":
		c.Message = fingerprint + ", checked against known_hosts at each login"
	case h.Pin == fingerprint || sameKey(h.Pin, line):
		c.Message = fingerprint + " is the pinned one"
	default: // it may have keys of several kinds: the login decides
		c.Status, c.Message = Warn, "it shows "+fingerprint+", another key is pinned"
		c.Remedy = "compare ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there; if it was set up anew: rbee hive rm " + h.Name + " and rbee hive add it again"
	}
	return c
}

// sameKey compares two public key lines without their comments.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) >= 2 && len(y) >= 2 && x[0] == y[0] && x[1] == y[1]
}

func (p Probes) login(ctx context.Context, h Hive) Check {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	if err := p.Login(ctx, h.Name); err != nil {
		return Check{"ssh " + h.Name, Fail, err.Error(), "mend what it says, then rbee hive start " + h.Name}
	}
	return Check{"ssh " + h.Name, OK, "lets the queen in", ""}
}

func (p Probes) skewed(ctx context.Context, h Hive) Check {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	before := p.Now()
	there, err := p.Clock(ctx, h.Name)
	after := p.Now()
	c := Check{"clock " + h.Name, OK, "", ""}
	if err != nil {
		return Check{c.Name, Warn, "it does not say what time it is: " + err.Error(), "see whether date works there"}
	}
	off := time.Duration(0)
	switch {
	case there.Before(before.Add(-time.Second)): // it tells whole seconds
		off = there.Sub(before)
	case there.After(after):
		off = there.Sub(after)
	}
	c.Message = fmt.Sprintf("%s from the queen's", off.Round(time.Second))
	if off > skew || off < -skew {
		c.Status, c.Remedy = Warn, "set the time there: timedatectl set-ntp true"
	}
	return c
}

// drivers looks for graphics cards that the hive can't use.
func (p Probes) drivers(ctx context.Context, h Hive) Check {
	ctx, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	c := Check{"drivers " + h.Name, OK, "", ""}
	var devices []string
	have := map[string]bool{}
	for _, d := range h.Devices {
		devices = append(devices, d.ID)
		have[d.Backend] = true
	}
	c.Message = strings.Join(devices, ", ")
	if c.Message == "" {
		c.Message = "nothing is known of its devices yet"
	}
	vendors, err := p.Cards(ctx, h.Name)
	if err != nil {
		return Check{c.Name, Warn, c.Message + "; its PCI bus can't be read: " + err.Error(), "see whether /sys is mounted there"}
	}
	for _, v := range vendors {
		switch {
		case v == "0x10de" && !have["cuda"] && !have["vulkan"]:
			c.Status, c.Message, c.Remedy = Warn, "an NVIDIA card is there, but no driver that the hive can use", "install the NVIDIA driver there (nvidia-smi must work), then rbee hive stop and start "+h.Name
		case v == "0x1002" && !have["rocm"] && !have["vulkan"]:
			c.Status, c.Message, c.Remedy = Warn, "an AMD card is there, but no driver that the hive can use", "install amdgpu and ROCm there (rocm-smi must work), then rbee hive stop and start "+h.Name
		}
	}
	return c
}

// ports asks whether the queen reaches each worker.
func (p Probes) ports(ctx context.Context, h Hive) Check {
	c := Check{"ports " + h.Name, OK, fmt.Sprintf("%d of %d workers can be reached", len(h.Workers), len(h.Workers)), ""}
	for _, id := range h.Workers {
		ask, cancel := context.WithTimeout(ctx, p.Patience)
		err := p.Port(ask, id)
		cancel()
		if err != nil {
			c.Status, c.Message = Fail, "worker "+id+": "+err.Error()
			c.Remedy = "rbee logs --worker " + id
			if h.Network {
				c.Remedy += "; sshd there needs AllowTcpForwarding yes"
			}
		}
	}
	return c
}
