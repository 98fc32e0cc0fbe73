#!/bin/sh
# Makes the Debian package: packaging/debian/build.sh [OPTION..] OUT
#
#   --binary PATH     the program; by default target/packaged/firstlight, which is built
#   --arch ARCH       amd64, arm64 or armhf; by default, and at any rate checked by, the program's
#   --generated PATH  manual pages and completions, as `cargo run --example generate` writes them;
#                     by default they are written
#   OUT               the folder for the package, whose path is printed
#
# The same source, program and SOURCE_DATE_EPOCH (by default when HEAD was committed) make the same octets.
# It takes dpkg-deb, readelf (binutils), gzip and cargo.
set -eu
umask 022
export LC_ALL=C
unset TAR_OPTIONS GZIP

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

top=$(cd "$(dirname "$0")/../.." && pwd)
binary="" arch="" generated="" out=""
while [ $# -gt 0 ]; do
    case $1 in
    --binary | --arch | --generated)
        [ $# -gt 1 ] || fail "$1 without a value"
        case $1 in
        --binary) binary=$2 ;;
        --arch) arch=$2 ;;
        --generated) generated=$2 ;;
        esac
        shift
        ;;
    -*) fail "unknown option $1; the options are --binary, --arch and --generated" ;;
    *)
        [ -z "$out" ] || fail "more than one OUT: $out and $1"
        out=$1
        ;;
    esac
    shift
done
[ -n "$out" ] || fail "no OUT; usage: packaging/debian/build.sh [OPTION..] OUT"

# Where the units are, for tests of this script.
units=${FIRSTLIGHT_UNITS:-$top/packaging/systemd}
[ -f "$units/firstlight.service" ] || fail "no $units/firstlight.service: a package without it starts nothing"
for program in dpkg-deb readelf gzip cargo; do
    command -v "$program" >/dev/null || fail "no $program"
done
if [ -z "$binary" ]; then
    (cd "$top" && cargo build --profile packaged --locked) >&2
    binary=$top/target/packaged/firstlight
fi
[ -f "$binary" ] || fail "no program at $binary"

case $(readelf -h "$binary" | sed -n 's/^ *Machine: *//p') in
*X86-64) machine=amd64 target=x86_64-unknown-linux-gnu ;;
AArch64) machine=arm64 target=aarch64-unknown-linux-gnu ;;
ARM) machine=armhf target=armv7-unknown-linux-gnueabihf ;;
*) fail "$binary is a program for no machine that is known here" ;;
esac
[ -z "$arch" ] || [ "$arch" = "$machine" ] || fail "$binary is for $machine, not for $arch"
arch=$machine

# What it is linked with. A static program depends on nothing.
depends=""
for library in $(readelf -d "$binary" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort); do
    case $library in
    libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | ld-linux*)
        version=$(readelf -V -W "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -u -V | tail -n 1)
        new="libc6 (>= ${version#GLIBC_})"
        ;;
    libgcc_s.so.1) new="libgcc-s1 (>= 4.2)" ;;
    *) fail "$binary needs $library, and no package is known that has it" ;;
    esac
    case ", $depends," in
    *", $new,"*) ;;
    *) depends="${depends:+$depends, }$new" ;;
    esac
done

epoch=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct)} || fail "set SOURCE_DATE_EPOCH: this is no git clone"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)-1
maintainer="The firstlight maintainers <maintainers@firstlight.invalid>"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
root=$work/root
doc=$root/usr/share/doc/firstlight
man=$root/usr/share/man

if [ -z "$generated" ]; then
    generated=$work/generated
    (cd "$top" && cargo run -q --locked --example generate -- "$generated") >&2
fi

# put MODE FILE TARGET
put() {
    install -D -m "$1" "$2" "$3"
}

put 755 "$binary" "$root/usr/bin/firstlight"

all="" enabled=""
for unit in "$units"/*.service "$units"/*.socket; do
    [ -f "$unit" ] || continue
    name=${unit##*/}
    put 644 "$unit" "$root/usr/lib/systemd/system/$name"
    all="${all:+$all }$name"
    # Sockets are for those who want them.
    case $name in
    *.service) if grep -q '^\[Install\]' "$unit"; then enabled="${enabled:+$enabled }$name"; fi ;;
    esac
done
for file in "$units"/*.service.d/*.conf; do
    [ ! -f "$file" ] || put 644 "$file" "$root/usr/lib/systemd/system/${file#"$units"/}"
done
for file in "$units"/ntp-units.d/*.list; do
    [ ! -f "$file" ] || put 644 "$file" "$root/usr/lib/systemd/ntp-units.d/${file##*/}"
done
users=""
for file in "$units"/sysusers.d/*.conf; do
    [ -f "$file" ] || continue
    put 644 "$file" "$root/usr/lib/sysusers.d/${file##*/}"
    users="${users:+$users }${file##*/}"
done
[ -z "$users" ] || depends="${depends:+$depends, }systemd | systemd-standalone-sysusers"

for page in "$generated"/*.[58]; do
    [ -f "$page" ] || fail "no manual pages in $generated"
    name=${page##*/}
    install -d "$man/man${name##*.}"
    gzip -9n <"$page" >"$man/man${name##*.}/$name.gz"
done
put 644 "$generated/firstlight.bash" "$root/usr/share/bash-completion/completions/firstlight"
put 644 "$generated/_firstlight" "$root/usr/share/zsh/vendor-completions/_firstlight"
put 644 "$generated/firstlight.fish" "$root/usr/share/fish/vendor_completions.d/firstlight.fish"

install -d "$doc"
gzip -9n <"$top/CHANGELOG.md" >"$doc/changelog.gz"
gzip -9n >"$doc/changelog.Debian.gz" <<END
firstlight ($version) unstable; urgency=medium

  * What changed is in changelog.gz.

 -- $maintainer  $(date -u -R -d "@$epoch")
END
for page in "$top"/docs/*.md; do
    put 644 "$page" "$doc/docs/${page##*/}"
done
put 644 "$top/config/firstlight.toml" "$doc/examples/firstlight.toml"
for example in "$units"/*.conf "$top"/packaging/prometheus/* "$top"/packaging/grafana/*; do
    [ ! -f "$example" ] || put 644 "$example" "$doc/examples/${example##*/}"
done

# paragraphs FILE: as the field of a control file wants them.
paragraphs() {
    sed -e 's/^[[:space:]]*$/./' -e 's/^/ /' "$1"
}
libraries() {
    (cd "$top" && cargo tree --locked -e normal,no-proc-macro --target "$target" --prefix none \
        --format '{p}  {l}') | grep -v '^firstlight ' | sed -e 's/ (\*)$//' -e 's/^/  /' | sort -u
}
libraries >"$work/libraries"
[ -s "$work/libraries" ] || fail "cargo tree lists no libraries"
{
    cat <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: firstlight
Comment:
 The program contains these libraries, under their own licences. Their sources are at
 https://crates.io by these names and versions.
 .
END
    cat "$work/libraries"
    printf '\nFiles: *\n%s\nLicense: Expat or Apache-2.0\n' \
        "$(sed -n 's/^Copyright (c) /Copyright: /p' "$top/LICENSE-MIT")"
    printf '\nLicense: Expat\n'
    sed '1,2d' "$top/LICENSE-MIT" >"$work/licence"
    paragraphs "$work/licence"
    printf '\nLicense: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n'
} >"$work/copyright"
put 644 "$work/copyright" "$doc/copyright"

install -d "$root/DEBIAN"
for script in postinst prerm postrm; do
    sed -e "s/@UNITS@/$all/" -e "s/@ENABLED@/$enabled/" -e "s/@USERS@/$users/" \
        "$top/packaging/debian/$script" >"$root/DEBIAN/$script"
    chmod 755 "$root/DEBIAN/$script"
done
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
size=$(find "$root/usr" -printf '%y %s\n' |
    awk '{ kib += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print kib }')
cat >"$root/DEBIAN/control" <<END
Package: firstlight
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $size
${depends:+Depends: $depends
}Suggests: keepalived
Section: net
Priority: optional
Description: DNS and NTP for a LAN, from a box that boots without knowing the time
 One daemon that serves DNS (plain, DoT, DoH, DoQ) and NTP (with NTS) to a home
 or small network. It asks upstreams encrypted only, and gets by itself out of
 the circle in which a machine without a battery-backed clock is caught after a
 power cut: certificates are not yet valid, so names stay dark, so time servers
 are not found, so the clock stays wrong.
END
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/md5sums"
chmod -R u=rwX,go=rX "$root"
find "$root" -exec touch -h -d "@$epoch" {} +

install -d "$out"
package=$out/firstlight_${version}_$arch.deb
# The number of threads shows in what xz writes.
SOURCE_DATE_EPOCH=$epoch DPKG_DEB_THREADS_MAX=1 dpkg-deb --root-owner-group \
    -Z"${DPKG_DEB_COMPRESSOR_TYPE:-xz}" --build "$root" "$package" >&2
echo "$package"
