package celery

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"
)

// maxNesting is how deep the values of a body may be nested, as in
// encoding/json.
const maxNesting = 10000

// decodeMsgpack turns msgpack into JSON. Bytes and times become what newer
// Celery makes of them in JSON.
func decodeMsgpack(body []byte) (json.RawMessage, error) {
	v, rest, err := msgpackValue(body, 0)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes follow the value", len(rest))
	}
	return MarshalJSON(v)
}

// msgpackValue reads one value, of types that encoding/json writes.
func msgpackValue(b []byte, depth int) (v any, rest []byte, err error) {
	if depth > maxNesting {
		return nil, nil, errors.New("it is nested too deeply")
	}
	if len(b) == 0 {
		return nil, nil, errors.New("it ends too early")
	}
	switch t := msgp.NextType(b); t {
	case msgp.NilType:
		rest, err = msgp.ReadNilBytes(b)
		return nil, rest, err
	case msgp.BoolType:
		return wrap(msgp.ReadBoolBytes(b))
	case msgp.IntType:
		return wrap(msgp.ReadInt64Bytes(b))
	case msgp.UintType:
		return wrap(msgp.ReadUint64Bytes(b))
	case msgp.Float32Type:
		f, rest, err := msgp.ReadFloat32Bytes(b)
		return float(float64(f)), rest, err
	case msgp.Float64Type:
		f, rest, err := msgp.ReadFloat64Bytes(b)
		return float(f), rest, err
	case msgp.StrType:
		return wrap(msgp.ReadStringBytes(b))
	case msgp.BinType:
		data, rest, err := msgp.ReadBytesZC(b)
		return richBytes(data), rest, err
	case msgp.TimeType:
		t, rest, err := msgp.ReadTimeUTCBytes(b)
		return richTime(t), rest, err
	case msgp.ArrayType:
		n, rest, err := msgp.ReadArrayHeaderBytes(b)
		list := []any{}
		for range n {
			if err != nil {
				return nil, nil, err
			}
			var item any
			item, rest, err = msgpackValue(rest, depth+1)
			list = append(list, item)
		}
		return list, rest, err
	case msgp.MapType:
		n, rest, err := msgp.ReadMapHeaderBytes(b)
		dict := map[string]any{}
		for range n {
			if err != nil {
				return nil, nil, err
			}
			var key, value any
			if key, rest, err = msgpackValue(rest, depth+1); err != nil {
				return nil, nil, err
			}
			name, ok := keyText(key)
			if !ok {
				return nil, nil, fmt.Errorf("a key of a map is a %T: expected a text or a number", key)
			}
			value, rest, err = msgpackValue(rest, depth+1)
			dict[name] = value
		}
		return dict, rest, err
	default:
		return nil, nil, fmt.Errorf("it has a value of the type %v, which is not accepted", t)
	}
}

func wrap[T any](v T, rest []byte, err error) (any, []byte, error) { return v, rest, err }

// keyText is a key as Python's json writes it.
func keyText(key any) (string, bool) {
	switch key := key.(type) {
	case string:
		return key, true
	case bool:
		return strconv.FormatBool(key), true
	case nil:
		return "null", true
	case int64, uint64, json.Number:
		return fmt.Sprint(key), true
	case map[string]any: // bytes
		text, ok := key["__value__"].(string)
		return text, ok && key["__type__"] == "bytes"
	}
	return "", false
}

// float is f as a JSON number; see decodeContent for those that are none.
func float(f float64) any {
	switch {
	case math.IsNaN(f):
		return nil
	case math.IsInf(f, 1):
		return json.RawMessage("1e999")
	case math.IsInf(f, -1):
		return json.RawMessage("-1e999")
	}
	return f
}

// richBytes is what kombu makes of bytes in JSON.
func richBytes(data []byte) any {
	if utf8.Valid(data) {
		return rich("bytes", string(data))
	}
	return rich("base64", base64.StdEncoding.EncodeToString(data))
}

// richTime is what kombu makes of a datetime in JSON.
func richTime(t time.Time) any {
	return rich("datetime", ISOTime(t))
}

func rich(kind, value string) any { return map[string]any{"__type__": kind, "__value__": value} }
