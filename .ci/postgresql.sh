# Sourced by .ci/needs: every PostgreSQL that this Debian has not got, beside it, for the tests.
#
# Older ones come by npm (.ci/postgresql-npm.sh). Newer ones come from the Debian mirror that apt is set up with, out of
# later suites, through a private apt state: nothing is installed, and what apt knows of the system stays as it was. They
# are unpacked into $cache/postgresql-MAJOR, with the libraries they were built with, the C library included, because
# theirs is newer than the system's. patchelf writes the place of these libraries and of their loader into the programs
# themselves: a variable (LD_LIBRARY_PATH) would reach the archive_command as well, and /bin/sh and cp belong to the system.
# What is there stays, also when Debian has a later minor version: remove its directory to bring it anew.

matrix_majors="13 14 15 16 17 18"

# The suites that may have a major, best first. Forky and sid move on: when 18 has left both, it is in a release.
suites_of() {
    case $1 in
        17) echo "trixie" ;;
        18) echo "forky sid" ;;
    esac
}

# Ubuntu's apt knows no mirror of Debian, and none is named here.
is_debian() { grep -qs '^ID=debian$' /etc/os-release; }

# Where apt gets Debian's main packages, by what it fetched last. The security archive has a label of its own.
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' \
        'Component: main' 2>/dev/null | head -1
}

# Only root can become user postgres; anybody else runs the servers as himself, as the tests do.
as_server_user() {
    if [ "$(id -u)" = 0 ] || have sudo; then
        as_root runuser -u postgres -- "$@"
    else
        "$@"
    fi
}

# private_apt ARGUMENTS...: apt-get with its state in $work/apt.
private_apt() { apt-get -c "$work/apt/conf" "$@"; }

# Settings as a file for -c, which is read last: proxies and keys of the machine's own settings stay in force.
make_private_apt() {
    local mirror=$1 suite=$2 apt=$work/apt
    mkdir -p "$apt/sources" "$apt/state/lists/partial" "$apt/cache/archives/partial"
    : >"$apt/status"
    cat >"$apt/sources/debian.sources" <<SOURCES
Types: deb
URIs: $mirror
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    cat >"$apt/conf" <<CONF
Dir::State "$apt/state";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
APT::Get::List-Cleanup "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
}

# The packages of a server, its clients and every library they need. Left out is what only other programs of these
# packages' dependencies want, and LLVM: without it PostgreSQL does not compile queries, and is half the size.
packages_of() {
    local major=$1
    private_apt -s --no-install-recommends install "postgresql-$major" "postgresql-client-$major" \
        | awk '$1 == "Inst" { print $2 }' \
        | grep -E "^(lib.*|zlib1g|postgresql-$major|postgresql-client-$major)$" \
        | grep -Ev '^lib(llvm|z3-|perl|c-|pam-modules|systemd-shared)|-perl$'
}

# Brings $work/debs for a major from the first suite that has it.
fetch_packages() {
    local major=$1 mirror=$2 suite packages
    for suite in $(suites_of "$major"); do
        make_private_apt "$mirror" "$suite"
        private_apt -qq update || continue
        packages=$(packages_of "$major") || continue
        mkdir -p "$work/debs"
        (cd "$work/debs" && private_apt -qq download $packages)
        return
    done
    echo "no postgresql-$major in $(suites_of "$major") of $mirror"
    return 1
}

# patch_programs ROOT HOME: the programs in ROOT will be in HOME. DT_RPATH (not RUNPATH) counts for the libraries of
# libraries and for what the server loads later, too.
patch_programs() {
    local root=$1 home=$2 libraries loader program
    loader=$(cd "$root" && find . -type f -name 'ld-linux*.so.*' | head -1)
    [ -n "$loader" ] || { echo "libc6 brought no loader"; return 1; }
    libraries=$(dirname "$loader")
    for program in "$root"/bin/*; do
        [ "$(head -c 4 "$program" | tail -c 3)" = ELF ] || continue
        patchelf --set-interpreter "$home/${loader#./}" --force-rpath --set-rpath "$home/${libraries#./}" "$program"
    done
}

# What runs in a build: packages into $work/root, ready to be moved to HOME.
build_server() {
    local major=$1 mirror=$2 home=$3 deb
    set -e
    fetch_packages "$major" "$mirror"
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
    rm -rf "$work/root/etc" "$work/root/var" "$work/root/usr/share/doc" "$work/root/usr/share/man" "$work/root/usr/share/locale"
    find "$work/root/usr/lib/postgresql/$major/lib" \( -name 'llvmjit*' -o -name bitcode \) -prune -exec rm -rf {} +
    # PostgreSQL finds its share directory from where its program is: the tree stays as Debian made it.
    ln -s "usr/lib/postgresql/$major/bin" "$work/root/bin"
    patch_programs "$work/root" "$home"
    chmod -R a+rX "$work/root"
}

# Every library must be one of its own: with the system's among them it might work by chance.
check_server() {
    local home=$1 program foreign
    for program in postgres initdb psql pg_basebackup; do
        foreign=$(as_server_user "$home"/usr/lib*/*/ld-linux*.so.2 --list "$home/bin/$program" \
            | awk '/=>/ && $3 !~ "^'"$home"'/" || /not found/') || die "$home/bin/$program does not load"
        [ -z "$foreign" ] || die "$home/bin/$program would take libraries from elsewhere: $foreign"
    done
    as_server_user "$home/bin/postgres" --version >/dev/null || die "$home/bin/postgres does not run"
}

# The directory that holds the servers. User postgres runs them, who may not enter a home directory: what the cache in
# one has is a link.
server_place() { if as_server_user test -x "$cache"; then echo "$cache"; else echo /var/cache/walfs-test; fi; }

# bring_server NAME FROM CHECK BUILD...: built beside and moved in place when whole, as the tools of cargo are.
bring_server() {
    local name=$1 from=$2 check=$3 began=$SECONDS
    local home=$place/$name work=$cache/build-$name log=$cache/log-$name
    shift 3
    if [ ! -x "$home/bin/postgres" ]; then
        say "bringing $name from $from into $home; log: $log"
        rm -rf "$work"
        mkdir -p "$work/root"
        with_pulse "$log" "$@" "$home"
        put_in_place "$work/root" "$home"
        say "  $(du -sh "$home" | cut -f1) unpacked, $((SECONDS - began)) s"
        rm -rf "$work"
    fi
    [ "$place" = "$cache" ] || ln -sfn "$home" "$cache/$name"
    "$check" "$home"
    say "$(as_server_user "$home/bin/postgres" --version) in $home"
}

# Over file systems mv copies, which can be interrupted: so it copies to beside, and renames.
put_in_place() {
    local from=$1 home=$2 as=
    [ -w "$(dirname "$home")" ] || as=as_root
    $as rm -rf "$home" "$home.new"
    $as cp -a --no-preserve=ownership "$from" "$home.new"
    $as mv "$home.new" "$home"
}

# Every major of the matrix that the system itself has not got. One run at a time brings some: the lock is on the
# directory itself, because two users may share it. What cannot be had for a machine of this kind is said; what should
# be there and is not ends this run.
need_matrix() {
    local major place from_npm=() from_debian=()
    for major in $matrix_majors; do
        case $(source_of "$major") in
            system) ;;
            npm) from_npm+=("$major") ;;
            debian) from_debian+=("$major") ;;
            *) say "PostgreSQL $major cannot be had beside this system's: the tests run without it" ;;
        esac
    done
    need_commands runuser:util-linux flock:util-linux
    mkdir -p "$cache"
    place=$(server_place)
    [ -d "$place" ] || as_root install -d -m 0755 "$place"
    exec 9<"$place"
    flock -n 9 || { say "another run is bringing PostgreSQL: waiting for it"; flock 9; }
    [ ${#from_npm[@]} = 0 ] || bring_from_npm "${from_npm[@]}"
    [ ${#from_debian[@]} = 0 ] || bring_from_debian "${from_debian[@]}"
    exec 9<&-
}

# Where a major comes from. A server without clients needs those of the same or a later version.
source_of() {
    local major=$1 newest
    newest=$(postgres_versions | tr ' ' '\n' | grep . | tail -1)
    if [[ " $(postgres_versions)" == *" $major "* ]]; then
        echo system
    elif [ -n "$(suites_of "$major")" ] && is_debian; then
        echo debian
    elif [ -n "$(npm_version_of "$major")" ] && [ "$(uname -m)" = x86_64 ] && { is_debian || [ "$major" -lt "$newest" ]; }; then
        echo npm
    else
        echo nowhere
    fi
}

bring_from_debian() {
    local major mirror
    need_commands patchelf:patchelf dpkg-deb:dpkg
    mirror=$(debian_mirror)
    # Where apt's lists were removed, as in a container's image, it does not know whose mirrors it has.
    [ -n "$mirror" ] || { apt_update; mirror=$(debian_mirror); }
    [ -n "$mirror" ] || die "apt has no Debian mirror to bring PostgreSQL $* from" "run this on Debian"
    for major in "$@"; do
        bring_server "postgresql-$major" "Debian's $(suites_of "$major")" check_server build_server "$major" "$mirror"
    done
}
