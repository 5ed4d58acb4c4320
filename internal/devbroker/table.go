package devbroker

import (
	"encoding/binary"
	"slices"
	"strconv"
)

// table is a field table in the order it had on the wire.
type table []field

type field struct {
	name  string
	value value
}

// value is a field value as it is on the wire, so that it is passed on as it came: the letter of its type and
// its octets, without the length of what has one. Values are equal if type and octets are. The letters are
// RabbitMQ's (its "AMQP 0-9-1 errata", section 3), not the specification's, and py-amqp's 'L' for a signed
// 64-bit integer, which RabbitMQ takes and passes on too. The zero value stands for a field that is not there.
type value struct {
	kind byte
	raw  string
}

func textValue(s string) value { return value{'S', s} }
func integerValue(n int64) value {
	return value{'l', string(binary.BigEndian.AppendUint64(nil, uint64(n)))}
}
func timeValue(unix int64) value { return value{'T', integerValue(unix).raw} }
func boolValue(v bool) value     { return value{'t', string(appendBool(nil, v))} }
func tableValue(t table) value   { return value{'F', string(appendTable(nil, t)[4:])} }

func arrayValue(vs []value) value {
	var b []byte
	for _, v := range vs {
		b = appendValue(b, v)
	}
	return value{'A', string(b)}
}

func (t table) get(name string) value {
	for _, f := range t {
		if f.name == name {
			return f.value
		}
	}
	return value{}
}

// with returns a copy of t in which name has the value v.
func (t table) with(name string, v value) table {
	t = slices.Clone(t)
	for i, f := range t {
		if f.name == name {
			t[i].value = v
			return t
		}
	}
	return append(t, field{name, v})
}

// text returns "" for what is not a string.
func (v value) text() string {
	if v.kind != 'S' {
		return ""
	}
	return v.raw
}

func (v value) integer() (n int64, ok bool) {
	d := decoder{b: []byte(v.raw)}
	u := d.uint(uint64(len(v.raw)))
	switch v.kind {
	case 'B', 'u', 'i':
		return int64(u), true
	case 'b', 's', 'I', 'l', 'L':
		unused := 64 - 8*len(v.raw)
		return int64(u<<unused) >> unused, true
	}
	return 0, false
}

// table and array return nil for what is none.
func (v value) table() table {
	if v.kind != 'F' {
		return nil
	}
	return (&decoder{b: []byte(v.raw)}).fields()
}

func (v value) array() (vs []value) {
	if v.kind != 'A' {
		return nil
	}
	d := decoder{b: []byte(v.raw)}
	for len(d.b) > 0 {
		vs = append(vs, d.value())
	}
	return vs
}

// String is for error texts.
func (v value) String() string {
	if n, ok := v.integer(); ok {
		return strconv.FormatInt(n, 10)
	}
	switch v.kind {
	case 0:
		return "none"
	case 'S':
		return v.raw
	}
	return "a value of type " + string(rune(v.kind))
}

func (d *decoder) table() table {
	in := decoder{b: d.take(d.uint(4))}
	t := in.fields()
	if in.err != nil {
		d.err, d.b = in.err, nil
	}
	return t
}

// fields takes all that is left.
func (d *decoder) fields() (t table) {
	for len(d.b) > 0 {
		t = append(t, field{d.shortstr(), d.value()})
	}
	return t
}

// value does not look into tables and arrays: they are passed on as they came, sound or not.
func (d *decoder) value() value {
	v := value{kind: d.uint8()}
	var n uint64
	switch v.kind {
	case 'V':
	case 't', 'b', 'B':
		n = 1
	case 's', 'u':
		n = 2
	case 'I', 'i', 'f':
		n = 4
	case 'D':
		n = 5
	case 'l', 'L', 'd', 'T':
		n = 8
	case 'S', 'x', 'F', 'A':
		n = d.uint(4)
	default:
		d.fail("unknown field type %q in a table", v.kind)
	}
	v.raw = string(d.take(n))
	return v
}

func appendTable(b []byte, t table) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, f := range t {
		b = appendValue(appendShortstr(b, f.name), f.value)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

func appendValue(b []byte, v value) []byte {
	b = append(b, v.kind)
	switch v.kind {
	case 'S', 'x', 'F', 'A':
		return appendLongstr(b, v.raw)
	}
	return append(b, v.raw...)
}
