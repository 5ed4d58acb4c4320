package celery

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// show prints a plan in short: id:task(args) with what follows from it.
func show(p *Plan) string {
	var b strings.Builder
	for _, c := range p.ChordSizes {
		fmt.Fprintf(&b, "size %s=%d\n", c.Group, c.Size)
	}
	for _, m := range p.Messages {
		r := m.Request
		fmt.Fprintf(&b, "%s:%s%s", r.ID, r.Task, ReprArgs(r.Args))
		if r.Group != "" {
			fmt.Fprintf(&b, " group=%s", r.Group)
		}
		if r.GroupIndex != nil {
			fmt.Fprintf(&b, "[%d]", *r.GroupIndex)
		}
		for i := len(r.Chain) - 1; i >= 0; i-- {
			fmt.Fprintf(&b, " | %s", brief(r.Chain[i]))
		}
		if r.Chord != nil {
			fmt.Fprintf(&b, " chord=%s", brief(r.Chord))
		}
		for _, s := range r.Callbacks {
			fmt.Fprintf(&b, " link=%s", brief(s))
		}
		for _, s := range r.Errbacks {
			fmt.Fprintf(&b, " errback=%s", brief(s))
		}
		b.WriteByte('\n')
	}
	children, _ := json.Marshal(p.Children)
	fmt.Fprintf(&b, "children %s\n", children)
	return b.String()
}

func brief(s *Signature) string {
	name := s.Task
	if s.Kind == KindGroup || s.Kind == KindChain {
		var parts []string
		for _, t := range s.Tasks {
			parts = append(parts, brief(t))
		}
		name = s.Kind + "(" + strings.Join(parts, ", ") + ")"
	}
	if s.Kind == KindChord {
		name = "chord(" + brief(s.Header) + ", " + brief(s.Body) + ")"
	}
	o := s.Options
	for _, l := range o.Link {
		name += "+" + brief(l)
	}
	if o.GroupID != "" {
		name += "@" + o.GroupID
	}
	if o.Chord != nil {
		name += "^" + o.Chord.Task
	}
	return o.TaskID + ":" + name
}

// sig is a signature with an id, so that plans can be read.
func sig(id string, args ...any) *Signature {
	s := NewSignature("t", args...)
	s.Options.TaskID = id
	return s
}

func group(id string, members ...*Signature) *Signature {
	s := Group(members...)
	s.Options.TaskID = id
	return s
}

func chord(gid string, header []*Signature, body *Signature) *Signature {
	s := Chord(header, body)
	s.Header.Options.TaskID = gid
	return s
}

func TestPlan(t *testing.T) {
	linked := func(s *Signature, callback *Signature) *Signature { s.LinkSuccess(callback); return s }
	for _, tt := range []struct {
		name string
		sig  *Signature
		over Options
		want string
	}{
		{"task", sig("a", 2), Options{}, `
a:t(1, 2)
children [[["a",null],null]]`},
		{"immutable", sig("a", 2).SetImmutable(), Options{}, `
a:t(2,)
children [[["a",null],null]]`},
		{"chain", Chain(sig("a"), sig("b"), sig("c")), Options{}, `
a:t(1,) | b:t | c:t
children [[["a",null],null]]`},
		{"chain in chain, its link on its last step", Chain(sig("a"), linked(Chain(sig("b"), sig("c")), sig("l")), sig("d")), Options{}, `
a:t(1,) | b:t | c:t+l:t | d:t
children [[["a",null],null]]`},
		{"next step of an outer chain", sig("a"), Options{Chain: Signatures{sig("z"), sig("y")}}, `
a:t(1,) | y:t | z:t
children [[["a",null],null]]`},
		{"chain before an outer chain's rest", Chain(sig("a"), sig("b")), Options{Chain: Signatures{sig("z")}}, `
a:t(1,) | b:t | z:t
children [[["a",null],null]]`},
		{"group", group("g", sig("a"), sig("b", 2)), Options{}, `
a:t(1,) group=g[0]
b:t(1, 2) group=g[1]
children [[["g",null],[[["a",null],null],[["b",null],null]]]]`},
		{"group in group", group("g", sig("a"), group("h", sig("b"), sig("c"))), Options{}, `
a:t(1,) group=g[0]
b:t(1,) group=g[1]
c:t(1,) group=g[2]
children [[["g",null],[[["a",null],null],[["b",null],null],[["c",null],null]]]]`},
		{"empty group", group("g"), Options{}, `
children null`},
		{"chord", chord("g", []*Signature{sig("a"), sig("b")}, sig("c")), Options{TaskID: "c"}, `
size g=2
a:t(1,) group=g[0] chord=c:t@g
b:t(1,) group=g[1] chord=c:t@g
children [[["g",null],[[["a",null],null],[["b",null],null]]]]`},
		{"chord of one", chord("g", []*Signature{sig("a")}, sig("c")), Options{}, `
size g=1
a:t(1,) group=g[0] chord=c:t@g
children [[["g",null],[[["a",null],null]]]]`},
		{"chord with an empty header", chord("g", nil, sig("c")), Options{}, `
c:t([],) group=g
children [[["c",null],null]]`},
		{"group | task is a chord", Chain(group("g", sig("a"), sig("b")), sig("c")), Options{}, `
size g=2
a:t(1,) group=g[0] chord=c:t@g
b:t(1,) group=g[1] chord=c:t@g
children [[["g",null],[[["a",null],null],[["b",null],null]]]]`},
		{"group | task | task: the rest follows the body", Chain(group("g", sig("a"), sig("b")), sig("c"), sig("d")), Options{}, `
size g=2
a:t(1,) group=g[0] chord=c:t@g
b:t(1,) group=g[1] chord=c:t@g
children [[["g",null],[[["a",null],null],[["b",null],null]]]]`},
		{"group of one in a chain is its member", Chain(group("g", sig("a")), sig("c")), Options{}, `
a:t(1,) | c:t
children [[["a",null],null]]`},
		{"empty group in a chain is skipped", Chain(sig("a"), group("g"), sig("c")), Options{}, `
a:t(1,) | c:t
children [[["a",null],null]]`},
		{"chain in a header: its last step counts", chord("g", []*Signature{Chain(sig("a"), sig("b")), sig("x")}, sig("c")), Options{}, `
size g=2
a:t(1,) | b:t@g^t
x:t(1,) group=g[1] chord=c:t@g
children [[["g",null],[[["b",[["a",null],null]],null],[["x",null],null]]]]`},
		{"chord in a header: its body counts", chord("g", []*Signature{chord("h", []*Signature{sig("a")}, sig("b")), sig("x")}, sig("c")), Options{}, `
size g=2
size h=1
a:t(1,) group=h[0] chord=b:t@g^t
x:t(1,) group=g[1] chord=c:t@g
children [[["g",null],[[["b",[["h",null],[[["a",null],null]]]],null],[["x",null],null]]]]`},
		{"chord before an outer chain's rest", chord("g", []*Signature{sig("a")}, sig("c")), Options{Chain: Signatures{sig("z")}}, `
size g=1
a:t(1,) group=g[0] chord=c:t@g
children [[["g",null],[[["a",null],null]]]]`},
		{"chord whose body is a chain", chord("g", []*Signature{sig("a")}, Chain(sig("c"), sig("d"))), Options{}, `
size g=1
a:t(1,) group=g[0] chord=d:chain(c:t, d:t@g)
children [[["g",null],[[["a",null],null]]]]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, _ := json.Marshal(tt.sig)
			p := &Plan{Parent: &Request{ID: "parent", RootID: "root"}, Now: time.Unix(0, 0)}
			if _, err := p.Apply(tt.sig, []json.RawMessage{json.RawMessage("1")}, tt.over); err != nil {
				t.Fatal(err)
			}
			if got, want := show(p), strings.TrimPrefix(tt.want, "\n")+"\n"; got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			for _, m := range p.Messages {
				if m.Request.RootID != "root" || m.Request.ParentID != "parent" {
					t.Errorf("%s: root %q and parent %q, want root and parent", m.Request.ID, m.Request.RootID, m.Request.ParentID)
				}
			}
			if after, _ := json.Marshal(tt.sig); string(after) != string(before) {
				t.Errorf("the signature was changed:\n%s\nfrom\n%s", after, before)
			}
		})
	}
}
