#!/bin/sh
# Tries the package in a Debian 12 of its own, which systemd-nspawn boots twice: installs it, asks it for a
# name, boots again, asks again, upgrades, purges, and lists what is left. Or goes the way of a newcomer there:
# three commands, and the time until the first answer.
#
#   packaging/debian/try-nspawn.sh [--newcomer] [--root FOLDER] PACKAGE
#
#   --root FOLDER  a Debian 12 as debootstrap made it, which is copied; by default it is made, from the
#                  network, with: debootstrap --variant=minbase
#                  --include=systemd,systemd-sysv,dbus,iproute2 bookworm FOLDER
#
# It must be run as root, and takes debootstrap and systemd-container. The guest has no network but its
# loopback, and no right to set a clock. Each boot takes three minutes at most. All is in a temporary
# folder, which is removed. Exit 0: everything was as it should be.
set -eu
umask 022

fail() {
    echo "try-nspawn.sh: $*" >&2
    exit 1
}

newcomer=""
if [ "${1:-}" = --newcomer ]; then
    newcomer=yes
    shift
fi
base=""
if [ "${1:-}" = --root ]; then
    [ $# -ge 2 ] || fail "--root without a folder"
    base=$2
    shift 2
fi
[ $# -eq 1 ] || fail "usage: packaging/debian/try-nspawn.sh [--newcomer] [--root FOLDER] PACKAGE"
package=$1
[ -f "$package" ] || fail "no package at $package"
[ "$(id -u)" -eq 0 ] || fail "not root: a machine cannot be booted"
command -v systemd-nspawn >/dev/null || fail "no systemd-nspawn (package systemd-container)"

work=$(mktemp -d)
guest=""
# shellcheck disable=SC2317 # The trap calls it.
end() {
    if [ -n "$guest" ] && kill -0 "$guest" 2>/dev/null; then
        kill -KILL "$guest" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' HUP INT TERM

root=$work/root
if [ -n "$base" ]; then
    [ -d "$base/etc" ] || fail "no Debian in $base"
    cp -a "$base" "$root"
else
    command -v debootstrap >/dev/null || fail "no debootstrap"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2 bookworm "$root" \
        >"$work/debootstrap.log" 2>&1 || fail "debootstrap failed: $(tail -n 3 "$work/debootstrap.log")"
fi

mkdir -p "$root/try" "$root/etc/firstlight" "$root/etc/systemd/system/firstlight.service.d" \
    "$root/etc/systemd/system/multi-user.target.wants"
cp "$package" "$root/try/firstlight.deb"
echo firstlight-try >"$root/etc/hostname"
rm -f "$root/etc/resolv.conf"
echo "nameserver 127.0.0.1" >"$root/etc/resolv.conf"
# What an administrator wrote, and a purge must leave.
cat "$(dirname "$0")/../../config/firstlight.toml" - >"$root/etc/firstlight/firstlight.toml" <<'END'

[[name]]
name = "pi.home.lan"
addresses = ["10.77.0.2"]
END
# A guest must not set the clock of its host, so systemd could not hand on the right to.
cat >"$root/etc/systemd/system/firstlight.service.d/try.conf" <<'END'
[Service]
AmbientCapabilities=
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
END
cat >"$root/etc/systemd/system/try.service" <<'END'
[Unit]
After=dbus.service
# Not before what it looks at has had its chance.
After=firstlight.service
[Service]
Type=oneshot
ExecStart=/bin/sh /try/run
StandardOutput=append:/try/log
StandardError=append:/try/log
END
ln -s ../try.service "$root/etc/systemd/system/multi-user.target.wants/try.service"

cat >"$root/try/run" <<'END'
failed=""
# check WHAT COMMAND..
check() {
    what=$1
    shift
    if "$@" >/try/out 2>&1; then
        echo "ok      $what"
    else
        echo "FAILED  $what ($*): $(tail -n 5 /try/out)"
        failed=yes
    fi
}
refuse() {
    ! "$@"
}
# answers: a name is resolved by the machine's own resolver within ten seconds.
answers() {
    begin=$(date +%s%N)
    until getent hosts pi.home.lan | grep -q '^10\.77\.0\.2 '; do
        [ $(($(date +%s%N) - begin)) -lt 10000000000 ] || return 1
        sleep 0.1
    done
    echo "        answered after $((($(date +%s%N) - begin) / 1000000)) ms" >>/try/log
}
# Every file but those that come and go by themselves.
files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /try \
        -o -path /var/log -o -path /var/tmp -o -path '/var/cache/ldconfig/*' \
        -o -path '/var/lib/dpkg/*-old' -o -path /var/lib/systemd/random-seed \
        -o -path /var/lib/systemd/catalog -o -path /var/lib/systemd/timers \) -prune -o -print | sort
}
if [ ! -e /try/first ]; then
    files >/try/before
    : >/try/first
    echo "first boot: $(systemctl --version | head -n 1)"
    check "it installs" env DEBIAN_FRONTEND=noninteractive dpkg -i /try/firstlight.deb
    sed 's/^/        | /' /try/out
    check "nothing of it is missing" dpkg --verify firstlight
    check "it is enabled" systemctl is-enabled firstlight.service
    check "it runs" systemctl is-active firstlight.service
    check "it answers" answers
    check "it tells how it is" firstlight status
    sed 's/^/        | /' /try/out
    check "the manual is there" test -s /usr/share/man/man8/firstlight.8.gz -a -s /usr/share/man/man5/firstlight.toml.5.gz
else
    echo "second boot"
    check "it was started by the boot" systemctl is-active firstlight.service
    check "it answers" answers
    check "installing it again restarts it" env DEBIAN_FRONTEND=noninteractive dpkg -i /try/firstlight.deb
    check "it answers after that" answers
    check "it is removed" dpkg --remove firstlight
    sed 's/^/        | /' /try/out
    check "it does not run" refuse systemctl is-active firstlight.service
    check "a removal leaves the state" test -d /var/lib/firstlight/
    check "it is purged" dpkg --purge firstlight
    systemctl daemon-reload
    files >/try/after
    check "a purge leaves nothing behind" diff /try/before /try/after
    check "what the administrator wrote is there" test -s /etc/firstlight/firstlight.toml
    check "systemd knows no unit of it" refuse systemctl cat firstlight-wait-clock.service
    check "its user is gone" refuse getent passwd firstlight
    check "its group is gone" refuse getent group firstlight
    check "no unit is dead or dangling" sh -c 'test -z "$(find /etc/systemd/system -name "firstlight*" -xtype l)"'
fi
[ -n "$failed" ] || : >"/try/well-$(ls /try | grep -c '^well-')"
systemctl poweroff --force
END

boot() {
    # Without --register=no it asks a systemd-machined, which need not be there.
    timeout --kill-after=10 180 systemd-nspawn -q -b -D "$root" --machine="firstlight-try-$$" --register=no \
        --keep-unit --private-network --resolv-conf=off --console=pipe \
        </dev/null >"$work/console" 2>&1 &
    guest=$!
    wait "$guest" || echo "the guest's machine exited with $?" >>"$work/console"
    guest=""
}
if [ -n "$newcomer" ]; then
    rm -r "$root/etc/firstlight"
    cat >"$root/try/run" <<'END'
# A network of its own, as a home has one.
ip link add lan0 type veth peer name lan1 && ip addr add 192.168.7.2/24 dev lan0
ip link set lan0 up && ip link set lan1 up
begin=$(date +%s%N)
ms() {
    echo $((($(date +%s%N) - begin) / 1000000))
}
run() {
    if "$@" >/try/out 2>&1; then
        echo "ok      after $(ms) ms: $*"
    else
        echo "FAILED  $*: $(tail -n 20 /try/out)"
        systemctl poweroff --force
        exit 1
    fi
}
run env DEBIAN_FRONTEND=noninteractive dpkg -i /try/firstlight.deb
run firstlight setup --yes
sed 's/^/        | /' /try/out
run firstlight reload
name=$(sed -n '/^\[\[name]]/,/^$/s/^name = "\(.*\)"$/\1/p' /etc/firstlight/firstlight.toml | head -n 1)
until getent hosts "$name" | grep -q '^192\.168\.7\.2 '; do
    if [ "$(ms)" -gt 60000 ]; then
        echo "FAILED  no answer for $name: $(getent hosts "$name")"
        break
    fi
    sleep 0.05
done
[ "$(ms)" -gt 60000 ] || { echo "ok      after $(ms) ms: $name is answered"; : >/try/well-0; : >/try/well-1; }
systemctl poweroff --force
END
    boot
else
    boot
    boot
fi
cat "$root/try/log" || true
if [ -e "$root/try/well-0" ] && [ -e "$root/try/well-1" ]; then
    exit 0
fi
tail -n 20 "$work/console" >&2
fail "not everything was as it should be"
