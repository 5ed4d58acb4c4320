package celery_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"onceover/celery"
	"onceover/internal/testenv"
)

// spellings are times as producers may write them, good and bad: each date with each
// separator and clock, and each clock with each offset.
func spellings() []string {
	dates := []string{
		"2030-01-02", "20300102", "2030-01", "203001", "2030", "2030-W01", "2030W01", "2030-W01-3", "2030W013", "2030-002", "2030002",
		"2028-366", "2030-366", "2030-000", "2028-02-29", "2030-02-29", "2030-13-01", "2030-00-01", "2030-01-32", "2030-1-2", "30-01-02", "2030/01/02",
		"2026-W53-7", "2030-W53-1", "2030-W54", "2030-W00", "2030-W01-8", "2030-W01-0", "2030W011", "2030-W011", "2030W01-1", "20300102-", "0000-01-01", "0001-01-01",
		"9999-12-31", "+2030-01-02", "", "today", "1893553445", "1893553445.5",
	}
	clocks := []string{
		"12", "12:04", "1204", "12:04:05", "120405", "12:04:05.5", "120405.5", "12:04:05,123456789", "12:04:05.000000999", "12:04:05.1234567890123",
		"00:00", "23:59:59.999999", "24:00", "24", "2400", "24:00:00.000", "24:00:01", "24:01", "25:00", "12:60", "12:04:60", "23:59:60", "12:04:05.", "12.5", "12:04.5", "12:0405",
		"1204:05", "1", "12:", "12:04:", "12:3", "12:04:5", "123", "", "12:04:05.x", "12 04", "T12",
	}
	offsets := []string{
		"", "Z", "z", "+09:00", "+0900", "+09", "-03:30", "-0330", "-00:00", "+00", "+23:59", "-23:59", "+24:00", "+09:00:30", "+090030", "-09:00:30.5", "+09:00:30,000001", "+9",
		"+09:", "+090", "+0900:", "+09:00:", "+09:0030", "+0900:30", "+09:60", "+23:60", "-", "+", "Z0", "ZZ", " +09:00", " +0900", " Z", "  +09:00", "+ 09:00", "UTC", " UTC", "[Asia/Seoul]", "+09:00[Asia/Seoul]",
	}
	var all []string
	for _, d := range dates {
		all = append(all, d)
		for _, c := range clocks {
			for _, sep := range []string{"T", " ", "t", "_", "-", "+", "한", "", "  "} {
				all = append(all, d+sep+c)
			}
		}
		for _, o := range offsets {
			all = append(all, d+"T"+o, d+"T12:04:05"+o)
		}
	}
	for _, c := range clocks {
		for _, o := range offsets {
			all = append(all, "2030-01-02T"+c+o, "20300102 "+c+o)
		}
	}
	return all
}

// TestParseTimeAsPython compares with what Celery and Python make of many spellings.
func TestParseTimeAsPython(t *testing.T) {
	python := testenv.Python(t, "celery")
	texts := spellings()
	in, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "testdata/read_times.py")
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, complaint.String())
	}
	var want []*int64
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	taken := 0
	for i, text := range texts {
		got, err := celery.ParseTime(text)
		switch {
		case want[i] == nil && err == nil:
			t.Errorf("%q: got %v, Python refuses it", text, got)
		case want[i] != nil && err != nil:
			t.Errorf("%q: got %v, Python reads %v", text, err, time.UnixMicro(*want[i]).UTC())
		case want[i] != nil && !got.Equal(time.UnixMicro(*want[i])):
			t.Errorf("%q: got %v, Python reads %v", text, got, time.UnixMicro(*want[i]).UTC())
		}
		if want[i] != nil {
			taken++
		}
	}
	t.Logf("%d spellings, of which Python takes %d", len(texts), taken)
	if taken < 500 || len(texts)-taken < 500 {
		t.Errorf("Python takes %d of %d spellings: expected at least 500 on either side", taken, len(texts))
	}
}
