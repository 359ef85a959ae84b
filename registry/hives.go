package registry

import (
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Put adds a hive or changes the configuration of one, durably: Mode, Address, SSH, Labels and Budget
// come from h; what the hive said about itself is kept. It is idempotent. A name that is held by
// another machine is ErrConflict: remove that hive first.
func (r *Registry) Put(ctx context.Context, h Hive) error {
	if err := checkHive(&h); err != nil {
		return err
	}
	r.config.Lock()
	defer r.config.Unlock()
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return &Error{Kind: ErrClosed, Subject: h.Name, Message: "the queen is stopping"}
	}
	old, exists := r.hiveLocked(h.Name)
	r.mu.Unlock()
	if exists && !sameMachine(old, &h) {
		return &Error{Kind: ErrConflict, Subject: h.Name, Message: fmt.Sprintf(
			"this name belongs to the hive at %s; remove that one first or choose another name", old.where())}
	}
	next := h.Clone()
	if exists {
		next = old.Clone()
		configure(&next, h.Clone())
	} else if next.Status == "" {
		next.Status = StatusOffline
	}
	if err := r.store.SaveHive(ctx, next); err != nil {
		return fmt.Errorf("registry: save hive %s: %w", h.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.hiveLocked(h.Name); ok { // it may have spoken meanwhile
		c := now.Clone()
		configure(&c, h.Clone())
		next = c
	}
	r.setHiveLocked(&next, exists)
	return nil
}

func configure(h *Hive, c Hive) {
	h.Mode, h.SSH, h.Labels, h.Budget = c.Mode, c.SSH, c.Labels, c.Budget
	if c.Address != "" {
		h.Address = c.Address
	}
}

// sameMachine compares the configured targets. A local hive's address changes with every start, and
// so may that of one behind SSH: those are not identity.
func sameMachine(a, b *Hive) bool {
	if a.Mode != b.Mode {
		return false
	}
	if a.Mode == ModeLocal {
		return true
	}
	if a.SSH != nil || b.SSH != nil {
		return a.SSH.same(b.SSH)
	}
	return a.Address == "" || b.Address == "" || a.Address == b.Address
}

func (h *Hive) where() string {
	switch {
	case h.SSH != nil:
		port := h.SSH.Port
		if port == 0 {
			port = 22
		}
		return fmt.Sprintf("%s@%s:%d", h.SSH.User, h.SSH.Host, port)
	case h.Mode == ModeLocal:
		return "this machine"
	case h.Address != "":
		return h.Address
	}
	return "an unknown address"
}

// Remove forgets a hive and its workers, durably.
func (r *Registry) Remove(ctx context.Context, name string) error {
	r.config.Lock()
	defer r.config.Unlock()
	r.mu.Lock()
	_, ok := r.hiveLocked(name)
	r.mu.Unlock()
	if !ok {
		return unknownHive(name)
	}
	if err := r.store.DeleteHive(ctx, name); err != nil {
		return fmt.Errorf("registry: delete hive %s: %w", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unsaved, name)
	i, ok := findHive(r.hives, name)
	if !ok {
		return nil
	}
	h := r.hives[i]
	kept := make([]*Hive, 0, len(r.hives)-1)
	kept = append(append(kept, r.hives[:i]...), r.hives[i+1:]...)
	r.hives, r.sharedH = kept, false
	r.dropWorkersLocked(name, func(w *Worker) bool { return !w.External })
	r.changedLocked(Change{Kind: HiveRemoved, ID: name, Hive: h})
	return nil
}

// SetStatus records the queen's judgement of a hive. StatusDraining is the same as SetDraining(true);
// while a hive drains, online shows as draining.
func (r *Registry) SetStatus(name string, status Status, message string) error {
	if !status.valid() {
		return invalid(name, fmt.Sprintf("%q is no status of a hive", status))
	}
	return r.edit(name, func(h *Hive) bool {
		if status == StatusDraining {
			h.Draining = true
		} else if status == StatusOnline && h.Draining {
			status = StatusDraining
		}
		same := h.Status == status && h.Message == message
		h.Status, h.Message = status, message
		return !same
	})
}

// SetDraining starts or ends the draining of a hive: nothing new is sent there, what runs goes on.
// It is durable when it returns, and a hive that drains still drains after a restart.
func (r *Registry) SetDraining(ctx context.Context, name string, draining bool) error {
	if err := r.edit(name, func(h *Hive) bool {
		same := h.Draining == draining
		h.Draining = draining
		if draining && h.Status == StatusOnline {
			h.Status = StatusDraining
		} else if !draining && h.Status == StatusDraining {
			h.Status = StatusOnline
		}
		return !same
	}); err != nil {
		return err
	}
	return r.flush(ctx)
}

// SetAddress records where a hive answers now, as its starter found out.
func (r *Registry) SetAddress(name, address string) error {
	return r.edit(name, func(h *Hive) bool {
		same := h.Address == address
		h.Address = address
		return !same
	})
}

// edit changes a copy of a hive's record; change says whether anything did.
func (r *Registry) edit(name string, change func(*Hive) bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.hiveLocked(name)
	if !ok {
		return unknownHive(name)
	}
	next := *old // what change sets are plain fields; shared maps and slices stay as they are
	if change(&next) {
		r.setHiveLocked(&next, true)
	}
	return nil
}

func checkHive(h *Hive) error {
	if err := checkName(h.Name); err != nil {
		return err
	}
	if h.Mode == "" {
		h.Mode = ModeLocal
		if h.SSH != nil || h.Address != "" {
			h.Mode = ModeNetwork
		}
	}
	if h.Mode != ModeLocal && h.Mode != ModeNetwork {
		return invalid(h.Name, fmt.Sprintf("mode %q is neither local nor network", h.Mode))
	}
	if h.Mode == ModeLocal && h.SSH != nil {
		return invalid(h.Name, "a local hive has no SSH target; use mode network")
	}
	if h.SSH != nil {
		t := h.SSH
		if t.Host == "" || strings.HasPrefix(t.Host, "-") || strings.HasPrefix(t.User, "-") || !plain(t.Host) || !plain(t.User) {
			return invalid(h.Name, "the SSH target needs a host, and neither host nor user may begin with `-` or hold blanks, quotes or control characters")
		}
		if t.Port < 0 || t.Port > 65535 {
			return invalid(h.Name, fmt.Sprintf("port %d is out of range", t.Port))
		}
	}
	if h.Budget < 0 || h.Budget > 1 {
		return invalid(h.Name, "the budget is a share between 0 and 1")
	}
	if h.Status != "" && !h.Status.valid() {
		return invalid(h.Name, fmt.Sprintf("%q is no status of a hive", h.Status))
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > 128 || !utf8.ValidString(name) || strings.HasPrefix(name, "-") || !plain(name) || strings.Contains(name, "/") {
		return invalid(fmt.Sprintf("%.64q", name), "a name has 1 to 128 characters, does not begin with `-` and holds no blanks, slashes, quotes or control characters")
	}
	return nil
}

func plain(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return unicode.IsSpace(c) || unicode.IsControl(c) || strings.ContainsRune("'\"`$;&|<>(){}\\", c)
	})
}
