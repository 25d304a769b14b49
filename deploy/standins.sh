#!/usr/bin/env bash
# Stand-ins for the base images, for a machine from which no image registry can be reached: made of Debian's packages,
# this machine's Rust toolchain, Maven Central's jars and Mailpit's Go module, and tagged like the real ones.
#
#   deploy/standins.sh [--force] [NAME...]   NAME: debian, rust, kafka, postgres, mailpit (all)
#
# Makes those that are not there; --force makes the stand-ins anew. An image that was pulled is never touched.
# MIRROR=URL is the Debian mirror (debootstrap's own); STANDINS_DIR=DIR has room for what is in the making
# (target/standins).
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

SUITE=trixie
RUST_VERSION=1.95
POSTGRES_VERSION=17
KAFKA_VERSION=$(sed -n 's/^KAFKA_VERSION=//p' tools/services.sh)
LOG4J_VERSION=2.25.5
MAILPIT_VERSION=v1.33.1

NAMES=(debian rust kafka postgres mailpit)
declare -A TAG=(
    [debian]=debian:$SUITE-slim
    [rust]=rust:$RUST_VERSION-slim-$SUITE
    [kafka]=apache/kafka:$KAFKA_VERSION
    [postgres]=postgres:$POSTGRES_VERSION-$SUITE
    [mailpit]=axllent/mailpit:$MAILPIT_VERSION
)
# What tells an image of this script from one that was pulled.
LABEL=vedetta.standin
# What this machine trusts, with the certificate of a proxy that it may be behind.
CA_FILE=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

# ---- what all images share

exists() { docker image inspect "$1" >/dev/null 2>&1; }

is_standin() { [[ $(docker image inspect -f "{{index .Config.Labels \"$LABEL\"}}" "$1") == 1 ]]; }

# quietly COMMAND...: what it says goes to the log, of which a failure shows the end.
quietly() {
    "$@" >>"$LOG" 2>&1 </dev/null && return
    tail -n 20 "$LOG" >&2
    return 1
}

# context NAME: an empty folder to collect in what the image's Dockerfile copies.
context() {
    rm -rf "$WORK/context"
    mkdir "$WORK/context"
    cp -r "deploy/standins/$1/." "$WORK/context"
    echo "$WORK/context"
}

# build NAME CONTEXT [OPTION...]: by the classic builder, which takes a base image from the daemon without asking a
# registry. Without its cache: what comes from the network is what is there today.
build() {
    local name=$1 dir=$2
    shift 2
    DOCKER_BUILDKIT=0 quietly docker build --no-cache --force-rm --pull=false --label "$LABEL=1" -t "${TAG[$name]}" "$@" "$dir"
}

# ---- debian: the base of all others

# The updates of a stable release come from two more suites, the security one on a sibling of the mirror.
apt_sources() {
    local mirror=$1
    cat <<-SOURCES
		Types: deb
		URIs: $mirror
		Suites: $SUITE $SUITE-updates
		Components: main
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
	SOURCES
    if curl -fsIL -o /dev/null "$mirror-security/dists/$SUITE-security/InRelease"; then
        cat <<-SOURCES

			Types: deb
			URIs: $mirror-security
			Suites: $SUITE-security
			Components: main
			Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
		SOURCES
    fi
}

# Packages that come later shall bring as little as those that are here, and start no service.
configure_apt() {
    local root=$1 mirror
    mirror=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
    rm "$root/etc/apt/sources.list"
    apt_sources "${mirror%/}" >"$root/etc/apt/sources.list.d/debian.sources"
    cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<-'CONF'
		force-unsafe-io
		path-exclude /usr/share/doc/*
		path-include /usr/share/doc/*/copyright
		path-exclude /usr/share/info/*
		path-exclude /usr/share/lintian/*
		path-exclude /usr/share/locale/*
		path-exclude /usr/share/man/*
	CONF
    cat >"$root/etc/apt/apt.conf.d/slim" <<-'CONF'
		Acquire::Languages "none";
		APT::AutoRemove::SuggestsImportant "false";
		DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
		Dir::Cache::pkgcache "";
		Dir::Cache::srcpkgcache "";
	CONF
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
}

# What no container needs. The folders of the manual stay: packages make links in them.
strip_root() {
    local root=$1
    find "$root/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
    find "$root/usr/share/man" ! -type d -delete
    find "$root/usr/share/man" -mindepth 1 -maxdepth 1 -type d ! -name 'man[0-9]' -exec rm -r {} +
    find "$root"/usr/share/{doc,info,lintian,locale} -mindepth 1 -type d -empty -delete
    rm -rf "$root"/usr/share/{info,lintian,locale}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/{apt,debconf}/* \
        "$root"/var/log/{apt,*.log} "$root"/var/cache/ldconfig/* "$root"/var/lib/dpkg/*-old "$root"/etc/*-
    # This machine's, which debootstrap lends.
    rm -f "$root"/etc/{hostname,resolv.conf}
    : >"$root/etc/machine-id"
}

make_debian() {
    local root=$WORK/root
    quietly debootstrap --variant=minbase "$SUITE" "$root" ${MIRROR:+"$MIRROR"}
    configure_apt "$root"
    quietly chroot "$root" apt-get update
    quietly chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -y dist-upgrade
    strip_root "$root"
    # The folders that Docker mounts over stay empty.
    tar -c -C "$root" --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' --exclude='./run/*' \
        --exclude='./tmp/*' . |
        docker import -c "LABEL $LABEL=1" -c 'CMD ["bash"]' \
            -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "${TAG[debian]}" >>"$LOG"
    rm -rf "$root"
}

# ---- rust: the builder, with this machine's toolchain

# The files of the components that rustup's minimal profile has, by the lists that an installed toolchain carries.
toolchain_files() {
    local host=$2 component
    for component in rustc cargo rust-std; do
        sed -n 's/^file://p' "$1/lib/rustlib/manifest-$component-$host" | grep -v '^share/'
    done
}

make_rust() {
    local dir sysroot host config
    [[ $(rustc --version) == "rustc $RUST_VERSION."* ]] || die "${TAG[rust]} needs Rust $RUST_VERSION, this is $(rustc --version)"
    sysroot=$(rustc --print sysroot)
    host=$(rustc -vV | sed -n 's/^host: //p')
    [[ -e $sysroot/lib/rustlib/manifest-rustc-$host ]] || die "$sysroot is no toolchain of rustup's, whose files are listed"
    dir=$(context rust)
    mkdir "$dir/toolchain" "$dir/cargo"
    toolchain_files "$sysroot" "$host" | tar -c -C "$sysroot" -T - | tar -x -C "$dir/toolchain"
    config=${CARGO_HOME:-$HOME/.cargo}/config.toml
    [[ ! -e $config ]] || cp "$config" "$dir/cargo/"
    cp "$CA_FILE" "$dir/ca-certificates.crt"
    build rust "$dir" --build-arg "BASE=${TAG[debian]}"
}

# ---- kafka: the broker of Maven Central's jars

# Its log goes through log4j, as in the real image, whose configuration Kafka's own class writes.
make_kafka() {
    local dir
    if ! have mvn; then
        can_apt || die "Maven is not installed"
        apt_install maven || die "apt-get could not install maven"
    fi
    dir=$(context kafka)
    quietly maven_jars "$dir/libs" org.apache.kafka:{kafka_2.13,kafka-server,kafka-tools}:"$KAFKA_VERSION" \
        org.apache.logging.log4j:log4j-slf4j-impl:"$LOG4J_VERSION"
    build kafka "$dir" --build-arg "BASE=${TAG[debian]}"
}

# ---- postgres

make_postgres() { build postgres "$(context postgres)" --build-arg "BASE=${TAG[debian]}" --build-arg "VERSION=$POSTGRES_VERSION"; }

# ---- mailpit: one static program with its page in it

# mailpit_page DIR: what the Go module leaves out, by the versions of Mailpit's lock file. Of those, a registry may
# lack two: the compiler of the style sheets, for which its next patch does, and the viewer of the API's description,
# without which that one page is empty.
mailpit_page() (
    cd "$1"
    npm ci --ignore-scripts --no-audit && npm run build && exit
    sed -i '/"rapidoc":/d' package.json
    sed -i 's|, "server/ui-src/docs.js"||' esbuild.config.mjs
    npm update sass-embedded --package-lock-only --ignore-scripts --no-audit || exit
    npm install --ignore-scripts --no-audit || exit
    npm run build
)

# mailpit_program DIR FILE
mailpit_program() (
    cd "$1" && CGO_ENABLED=0 go build -trimpath -o "$2" \
        -ldflags "-s -w -X github.com/axllent/mailpit/config.Version=$MAILPIT_VERSION" .
)

make_mailpit() {
    local dir module
    have go || die "Go is not installed"
    have npm || die "npm is not installed"
    dir=$(context mailpit)
    module=$(go mod download -json "github.com/axllent/mailpit@$MAILPIT_VERSION" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    cp -r "$module" "$WORK/mailpit"
    chmod -R u+w "$WORK/mailpit"
    quietly mailpit_page "$WORK/mailpit"
    mkdir "$dir/root"
    mkdir -m 1777 "$dir/root/tmp"
    quietly mailpit_program "$WORK/mailpit" "$dir/root/mailpit"
    build mailpit "$dir"
}

# ---- the command

check_tools() {
    [[ $(id -u) == 0 ]] || die "a root file system can only be made by root"
    have docker || die "docker is not installed"
    docker info >/dev/null 2>&1 || die "the Docker daemon does not answer"
    if ! have debootstrap; then
        can_apt || die "debootstrap is not installed"
        apt_install debootstrap || die "apt-get could not install debootstrap"
    fi
}

# ensure NAME: unless it is there already.
ensure() {
    local name=$1 tag=${TAG[$1]} old="" began=$SECONDS
    if exists "$tag"; then
        if [[ $force == no ]] || ! is_standin "$tag"; then
            say "$tag: already there"
            return
        fi
        old=$(docker image inspect -f '{{.Id}}' "$tag")
    fi
    say "making $tag"
    making=$tag
    LOG=$WORK/$name.log
    "make_$name"
    making=""
    # Fails while a container or another image is of it, and then it has to stay.
    [[ -z $old ]] || docker rmi "$old" >/dev/null 2>&1 || true
    printf '%s %s MB (%d s)\n' "$tag" "$(($(docker image inspect -f '{{.Size}}' "$tag") / 1000000))" $((SECONDS - began))
}

finish() {
    local status=$?
    [[ -z $making ]] || say "error: $making could not be made"
    rm -rf "$WORK"
    exit "$status"
}

force=no
wanted=()
for argument in "$@"; do
    if [[ $argument == --force ]]; then
        force=yes
    elif [[ -n ${TAG[$argument]:-} ]]; then
        wanted+=("$argument")
    else
        die "usage: deploy/standins.sh [--force] [NAME...], NAME: ${NAMES[*]}"
    fi
done
((${#wanted[@]} > 0)) || wanted=("${NAMES[@]}")

check_tools
STANDINS_DIR=${STANDINS_DIR:-$PWD/target/standins}
mkdir -p "$STANDINS_DIR"
WORK=$(mktemp -d "$STANDINS_DIR/work.XXXXXX")
making=""
trap finish EXIT
# Most are made on it.
[[ " ${wanted[*]} " == *" debian "* ]] || exists "${TAG[debian]}" || force=no ensure debian
for name in "${wanted[@]}"; do ensure "$name"; done
