package sserelay

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// ParserOptions bound a Parser. The zero value is usable.
type ParserOptions struct {
	MaxLine  int    // longest line in bytes, 0 = 1 MiB
	MaxEvent int    // longest event in bytes, 0 = 2 MiB
	Before   func() // called before each read that may block; may be nil
}

// Event is one dispatched event. Its slices are valid until the next call of Next.
type Event struct {
	Type []byte // the event field; empty means "message"
	Data []byte // the data lines joined with LF
	ID   string // the last event id of the stream so far
	Raw  []byte // the event's own lines with their line ends, without the closing blank line
}

// Parser reads Server-Sent Events as the WHATWG HTML standard defines them: lines end with CR, LF or CRLF, split
// anywhere; one byte-order mark at the start is skipped; comments and unknown fields are ignored; an event
// without a closing blank line at the end of the stream is dropped. Invalid UTF-8 is passed on as it is.
type Parser struct {
	r         io.Reader
	o         ParserOptions
	buf       []byte
	start     int // first byte of the block being parsed
	pos       int // first byte that was not scanned yet
	line      int // first byte of the current line
	skipLF    bool
	hungry    bool // the last read filled the buffer: a larger one saves reads
	bomDone   bool
	cr        bool // there may be a CR in what was not scanned yet
	err       error
	again     bool               // Next goes on with the block that it left at errAgain
	polled    bool               // the reader gives nothing and no error instead of waiting
	lend      *Hub               // where buf comes from, when polled, or when much came
	large     *Hub               // the same, before much came
	try       func(p []byte) int // reads what there is, if anything; nil, or 0: ask Before and wait
	box       *[]byte
	dead      error  // a bound was exceeded: nothing more is parsed
	data      []byte // joined data lines, used when there is more than one
	dataLines int
	dataOff   int // the only data line's value, relative to start
	dataLen   int
	typeOff   int
	typeLen   int
	lastID    string
	retry     time.Duration
	ev        Event // the last one
}

const (
	firstBuffer = 1 << 10
	lentBuffer  = 64 << 10 // beyond it only a long event makes the buffer grow
)

// NewParser reads events from r.
func NewParser(r io.Reader, o ParserOptions) *Parser {
	if o.MaxLine <= 0 {
		o.MaxLine = 1 << 20
	}
	if o.MaxEvent <= 0 {
		o.MaxEvent = 2 << 20
	}
	return &Parser{r: r, o: o, lastID: ""}
}

// Retry returns the last reconnection time that the stream asked for, 0 if none.
func (p *Parser) Retry() time.Duration { return p.retry }

// Pending returns the bytes of an event that was not closed by a blank line; useful after Next returned io.EOF.
func (p *Parser) Pending() []byte { return p.buf[p.start:] }

// Next returns the next event. At the end of the stream it returns io.EOF, also when the stream ended inside an
// event; a *LimitError when a bound is exceeded; else the reader's error.
func (p *Parser) Next() (Event, error) {
	ev, err := p.next()
	if err != nil {
		return Event{}, err
	}
	return *ev, nil
}

// next is Next without a copy of the event.
func (p *Parser) next() (*Event, error) {
	if p.dead != nil {
		return nil, p.dead
	}
	if !p.again {
		p.reset(p.pos)
	}
	p.again = false
	for {
		if ok, err := p.scan(); ok || err != nil {
			return &p.ev, err
		}
		if p.err != nil {
			return nil, p.err
		}
		switch err := p.fill(); {
		case err == nil:
		case errors.Is(err, errAgain):
			p.again = true
			p.giveBack()
			return nil, errAgain
		case err != nil:
			p.err = err
		}
	}
}

// errAgain says that a polled reader has nothing now.
var errAgain = errors.New("nothing to read now")

// poll has the parser ask for nothing that would have to be waited for, and hold a buffer of the hub's only while there is
// something in it.
func (p *Parser) poll(h *Hub) {
	p.polled, p.lend = true, h
	if old, box := p.buf, p.box; cap(old) < lentBuffer {
		p.take()
		p.buf = append(p.buf, old...)
		if p.large != nil {
			p.large = nil
			h.putFirst(box)
		}
	}
}

// giveBack lets go of an empty buffer.
func (p *Parser) giveBack() {
	if p.start == len(p.buf) && len(p.data) == 0 {
		p.release()
		p.start, p.pos, p.line = 0, 0, 0
	}
}

// release lets go of the buffer, and of the event in it.
func (p *Parser) release() {
	switch {
	case p.box == nil:
	case p.lend != nil:
		*p.box = (*p.box)[:0]
		p.lend.reads.Put(p.box)
	default:
		p.large.putFirst(p.box)
	}
	p.box, p.buf, p.data, p.ev = nil, nil, nil, Event{} // an event would keep a buffer alive that is everybody's
}

// take gets a buffer for a parser that has none.
func (p *Parser) take() {
	p.box, _ = p.lend.reads.Get().(*[]byte)
	if p.box == nil {
		b := make([]byte, 0, lentBuffer)
		p.box = &b
	}
	p.buf = (*p.box)[:0]
}

// takeFirst gets the buffer that a parser begins with.
func (p *Parser) takeFirst() {
	p.box, _ = p.large.firsts.Get().(*[]byte)
	if p.box == nil {
		b := make([]byte, 0, firstBuffer)
		p.box = &b
	}
	p.buf = *p.box
}

// putFirst takes it back.
func (h *Hub) putFirst(box *[]byte) {
	if box != nil {
		h.firsts.Put(box)
	}
}

// reset begins a new block at offset at.
func (p *Parser) reset(at int) {
	p.start, p.line, p.pos = at, at, at
	p.dataLines, p.dataOff, p.dataLen = 0, 0, 0
	p.typeOff, p.typeLen = 0, 0
	p.data = p.data[:0]
	if p.start == len(p.buf) {
		p.buf = p.buf[:0]
		p.start, p.line, p.pos = 0, 0, 0
	}
}

// fill makes room and reads once.
func (p *Parser) fill() error {
	switch {
	case p.buf != nil:
	case p.lend != nil:
		p.take()
	case p.large != nil:
		p.takeFirst()
	}
	full := len(p.buf) == cap(p.buf)
	if full && p.start > 0 && (!p.hungry || cap(p.buf) >= lentBuffer) {
		n := copy(p.buf, p.buf[p.start:])
		p.buf = p.buf[:n]
		p.line -= p.start
		p.pos -= p.start
		p.start = 0
	}
	if len(p.buf) == cap(p.buf) && p.large != nil && cap(p.buf) >= firstBuffer && cap(p.buf) < lentBuffer {
		rest, box := p.buf[p.start:], p.box
		p.lend, p.large, p.box = p.large, nil, nil
		p.take()
		p.buf = append(p.buf, rest...)
		p.lend.putFirst(box)
		p.line -= p.start
		p.pos -= p.start
		p.start = 0
	}
	if len(p.buf) == cap(p.buf) {
		next := make([]byte, len(p.buf)-p.start, max(firstBuffer, 2*cap(p.buf)))
		copy(next, p.buf[p.start:])
		p.buf, p.box = next, nil
		p.line -= p.start
		p.pos -= p.start
		p.start = 0
	}
	if p.try != nil {
		if n := p.try(p.buf[len(p.buf):cap(p.buf)]); n > 0 {
			p.got(n)
			return nil
		}
	}
	if p.o.Before != nil {
		p.o.Before()
	}
	for empty := 0; ; empty++ {
		n, err := p.r.Read(p.buf[len(p.buf):cap(p.buf)])
		p.got(n)
		switch {
		case n > 0 && err != nil:
			p.err = err // reported after what came with it
			return nil
		case n > 0:
			return nil
		case err != nil:
			return err
		case p.polled:
			return errAgain
		case empty > 100:
			return io.ErrNoProgress
		}
	}
}

// got takes in n bytes that were read to the end of the buffer.
func (p *Parser) got(n int) {
	if p.pos == len(p.buf) {
		p.cr = false
	}
	come := p.buf[len(p.buf) : len(p.buf)+n]
	p.cr = p.cr || bytes.IndexByte(come, '\r') >= 0
	p.buf = p.buf[:len(p.buf)+n]
	p.hungry = len(p.buf) == cap(p.buf)
}

// scan looks at what is buffered for the end of the current block, and makes the event where it is there.
func (p *Parser) scan() (bool, error) {
	if !p.bomDone && !p.skipBOM() {
		return false, nil
	}
	for {
		if p.skipLF && p.pos < len(p.buf) {
			p.swallowLF()
		}
		i := p.lineEnd()
		if i < 0 {
			p.pos = len(p.buf)
			return false, p.checkBounds()
		}
		end := p.pos + i
		if end-p.line > p.o.MaxLine {
			return false, p.fail(&LimitError{What: "a line", Limit: p.o.MaxLine})
		}
		blank := end == p.line
		if !blank {
			p.field(p.buf[p.line:end])
		}
		blockEnd := p.line
		p.skipLF = p.buf[end] == '\r'
		p.pos, p.line = end+1, end+1
		if p.skipLF && p.pos < len(p.buf) {
			p.swallowLF()
		}
		if !blank {
			if p.pos-p.start > p.o.MaxEvent {
				return false, p.fail(&LimitError{What: "an event", Limit: p.o.MaxEvent})
			}
			continue
		}
		if p.dataLines == 0 {
			p.reset(p.pos)
			continue
		}
		p.event(blockEnd)
		return true, nil
	}
}

// swallowLF drops the LF of a CRLF whose CR ended the line before.
func (p *Parser) swallowLF() {
	p.skipLF = false
	if p.buf[p.pos] != '\n' {
		return
	}
	p.pos++
	p.line = p.pos
	if p.start == p.pos-1 { // the CR closed the block before this one
		p.start = p.pos
	}
}

func (p *Parser) event(blockEnd int) {
	ev := &p.ev
	ev.ID, ev.Raw = p.lastID, p.buf[p.start:blockEnd]
	ev.Type = p.buf[p.start+p.typeOff : p.start+p.typeOff+p.typeLen]
	if p.dataLines == 1 {
		ev.Data = p.buf[p.start+p.dataOff : p.start+p.dataOff+p.dataLen]
	} else {
		ev.Data = p.data
	}
}

func (p *Parser) fail(err error) error {
	p.dead = err
	return err
}

func (p *Parser) checkBounds() error {
	if len(p.buf)-p.line > p.o.MaxLine {
		return p.fail(&LimitError{What: "a line", Limit: p.o.MaxLine})
	}
	if len(p.buf)-p.start > p.o.MaxEvent {
		return p.fail(&LimitError{What: "an event", Limit: p.o.MaxEvent})
	}
	return nil
}

// skipBOM reports whether enough bytes came to decide about a byte-order mark.
func (p *Parser) skipBOM() bool {
	const bom = "\xef\xbb\xbf"
	have := p.buf[p.start:]
	if len(have) < len(bom) && bytes.HasPrefix([]byte(bom), have) && p.err == nil {
		return false
	}
	p.bomDone = true
	if bytes.HasPrefix(have, []byte(bom)) {
		p.start += len(bom)
		p.line, p.pos = p.start, p.start
	}
	return true
}

// field interprets one line that is not blank.
func (p *Parser) field(line []byte) {
	if bytes.HasPrefix(line, []byte("data: ")) {
		p.addData(line[len("data: "):])
		return
	}
	name, value := line, line[len(line):]
	if i := bytes.IndexByte(line, ':'); i >= 0 {
		if i == 0 {
			return // a comment
		}
		name, value = line[:i], line[i+1:]
		if len(value) > 0 && value[0] == ' ' {
			value = value[1:]
		}
	}
	switch string(name) {
	case "data":
		p.addData(value)
	case "event":
		p.typeOff, p.typeLen = p.offset(value), len(value)
	case "id":
		if bytes.IndexByte(value, 0) < 0 && string(value) != p.lastID {
			p.lastID = string(value)
		}
	case "retry":
		p.setRetry(value)
	}
}

// offset returns where value, which aliases buf, begins relative to the block.
func (p *Parser) offset(value []byte) int { return cap(p.buf) - cap(value) - p.start }

func (p *Parser) addData(value []byte) {
	p.dataLines++
	switch p.dataLines {
	case 1:
		p.dataOff, p.dataLen = p.offset(value), len(value)
		return
	case 2:
		first := p.buf[p.start+p.dataOff:]
		p.data = append(p.data[:0], first[:p.dataLen]...)
	}
	p.data = append(p.data, '\n')
	p.data = append(p.data, value...)
}

func (p *Parser) setRetry(value []byte) {
	if len(value) == 0 || len(value) > 9 {
		return
	}
	n := 0
	for _, c := range value {
		if c < '0' || c > '9' {
			return
		}
		n = n*10 + int(c-'0')
	}
	p.retry = time.Duration(n) * time.Millisecond
}

// lineEnd returns how far the first CR or LF is from pos, -1 when there is none.
func (p *Parser) lineEnd() int {
	b := p.buf[p.pos:]
	switch {
	case len(b) > 0 && b[0] == '\n': // most often the blank line of an event
		return 0
	case p.cr:
		return lineEnd(b)
	}
	return bytes.IndexByte(b, '\n')
}

// lineEnd returns the index of the first CR or LF.
func lineEnd(b []byte) int {
	lf := bytes.IndexByte(b, '\n')
	head := b
	if lf >= 0 {
		head = b[:lf]
	}
	if cr := bytes.IndexByte(head, '\r'); cr >= 0 {
		return cr
	}
	return lf
}

// errStop ends a journal read early.
var errStop = errors.New("stop reading")
