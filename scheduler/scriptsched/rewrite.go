package scriptsched

import (
	"fmt"

	"go.starlark.net/syntax"
)

// Starlark's own limits count steps, but one step can allocate without bound ("a" * 1e9). So every
// operation that can grow something is rewritten into a call of a builtin that charges the budget first.
const (
	fnBinary = "__op"
	fnAttr   = "__attr"
	fnSlice  = "__slice"
	fnTuple  = "__tuple"
	fnGrow   = "__grow"
	// two nested lists can also take for ever to compare
	fnCompare = "__compare"
)

// growing operators.
var opNames = map[syntax.Token]string{syntax.PLUS: "+", syntax.STAR: "*", syntax.PERCENT: "%", syntax.LTLT: "<<", syntax.PIPE: "|"}

var compareNames = map[syntax.Token]string{syntax.EQL: "==", syntax.NEQ: "!=", syntax.LT: "<", syntax.LE: "<=", syntax.GT: ">", syntax.GE: ">=",
	syntax.IN: "in", syntax.NOT_IN: "not in"}

// plain says that an operand is a literal or a constant: comparing with it is cheap.
func plain(e syntax.Expr) bool {
	switch e := e.(type) {
	case *syntax.Literal:
		return true
	case *syntax.Ident:
		return e.Name == "None" || e.Name == "True" || e.Name == "False"
	case *syntax.ParenExpr:
		return plain(e.X)
	}
	return false
}

// rewriter changes a file in place; the first thing that it refuses is its error.
type rewriter struct{ err error }

func (r *rewriter) refuse(pos syntax.Position, msg string) {
	if r.err == nil {
		r.err = syntax.Error{Pos: pos, Msg: msg}
	}
}

func rewrite(f *syntax.File) error {
	r := &rewriter{}
	r.stmts(f.Stmts)
	return r.err
}

func (r *rewriter) stmts(list []syntax.Stmt) {
	for _, s := range list {
		r.stmt(s)
	}
}

func (r *rewriter) stmt(s syntax.Stmt) {
	switch s := s.(type) {
	case *syntax.AssignStmt:
		r.assign(s)
	case *syntax.DefStmt:
		r.params(s.Params)
		r.stmts(s.Body)
	case *syntax.ExprStmt:
		s.X = r.expr(s.X)
	case *syntax.ForStmt:
		s.X = r.expr(s.X)
		r.target(s.Vars)
		r.stmts(s.Body)
	case *syntax.WhileStmt:
		r.refuse(s.While, "while loops are not available")
	case *syntax.IfStmt:
		s.Cond = r.expr(s.Cond)
		r.stmts(s.True)
		r.stmts(s.False)
	case *syntax.ReturnStmt:
		if s.Result != nil {
			s.Result = r.expr(s.Result)
		}
	case *syntax.LoadStmt:
		r.refuse(s.Load, "load is not available: a policy is one file")
	}
}

func (r *rewriter) assign(s *syntax.AssignStmt) {
	s.RHS = r.expr(s.RHS)
	r.target(s.LHS)
	switch s.Op {
	case syntax.EQ, syntax.MINUS_EQ, syntax.SLASH_EQ, syntax.SLASHSLASH_EQ, syntax.GTGT_EQ, syntax.AMP_EQ, syntax.CIRCUMFLEX_EQ:
	case syntax.PLUS_EQ, syntax.PIPE_EQ:
		s.RHS = invoke(fnGrow, s.OpPos, s.RHS)
	default:
		r.refuse(s.OpPos, fmt.Sprintf("%s is not available: write x = x %s ...", s.Op, s.Op.String()[:len(s.Op.String())-1]))
	}
}

// target walks what is assigned to; an index in it is an expression like any other.
func (r *rewriter) target(e syntax.Expr) {
	switch e := e.(type) {
	case *syntax.IndexExpr:
		e.X, e.Y = r.expr(e.X), r.expr(e.Y)
	case *syntax.DotExpr:
		r.refuse(e.Dot, "fields can't be assigned to")
	case *syntax.ParenExpr:
		r.target(e.X)
	case *syntax.TupleExpr:
		for _, x := range e.List {
			r.target(x)
		}
	case *syntax.ListExpr:
		for _, x := range e.List {
			r.target(x)
		}
	case *syntax.Ident:
		r.name(e)
	}
}

func (r *rewriter) name(id *syntax.Ident) {
	if len(id.Name) > 1 && id.Name[:2] == "__" {
		r.refuse(id.NamePos, "names that begin with __ are reserved")
	}
}

func (r *rewriter) params(list []syntax.Expr) {
	for _, p := range list {
		switch p := p.(type) {
		case *syntax.UnaryExpr:
			r.refuse(p.OpPos, "*args and **kwargs parameters are not available")
		case *syntax.BinaryExpr:
			p.Y = r.expr(p.Y)
		case *syntax.Ident:
			r.name(p)
		}
	}
}

func invoke(fn string, pos syntax.Position, args ...syntax.Expr) syntax.Expr {
	return &syntax.CallExpr{Fn: &syntax.Ident{NamePos: pos, Name: fn}, Lparen: pos, Args: args, Rparen: pos}
}

func text(s string, pos syntax.Position) syntax.Expr {
	return &syntax.Literal{Token: syntax.STRING, TokenPos: pos, Raw: syntax.Quote(s, false), Value: s}
}

func none(pos syntax.Position) syntax.Expr { return &syntax.Ident{NamePos: pos, Name: "None"} }

func (r *rewriter) list(es []syntax.Expr) {
	for i := range es {
		es[i] = r.expr(es[i])
	}
}

// expr returns the expression to take e's place.
func (r *rewriter) expr(e syntax.Expr) syntax.Expr {
	switch e := e.(type) {
	case *syntax.Ident:
		r.name(e)
	case *syntax.ParenExpr:
		e.X = r.expr(e.X)
	case *syntax.UnaryExpr:
		if e.X != nil {
			e.X = r.expr(e.X)
		}
	case *syntax.BinaryExpr:
		e.X, e.Y = r.expr(e.X), r.expr(e.Y)
		if op, ok := compareNames[e.Op]; ok && !plain(e.X) && !plain(e.Y) {
			return invoke(fnCompare, e.OpPos, text(op, e.OpPos), e.X, e.Y)
		}
		if op, ok := opNames[e.Op]; ok {
			return invoke(fnBinary, e.OpPos, text(op, e.OpPos), e.X, e.Y)
		}
	case *syntax.CondExpr:
		e.Cond, e.True, e.False = r.expr(e.Cond), r.expr(e.True), r.expr(e.False)
	case *syntax.DotExpr:
		e.X = r.expr(e.X)
		if guarded[e.Name.Name] {
			return invoke(fnAttr, e.Dot, e.X, text(e.Name.Name, e.Dot))
		}
	case *syntax.IndexExpr:
		e.X, e.Y = r.expr(e.X), r.expr(e.Y)
	case *syntax.ListExpr:
		r.list(e.List)
	case *syntax.DictExpr:
		for _, d := range e.List {
			d := d.(*syntax.DictEntry)
			d.Key, d.Value = r.expr(d.Key), r.expr(d.Value)
		}
	default:
		return r.compound(e)
	}
	return e
}

func (r *rewriter) compound(e syntax.Expr) syntax.Expr {
	switch e := e.(type) {
	case *syntax.CallExpr:
		e.Fn = r.expr(e.Fn)
		for i, a := range e.Args {
			if b, ok := a.(*syntax.BinaryExpr); ok && b.Op == syntax.EQ { // name=value
				b.Y = r.expr(b.Y)
				continue
			}
			e.Args[i] = r.expr(a)
		}
	case *syntax.Comprehension:
		for _, c := range e.Clauses {
			switch c := c.(type) {
			case *syntax.ForClause:
				c.X = r.expr(c.X)
				r.target(c.Vars)
			case *syntax.IfClause:
				c.Cond = r.expr(c.Cond)
			}
		}
		if d, ok := e.Body.(*syntax.DictEntry); ok {
			d.Key, d.Value = r.expr(d.Key), r.expr(d.Value)
		} else {
			e.Body = r.expr(e.Body)
		}
	case *syntax.LambdaExpr:
		r.params(e.Params)
		e.Body = r.expr(e.Body)
	case *syntax.SliceExpr:
		start, _ := e.Span()
		args := []syntax.Expr{r.expr(e.X), none(start), none(start), none(start)}
		for i, x := range []syntax.Expr{e.Lo, e.Hi, e.Step} {
			if x != nil {
				args[i+1] = r.expr(x)
			}
		}
		return invoke(fnSlice, e.Lbrack, args...)
	case *syntax.TupleExpr:
		r.list(e.List)
		if len(e.List) > 0 {
			start, _ := e.List[0].Span()
			return invoke(fnTuple, start, e.List...)
		}
	}
	return e
}

// guarded are the methods that can grow something; they go through fnAttr.
var guarded = map[string]bool{"join": true, "replace": true, "format": true, "extend": true, "append": true, "insert": true, "update": true,
	"setdefault": true, "elems": true, "codepoints": true, "elem_ords": true, "codepoint_ords": true, "split": true, "rsplit": true,
	"splitlines": true, "partition": true, "rpartition": true, "upper": true, "lower": true, "title": true, "capitalize": true,
	"items": true, "keys": true, "values": true, "popitem": true, "union": true, "add": true, "strip": true, "lstrip": true, "rstrip": true,
	"removeprefix": true, "removesuffix": true, "count": true, "find": true, "index": true, "intersection": true, "difference": true,
	"symmetric_difference": true, "remove": true}
