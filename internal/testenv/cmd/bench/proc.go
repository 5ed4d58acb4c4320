package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticks is the unit of CPU time in /proc, in a second: USER_HZ, which is 100 on every architecture of today.
const ticks = 100

// stat is what is known of a process.
type stat struct {
	parent int
	cpu    float64 // seconds, with those of its children that have ended
	rss    float64 // bytes
}

func statOf(pid int) (s stat, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name may have spaces
	f := strings.Fields(rest)
	if len(f) < 22 {
		return s, false
	}
	number := func(i int) float64 { v, _ := strconv.ParseFloat(f[i], 64); return v }
	s.parent = int(number(1))
	s.cpu = (number(11) + number(12) + number(13) + number(14)) / ticks
	s.rss = number(21) * float64(os.Getpagesize())
	return s, true
}

// family calls f with a process and all that descend from it.
func family(pid int, f func(stat)) {
	all := map[int]stat{}
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, e := range entries {
		if n, err := strconv.Atoi(filepath.Base(e)); err == nil {
			if s, ok := statOf(n); ok {
				all[n] = s
			}
		}
	}
	for n, s := range all {
		for at := n; at > 1; at = all[at].parent {
			if at == pid {
				f(s)
				break
			}
		}
	}
}

func cpuOf(pid int) (seconds float64) {
	family(pid, func(s stat) { seconds += s.cpu })
	return seconds
}

func rssOf(pid int) (bytes float64) {
	family(pid, func(s stat) { bytes += s.rss })
	return bytes
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	_, rest, _ := strings.Cut(string(text), "model name\t: ")
	name, _, _ := strings.Cut(rest, "\n")
	if name == "" {
		return "CPU of an unknown model"
	}
	return name
}

// profile takes a CPU profile of two seconds, and after that one of allocations, if the candidate and the caller want them.
func (b *bench) profile(ctx context.Context, c *candidate, wanted bool) <-chan error {
	done := make(chan error, 1)
	if c.profile == "" || !wanted {
		done <- nil
		return done
	}
	go func() {
		from := "http://" + b.http + "/debug/pprof/"
		done <- errors.Join(fetch(ctx, from+"profile?seconds=2", c.profile), fetch(ctx, from+"allocs", c.profile+".allocs"))
	}()
	return done
}

func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("take a profile: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("take a profile: got %s from %s", resp.Status, url)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, resp.Body)
	return err
}
