# Functions of the scripts in this folder, which source it from the project's folder.

say() { echo "${0##*/}: $*"; }
die() { echo "${0##*/}: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian starts a service as soon as its package is installed, on the standard
# port. A policy-rc.d that says 101 prevents it; one that stands there already is
# put back afterwards.
policy=/usr/sbin/policy-rc.d
deny_services() {
	if [ -e $policy ] && [ ! -e $policy.before-onceover ]; then
		as_root mv $policy $policy.before-onceover
	fi
	printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
	as_root chmod 755 $policy
}
restore_services() {
	as_root rm -f $policy
	if [ -e $policy.before-onceover ]; then
		as_root mv $policy.before-onceover $policy
	fi
}

apt_install() { # PACKAGE...
	have apt-get || die "missing: $*. Install them; there is no apt-get here to do it."
	[ "$(id -u)" = 0 ] || have sudo || die "missing: $*. Run as root: apt-get install $*"
	say "installing $* from apt"
	trap restore_services EXIT
	trap 'exit 1' INT TERM HUP
	deny_services
	if [ -z "${apt_updated:-}" ]; then
		as_root apt-get update -qq || say "apt-get update failed; going on with the lists there are"
		apt_updated=1
	fi
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >.cache/apt.log 2>&1 ||
		{ tail -n 20 .cache/apt.log >&2; die "apt-get install $* failed; whole log in .cache/apt.log"; }
	restore_services
	trap - EXIT INT TERM HUP
	# Nor at the next boot: the tests start servers of their own.
	if [ -d /run/systemd/system ]; then
		for package in "$@"; do
			case $package in *-server) as_root systemctl disable --quiet "$package" || true ;; esac
		done
	fi
}
