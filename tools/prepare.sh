#!/usr/bin/env bash
# Makes sure of the tools that the build needs: a C and a C++ compiler, make, cmake and a Rust toolchain.
# Silent when all is there. As root on Debian it installs what is missing, elsewhere it names the command.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

# A compiler without the C library's headers builds nothing, so it counts as missing.
compiles() { have "$1" && echo '#include <stdlib.h>' | "$1" -E -x c - >/dev/null 2>&1; }

missing() {
    if ! compiles cc || ! have c++; then echo g++; fi
    have make || echo make
    have cmake || echo cmake
}

# install_command PACKAGE...: what a person has to type on this system.
install_command() {
    local sudo=""
    [[ $(id -u) == 0 ]] || sudo="sudo "
    case "$(uname -s)" in
    Darwin) echo "xcode-select --install; brew install cmake" ;;
    *)
        if have apt-get; then
            echo "${sudo}apt-get install -y $*"
        elif have dnf; then
            echo "${sudo}dnf install -y ${*/g++/gcc-c++}"
        elif have apk; then
            echo "${sudo}apk add ${*/g++/build-base}"
        else
            echo "${sudo}apt-get install -y $*   (Debian, Ubuntu)
  ${sudo}dnf install -y ${*/g++/gcc-c++}   (Fedora)
  ${sudo}apk add ${*/g++/build-base}   (Alpine)"
        fi
        ;;
    esac
}

check_build_tools() {
    local packages=()
    # shellcheck disable=SC2207 # package names have no spaces, and macOS's bash has no mapfile
    packages=($(missing))
    ((${#packages[@]} == 0)) && return
    if can_apt; then
        apt_install "${packages[@]}" || die "apt-get could not install ${packages[*]}"
    else
        die "the build needs ${packages[*]}; install them with
  $(install_command "${packages[@]}")"
    fi
}

check_rust() {
    local needed found
    if ! have cargo || ! have rustc; then
        die "the build needs Rust; install it with rustup (its site is rustup.rs), then open a new shell"
    fi
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    [[ $(printf '%s\n' "$needed" "$found" | sort -V | head -n 1) == "$needed" ]] ||
        die "the build needs Rust $needed, this is $found; update it with
  rustup update stable"
}

check_build_tools
check_rust
