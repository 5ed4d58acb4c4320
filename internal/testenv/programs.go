package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// programs is the place of a server's programs: the machine itself, or a root, the
// tree of another Debian that scripts/servers has built.
type programs struct {
	root    string // absolute; "": the machine
	version Version
}

const newestRelease = "newest"

// findPrograms returns the place that has product ("rabbitmq", "redis", "valkey") of
// a release: one such as "4.3", which stands for every 4.3.x, or "newest" for the
// newest root. An empty release is the machine's.
func findPrograms(product, release string) (programs, error) {
	if release == "" {
		return programs{}, nil
	}
	found, err := allPrograms(product)
	if err != nil {
		return programs{}, err
	}
	slices.SortFunc(found, func(a, b programs) int { return slices.Compare(b.version.numbers(), a.version.numbers()) })
	var there []string
	for _, p := range found {
		if p.version.is(release) || release == newestRelease && p.root != "" {
			return p, nil
		}
		there = append(there, string(p.version))
	}
	return programs{}, &missingError{
		what: fmt.Sprintf("%s %s (there is: %s)", product, release, strings.Join(there, ", ")),
		hint: "scripts/servers trixie forky", release: true,
	}
}

// allPrograms returns the machine's programs and those of each root.
func allPrograms(product string) ([]programs, error) {
	var found []programs
	if v := machineVersion(product); v != "" {
		found = append(found, programs{version: v})
	}
	dir, err := rootsFolder()
	if err != nil {
		return nil, err
	}
	lists, err := filepath.Glob(filepath.Join(dir, "*", "releases"))
	if err != nil {
		return nil, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if name, version, _ := strings.Cut(strings.TrimSpace(line), " "); name == product {
				found = append(found, programs{root: filepath.Dir(list), version: Version(version)})
			}
		}
	}
	return found, nil
}

// rootsFolder is where scripts/servers builds.
func rootsFolder() (string, error) {
	if dir := os.Getenv(rootsEnv); dir != "" {
		return filepath.Abs(dir)
	}
	module, err := moduleRoot()
	return filepath.Join(module, ".cache", "servers"), err
}

// machineVersion returns the version of the program that the machine has, "" if it
// has none or does not say.
func machineVersion(product string) Version {
	if product == "rabbitmq" {
		dir, err := rabbitScripts()
		if err != nil {
			return ""
		}
		script, _ := filepath.EvalSymlinks(filepath.Join(dir, "rabbitmq-server"))
		return firstVersion(filepath.Dir(script)) // …/rabbitmq_server-3.10.8/sbin
	}
	out, err := exec.Command(product+"-server", "--version").Output() // Redis server v=7.0.15 sha=…
	if err != nil {
		return ""
	}
	return firstVersion(string(out))
}

func firstVersion(text string) Version {
	return Version(regexp.MustCompile(`\d+\.\d+(\.\d+)*`).FindString(text))
}

// enterRoot has the shell, in a mount namespace of its own, change to a root in which
// /proc, /dev, the temporary folder and the names of hosts are the machine's. It
// becomes the program itself. The mounts are seen by no other process and end with
// the namespace.
const enterRoot = `set -e
root=$1 tmp=$2 dir=$3
shift 3
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /etc/hosts "$root/etc/hosts"
at=$tmp
while [ -n "$at" ] && [ ! -d "$root$at" ]; do at=${at%/*}; done
if [ -z "$at" ]; then at=${tmp#/}; at=/${at%%/*}; mkdir -p "$root$at"; fi
mount --rbind "$at" "$root$at"
exec chroot "$root" env -C "$dir" "$@"`

// command returns the command that runs a program in dir, which for a root lies in
// the temporary folder. Its process is the program's own, or becomes it.
func (p programs) command(ctx context.Context, dir string, env []string, name string, args ...string) *exec.Cmd {
	if p.root == "" {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.Env = dir, env
		return cmd
	}
	unshare := []string{"--mount"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--map-root-user") // a namespace in which we may mount
	}
	unshare = append(unshare, "sh", "-c", enterRoot, "sh", p.root, filepath.Clean(os.TempDir()), dir, name)
	cmd := exec.CommandContext(ctx, "unshare", append(unshare, args...)...)
	// With the machine's PATH, rabbitmq-server would find Debian's wrapper of that name.
	cmd.Env = append(env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	return cmd
}

// Version is that of a server, such as "4.3.6".
type Version string

// AtLeast reports whether the version is major.minor or a later one.
func (v Version) AtLeast(major, minor int) bool {
	return slices.Compare(v.numbers(), []int{major, minor}) >= 0
}

// numbers returns the parts of the version, none if it is no version.
func (v Version) numbers() []int {
	var numbers []int
	for part := range strings.SplitSeq(string(v), ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// is reports whether v belongs to release: 4.3.6 to 4.3.6, 4.3 and 4, not to 4.30.
func (v Version) is(release string) bool {
	return strings.HasPrefix(string(v)+".", release+".")
}

// splitRedis splits "valkey-9" into product and release; "" is the machine's Redis.
func splitRedis(release string) (product, version string, err error) {
	product, version, _ = strings.Cut(release, "-")
	switch {
	case release == "":
		return "redis", "", nil
	case product != "redis" && product != "valkey" || version == "":
		return "", "", errors.New(redisReleaseEnv + " is " + release + ": expected redis-RELEASE or valkey-RELEASE, such as valkey-9 or valkey-newest")
	}
	return product, version, nil
}
