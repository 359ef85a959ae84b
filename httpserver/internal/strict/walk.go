package strict

// Elements calls fn for each element of a raw array that is known to be valid; it reports false when raw is no array
// or fn returned false.
func Elements(raw []byte, fn func(value []byte) bool) bool {
	if len(raw) == 0 || raw[0] != '[' {
		return false
	}
	s := scanner{b: raw, i: 1, depth: 1 << 30}
	s.space()
	if s.i < len(raw) && raw[s.i] == ']' {
		return true
	}
	for s.i < len(raw) {
		from := s.i
		if s.value(0) != nil || !fn(raw[from:s.i:s.i]) {
			return false
		}
		s.space()
		if s.i >= len(raw) || raw[s.i] == ']' {
			return true
		}
		s.i++ // ,
		s.space()
	}
	return false
}

// Members calls fn for each member of a raw object that is known to be valid.
func Members(raw []byte, fn func(key, value []byte) bool) bool {
	if len(raw) == 0 || raw[0] != '{' {
		return false
	}
	s := scanner{b: raw, depth: 1 << 30}
	stopped := false
	err := s.object(1, func(k, v []byte) error {
		if !fn(k, v) {
			stopped = true
			return errStop
		}
		return nil
	})
	return err == nil && !stopped
}

var errStop = &Error{Reason: "stopped"}
