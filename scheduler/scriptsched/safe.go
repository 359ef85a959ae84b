package scriptsched

import (
	"errors"
	"fmt"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

type builtin = func(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error)

// safeUniverse takes the place of what Starlark offers by default, where that could grow without bound.
func safeUniverse() starlark.StringDict {
	d := starlark.StringDict{}
	for name, fn := range map[string]builtin{
		fnBinary: opBuiltin, fnAttr: attrBuiltin, fnSlice: sliceBuiltin, fnTuple: tupleBuiltin, fnGrow: growBuiltin, fnCompare: compareBuiltin,
		"range": rangeBuiltin, "getattr": getattrBuiltin, "print": printBuiltin, "int": intBuiltin,
	} {
		d[name] = starlark.NewBuiltin(name, fn)
	}
	for _, name := range []string{"list", "tuple", "dict", "sorted", "reversed", "zip", "enumerate", "bytes"} {
		d[name] = starlark.NewBuiltin(name, copying(starlark.Universe[name].(*starlark.Builtin)))
	}
	for _, name := range []string{"min", "max"} {
		d[name] = starlark.NewBuiltin(name, comparing(starlark.Universe[name].(*starlark.Builtin)))
	}
	for _, name := range []string{"str", "repr", "fail", "hash"} {
		d[name] = starlark.NewBuiltin(name, spelling(starlark.Universe[name].(*starlark.Builtin)))
	}
	return d
}

// copying charges for copies of the arguments, and checks what tuples come out.
func copying(orig *starlark.Builtin) builtin {
	return func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		b := budgetOf(t)
		for _, a := range args {
			if err := b.charge(4 * weigh(a)); err != nil {
				return nil, err
			}
			if orig.Name() == "sorted" {
				if err := b.comparable(a); err != nil {
					return nil, err
				}
			}
		}
		v, err := starlark.Call(t, orig, args, kwargs)
		if err != nil {
			return nil, err
		}
		return v, b.flat(v)
	}
}

// flat refuses values whose tuples would take for ever to hash.
func (b *budget) flat(v starlark.Value) error {
	switch v := v.(type) {
	case starlark.Tuple:
		if n := expanded(v); n < 0 {
			return b.charge(-1)
		}
	case *starlark.List:
		for i := range v.Len() {
			if e, ok := v.Index(i).(starlark.Tuple); ok {
				if err := b.flat(e); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// spelling charges for writing the arguments out in full.
func spelling(orig *starlark.Builtin) builtin {
	return func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		for _, a := range args {
			if err := budgetOf(t).spell(a); err != nil {
				return nil, err
			}
		}
		return starlark.Call(t, orig, args, kwargs)
	}
}

// comparable refuses containers that would take for ever to compare.
func (b *budget) comparable(v starlark.Value) error {
	switch v.(type) {
	case *starlark.List, starlark.Tuple, *starlark.Dict:
		if expanded(v) < 0 {
			return b.charge(-1)
		}
	}
	return nil
}

func comparing(orig *starlark.Builtin) builtin {
	return func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		for _, a := range args {
			if err := budgetOf(t).comparable(a); err != nil {
				return nil, err
			}
		}
		return starlark.Call(t, orig, args, kwargs)
	}
}

// compareBuiltin is x op y for comparisons of what may be nested.
func compareBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	b, x, y := budgetOf(t), args[1], args[2]
	if err := errors.Join(b.comparable(x), b.comparable(y)); err != nil {
		return nil, err
	}
	var ok bool
	var err error
	switch string(args[0].(starlark.String)) {
	case "==":
		ok, err = starlark.Equal(x, y)
	case "!=":
		ok, err = starlark.Equal(x, y)
		ok = !ok
	case "<":
		ok, err = starlark.Compare(syntax.LT, x, y)
	case "<=":
		ok, err = starlark.Compare(syntax.LE, x, y)
	case ">":
		ok, err = starlark.Compare(syntax.GT, x, y)
	case ">=":
		ok, err = starlark.Compare(syntax.GE, x, y)
	case "in":
		return starlark.Binary(syntax.IN, x, y)
	default:
		v, err := starlark.Binary(syntax.IN, x, y)
		return starlark.Bool(err == nil && !bool(v.Truth())), err
	}
	return starlark.Bool(ok), err
}

var tokens = map[string]syntax.Token{"+": syntax.PLUS, "*": syntax.STAR, "%": syntax.PERCENT, "<<": syntax.LTLT, "|": syntax.PIPE}

// opBuiltin is x op y for the operators that can grow something.
func opBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	b := budgetOf(t)
	op, x, y := string(args[0].(starlark.String)), args[1], args[2]
	var err error
	switch op {
	case "*":
		err = b.product(x, y)
	case "%":
		if _, ok := x.(starlark.String); ok {
			if err = b.spell(x); err == nil {
				err = b.spell(y)
			}
		}
	default:
		if bitsOf(x) > maxIntBits || op == "<<" && bitsOf(x)+512 > maxIntBits {
			err = fmt.Errorf("an integer grows beyond %d bits", maxIntBits)
		} else if bitsOf(x) == 0 {
			err = b.charge(weigh(x) + weigh(y))
		}
	}
	if err != nil {
		return nil, err
	}
	v, err := starlark.Binary(tokens[op], x, y)
	if err != nil {
		return nil, err
	}
	return v, b.flat(v)
}

// growBuiltin stands around the right side of x += y and x |= y.
func growBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	if n := bitsOf(args[0]); n > maxIntBits {
		return nil, fmt.Errorf("an integer grows beyond %d bits", maxIntBits)
	}
	b := budgetOf(t)
	if err := b.charge(2 * weigh(args[0])); err != nil {
		return nil, err
	}
	return args[0], b.flat(args[0])
}

func tupleBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	b := budgetOf(t)
	if err := b.charge(16 * len(args)); err != nil {
		return nil, err
	}
	return args, b.flat(args)
}

func sliceBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	s, ok := args[0].(starlark.Sliceable)
	if !ok {
		return nil, fmt.Errorf("%s can't be sliced", args[0].Type())
	}
	if err := budgetOf(t).charge(weigh(args[0])); err != nil {
		return nil, err
	}
	n := s.Len()
	step := 1
	if args[3] != starlark.None {
		var err error
		if step, err = starlark.AsInt32(args[3]); err != nil {
			return nil, err
		}
	}
	if step == 0 {
		return nil, errors.New("a slice's step can't be zero")
	}
	lo, hi := 0, n
	if step < 0 {
		lo, hi = n-1, -1
	}
	for i, p := range []*int{&lo, &hi} {
		if args[i+1] == starlark.None {
			continue
		}
		v, err := starlark.AsInt32(args[i+1])
		if err != nil {
			return nil, err
		}
		if v < 0 {
			v += n
		}
		if step > 0 {
			*p = min(max(v, 0), n)
		} else {
			*p = min(max(v, -1), n-1)
		}
	}
	if step > 0 && hi < lo || step < 0 && lo < hi {
		hi = lo
	}
	return s.Slice(lo, hi, step), nil
}

func rangeBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	v, err := starlark.Call(t, starlark.Universe["range"], args, kwargs)
	if err != nil {
		return nil, err
	}
	if n := v.(starlark.Sequence).Len(); n > maxLength {
		return nil, fmt.Errorf("range of %d: at most %d", n, maxLength)
	}
	return v, nil
}

func intBuiltin(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	for _, a := range args {
		if s, ok := a.(starlark.String); ok && len(s) > 256 {
			return nil, errors.New("int: the string is too long")
		}
	}
	return starlark.Call(t, starlark.Universe["int"], args, kwargs)
}

func printBuiltin(*starlark.Thread, *starlark.Builtin, starlark.Tuple, []starlark.Tuple) (starlark.Value, error) {
	return starlark.None, nil
}

func getattrBuiltin(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	if len(args) < 2 || len(args) > 3 {
		return nil, errors.New("getattr: want 2 or 3 arguments")
	}
	v, err := attrBuiltin(t, b, args[:2], nil)
	if err != nil && len(args) == 3 {
		return args[2], nil
	}
	return v, err
}

// attrBuiltin is x.name; what can grow something comes back guarded.
func attrBuiltin(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	name, ok := starlark.AsString(args[1])
	if !ok {
		return nil, errors.New("getattr: the name must be a string")
	}
	x, ok := args[0].(starlark.HasAttrs)
	if !ok {
		return nil, fmt.Errorf("%s has no .%s field or method", args[0].Type(), name)
	}
	v, err := x.Attr(name)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("%s has no .%s field or method", x.Type(), name)
	}
	method, ok := v.(*starlark.Builtin)
	if !ok {
		return v, nil
	}
	return starlark.NewBuiltin(name, guard(x, name, method)), nil
}

// guard charges for a method before it is called.
func guard(recv starlark.Value, name string, method *starlark.Builtin) builtin {
	return func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		b := budgetOf(t)
		if err := b.method(recv, name, args, kwargs); err != nil {
			return nil, err
		}
		v, err := starlark.Call(t, method, args, kwargs)
		if err != nil {
			return nil, err
		}
		return v, b.flat(v)
	}
}

func (b *budget) method(recv starlark.Value, name string, args starlark.Tuple, kwargs []starlark.Tuple) error {
	cost := weigh(recv)
	switch name {
	case "append", "insert", "add", "setdefault", "popitem":
		cost = 64
	case "index", "count", "remove":
		for _, v := range append(args[:len(args):len(args)], recv) {
			if err := b.comparable(v); err != nil {
				return err
			}
		}
	case "replace":
		if len(args) >= 2 {
			old, _ := starlark.AsString(args[0])
			with, _ := starlark.AsString(args[1])
			s, _ := starlark.AsString(recv)
			cost += (strings.Count(s, old) + 1) * len(with)
		}
	case "join":
		if len(args) == 1 {
			it, ok := args[0].(starlark.Sequence)
			if ok {
				iter := it.Iterate()
				defer iter.Done()
				var e starlark.Value
				for iter.Next(&e) {
					cost += weigh(e) + weigh(recv)
				}
			}
		}
	case "format":
		s, _ := starlark.AsString(recv)
		fields := strings.Count(s, "{") + 1
		for _, a := range args {
			if err := b.spelled(a, fields); err != nil {
				return err
			}
		}
		for _, kv := range kwargs {
			if err := b.spelled(kv[1], fields); err != nil {
				return err
			}
		}
	case "extend", "update", "union":
		for _, a := range args {
			cost += 4 * weigh(a)
		}
	case "split", "rsplit", "splitlines", "items", "keys", "values":
		cost *= 16
	}
	return b.charge(cost)
}

// spelled charges for writing v out up to so many times.
func (b *budget) spelled(v starlark.Value, times int) error {
	n := len(v.Type()) + 32
	if s, ok := v.(starlark.String); ok {
		n += len(s)
	} else if e := expanded(v); e < 0 {
		return b.charge(-1)
	} else {
		n += 64 * e
	}
	return b.charge(n * times)
}
