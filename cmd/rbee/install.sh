#!/bin/sh
# Installs rbee, queen-rbee and rbee-hive from a release, after checking the archive's checksum.
#
#   curl -fsSL https://github.com/queen-rbee/queen-rbee/releases/latest/download/install.sh | sh
#
# RBEE_VERSION   a version such as v0.1.0; the latest by default
# RBEE_BASE_URL  where the archive and SHA256SUMS lie (https:, http: or file:), instead of the release's own place
# RBEE_PREFIX    programs go to $RBEE_PREFIX/bin; /usr/local for root, ~/.local for everybody else
set -eu

say() { printf '%s\n' "$*" >&2; }
fail() {
	say "install: $*"
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

fetch() { # URL FILE
	if have curl; then
		curl -fsSL --retry 2 -o "$2" "$1" || fail "can't download $1"
	elif have wget; then
		wget -q -O "$2" "$1" || fail "can't download $1"
	else
		fail "neither curl nor wget is here: install one of them"
	fi
}

checksum() { # FILE
	if have sha256sum; then
		sha256sum "$1"
	elif have shasum; then
		shasum -a 256 "$1"
	else
		fail "neither sha256sum nor shasum is here: the archive can't be checked"
	fi | cut -d ' ' -f 1
}

main() {
	case $(uname -s) in
	Linux) os=linux ;;
	Darwin) os=darwin ;;
	*) fail "there is no release for $(uname -s): build it with Go, see README.md" ;;
	esac
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) fail "there is no release for $(uname -m): build it with Go, see README.md" ;;
	esac
	version=${RBEE_VERSION:-latest}
	releases=https://github.com/queen-rbee/queen-rbee/releases
	if [ -n "${RBEE_BASE_URL:-}" ]; then
		base=${RBEE_BASE_URL%/}
	elif [ "$version" = latest ]; then
		base=$releases/latest/download
	else
		base=$releases/download/$version
	fi
	if [ -n "${RBEE_PREFIX:-}" ]; then
		bin=$RBEE_PREFIX/bin
	elif [ "$(id -u)" = 0 ]; then
		bin=/usr/local/bin
	else
		bin=$HOME/.local/bin
	fi
	archive=queen-rbee-$os-$arch.tar.gz

	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	say "fetching $base/$archive"
	fetch "$base/SHA256SUMS" "$work/SHA256SUMS"
	fetch "$base/$archive" "$work/$archive"
	want=$(awk -v f="$archive" '$2 == f || $2 == "*" f { print $1 }' "$work/SHA256SUMS")
	[ -n "$want" ] || fail "SHA256SUMS does not name $archive"
	got=$(checksum "$work/$archive")
	[ "$got" = "$want" ] || fail "the checksum of $archive is $got, and SHA256SUMS says $want: nothing was installed"

	mkdir "$work/new"
	# only these, whatever else the archive holds
	tar -xzf "$work/$archive" -C "$work/new" rbee queen-rbee rbee-hive || fail "$archive does not hold the three programs"
	mkdir -p "$bin" || fail "can't make $bin: set RBEE_PREFIX, or run this as root"
	[ -w "$bin" ] || fail "can't write to $bin: set RBEE_PREFIX, or run this as root"
	for program in queen-rbee rbee-hive rbee; do
		if [ ! -f "$work/new/$program" ] || [ -L "$work/new/$program" ]; then
			fail "$program in $archive is no program"
		fi
		cp "$work/new/$program" "$bin/.$program.new"
		chmod 755 "$bin/.$program.new"
		mv -f "$bin/.$program.new" "$bin/$program" # one that runs goes on with its old file
	done
	say "installed rbee, queen-rbee and rbee-hive in $bin"
	case :$PATH: in
	*:"$bin":*) ;;
	*) say "$bin is not on your PATH: add it" ;;
	esac
	say "start with: rbee serve    (or, for good: rbee install --now)"
}

main
