package sserelay

import (
	"bytes"
	"context"
	"strings"
)

// blockData returns the data of an event block: the value of its data lines joined with LF. It allocates only when
// there are several.
func blockData(block []byte) []byte {
	var first, all []byte
	lines := 0
	for rest := block; len(rest) > 0; {
		line := rest
		if i := lineEnd(rest); i >= 0 {
			line, rest = rest[:i], rest[i+1:]
		} else {
			rest = nil
		}
		value, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue
		}
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
		switch lines++; lines {
		case 1:
			first = value
			continue
		case 2:
			all = append(all, first...)
		}
		all = append(append(all, '\n'), value...)
	}
	if lines > 1 {
		return all
	}
	return first
}

// token is what a token event of the execute protocol holds, raw.
type token struct {
	text  []byte
	index []byte
	delta []byte
	n     int
}

func parseToken(data []byte) (t token, ok bool) {
	t.n = 1
	ok = eachField(data, func(k, v []byte) bool {
		switch string(k) {
		case "t":
			t.text = v
		case "i":
			t.index = v
		case "n":
			t.n = number(v)
		case "delta":
			if isFilled(v) {
				t.delta = v
			}
		}
		return true
	})
	return t, ok
}

// seam joins a later worker's text to what was emitted before it.
type seam struct {
	first   ident
	stop    []string
	tail    string // the last bytes before the seam, as long as a stop string could need
	fresh   string // what came after it, until no stop string can reach back any more
	longest int
}

func (s *Stream) newSeam(ctx context.Context, c *Continuation) *seam {
	s.wmu.Lock()
	m := &seam{first: s.state.opening.ident()}
	s.wmu.Unlock()
	for _, stop := range c.Stop {
		if stop != "" {
			m.stop = append(m.stop, stop)
			m.longest = max(m.longest, len(stop))
		}
	}
	if m.longest > 1 {
		text, _, _ := s.prefix(ctx)
		m.tail = text[max(0, len(text)-m.longest+1):]
	}
	return m
}

// add looks for a stop string that begins before the seam. hit says that one was found; cut is the part of the new
// text that comes before it.
func (m *seam) add(raw []byte) (cut string, hit bool) {
	if m.tail == "" || len(m.fresh) >= m.longest {
		return "", false
	}
	text := unquote(raw)
	before := len(m.fresh)
	m.fresh += text
	all := m.tail + m.fresh
	at := -1
	for _, stop := range m.stop {
		if i := strings.Index(all, stop); i >= 0 && i < len(m.tail) && (at < 0 || i < at) {
			at = i
		}
	}
	if at < 0 {
		return "", false
	}
	if keep := at - len(m.tail) - before; keep > 0 {
		return text[:keep], true
	}
	return "", true
}

// edit replaces bytes [from, to) of an event's data.
type edit struct {
	from, to int
	with     []byte
}

// patch rewrites an event: the first stream's identity, no second role, summed usage, no injected fields. It returns
// the new block, or drop when nothing is left of it.
func (c *copier) patch(ev *Event, ch *chunk, flags *uint8) (block []byte, drop bool) {
	var edits [8]edit
	list := edits[:0]
	at := func(v []byte) int { return cap(ev.Data) - cap(v) }
	replace := func(v, with []byte) {
		if v != nil && with != nil && !bytes.Equal(v, with) {
			list = append(list, edit{at(v), at(v) + len(v), with})
		}
	}
	if c.seam != nil {
		replace(ch.id, c.seam.first.id)
		replace(ch.created, c.seam.first.created)
		replace(ch.model, c.seam.first.model)
		if ch.choice.role != nil && ch.choice.empty() && len(ch.choice.finish) == 0 {
			return nil, true
		}
		list = c.cutMember(ev.Data, list, ch.choice.role)
		if ch.usage != nil {
			replace(ch.usage, c.sumUsage(ch.usage))
		}
		if cut, hit := c.seam.add(ch.choice.text); hit {
			c.out.Finish, c.ended = "stop", true
			if cut == "" {
				return nil, true
			}
			replace(ch.choice.text, quote(nil, cut))
		}
	}
	if c.o.StripVerbose {
		list = c.cutMember(ev.Data, list, ch.verbose)
		list = c.cutMember(ev.Data, list, ch.tokens)
	}
	if len(list) == 0 {
		return ev.Raw, false
	}
	return c.apply(ev, list), false
}

// cutMember removes an object member with its key and one comma.
func (c *copier) cutMember(data []byte, list []edit, val []byte) []edit {
	if val == nil {
		return list
	}
	from := cap(data) - cap(val)
	to := from + len(val)
	from = bytes.LastIndexByte(data[:from], ':')
	from = bytes.LastIndexByte(data[:from], '"')
	from = bytes.LastIndexByte(data[:from], '"') // keys that are cut hold no escapes
	i := from - 1
	for i >= 0 && (data[i] == ' ' || data[i] == '\n') {
		i--
	}
	if i >= 0 && data[i] == ',' {
		return append(list, edit{i, to, nil})
	}
	if j := skipSpace(data, to); j < len(data) && data[j] == ',' {
		to = skipSpace(data, j+1)
	}
	return append(list, edit{from, to, nil})
}

// apply writes the edited data as a block of one data line, with the event's name if it has one.
func (c *copier) apply(ev *Event, list []edit) []byte {
	for i := 1; i < len(list); i++ { // at most eight: insertion sort
		for k := i; k > 0 && list[k].from < list[k-1].from; k-- {
			list[k], list[k-1] = list[k-1], list[k]
		}
	}
	b := c.scratch[:0]
	if len(ev.Type) > 0 {
		b = append(append(append(b, "event: "...), ev.Type...), '\n')
	}
	b = append(b, "data: "...)
	pos := 0
	for _, e := range list {
		if e.from < pos {
			continue
		}
		b = append(oneLine(b, ev.Data[pos:e.from]), e.with...)
		pos = e.to
	}
	b = append(oneLine(b, ev.Data[pos:]), '\n')
	c.scratch = b
	return b
}

// sumUsage rewrites a later worker's usage: what earlier workers generated moves from its prompt to the output.
func (c *copier) sumUsage(raw []byte) []byte {
	prompt := max(0, number(member(raw, "prompt_tokens"))-c.base)
	output := number(member(raw, "completion_tokens")) + c.base
	return appendUsage(nil, prompt, output, min(prompt, c.use.cached))
}
