# SPDX-License-Identifier: MPL-2.0
# shellcheck shell=bash
#
# Sourced by stylize.sh and test.sh: makes sure that what they need is installed.

debian_packages=(
    build-essential
    pkg-config
    libgstreamer1.0-dev
    libgstreamer-plugins-base1.0-dev
    gstreamer1.0-tools
    gstreamer1.0-plugins-base
    gstreamer1.0-plugins-good
    gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly
    gstreamer1.0-libav
)
rust_needed=1.95

# Prints what is not there of a C compiler, pkg-config, the libraries and the elements.
missing_parts() {
    local module element
    command -v cc >/dev/null || echo "a C compiler (cc)"
    if command -v pkg-config >/dev/null; then
        for module in gstreamer-1.0 gstreamer-base-1.0 gstreamer-video-1.0 gstreamer-app-1.0 gstreamer-check-1.0 \
            gstreamer-controller-1.0 gstreamer-pbutils-1.0; do
            pkg-config --exists "$module" || echo "the development files of $module"
        done
    else
        echo "pkg-config"
    fi
    if command -v gst-inspect-1.0 >/dev/null; then
        for element in uridecodebin videoconvert videoflip x264enc avdec_h264 mp4mux opusenc; do
            gst-inspect-1.0 --exists "$element" || echo "the GStreamer element $element"
        done
    else
        echo "the GStreamer tools (gst-inspect-1.0)"
    fi
}

install_debian_packages() {
    local package packages=() sudo=()
    for package in "${debian_packages[@]}"; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
            packages+=("$package")
    done
    [[ ${#packages[@]} -gt 0 ]] || return 0
    if [[ $EUID -ne 0 ]]; then
        sudo=(sudo)
        if ! command -v sudo >/dev/null; then
            echo "Please install as root: apt-get install ${packages[*]}" >&2
            return 1
        fi
    fi
    echo "Installing ${packages[*]}" >&2
    # The package lists are fetched only if there are none, or too old ones.
    apt_install "${packages[@]}" || { "${sudo[@]}" apt-get update >&2 && apt_install "${packages[@]}"; }
}

apt_install() {
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" >&2
}

print_packages_elsewhere() {
    cat >&2 <<'EOF'
Please install GStreamer with its development files and plugins, a C compiler and pkg-config:
  Fedora  dnf install gcc pkgconf-pkg-config gstreamer1-devel gstreamer1-plugins-base-devel gstreamer1-plugins-good \
              gstreamer1-plugins-bad-free gstreamer1-plugins-ugly gstreamer1-plugin-libav
          (the last two are in RPM Fusion)
  Arch    pacman -S base-devel gstreamer gst-plugins-base gst-plugins-good gst-plugins-bad gst-plugins-ugly gst-libav
  macOS   xcode-select --install; brew install pkgconf gstreamer
  others  GStreamer 1.20 or newer with the plugin sets base, good, bad, ugly and libav
EOF
}

# Prints the version of Rust in use, as 1.95.
rust_version() {
    rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\.[0-9]*\).*/\1/p'
}

check_rust() {
    local version
    # Without Rust it fails, and the message below is due.
    version=$(rust_version) || true
    command -v cargo >/dev/null && [[ -n $version ]] &&
        printf '%s\n' "$rust_needed" "$version" | sort --version-sort --check=quiet && return
    if command -v rustup >/dev/null; then
        echo "Rust $rust_needed or newer is needed, found: ${version:-none}. To get it: rustup update stable" >&2
    else
        echo "Rust $rust_needed or newer is needed, found: ${version:-none}. Get it from https://rustup.rs" >&2
    fi
    return 1
}

# Installs what is missing, or says what to install.
install_missing() {
    local missing
    check_rust
    missing=$(missing_parts)
    [[ -n $missing ]] || return 0
    printf 'Missing:\n%s\n' "$missing" >&2
    if ! command -v apt-get >/dev/null; then
        print_packages_elsewhere
        return 1
    fi
    install_debian_packages
    missing=$(missing_parts)
    if [[ -n $missing ]]; then
        printf 'Still missing:\n%s\n' "$missing" >&2
        return 1
    fi
}

# Prints where cargo puts what it builds.
target_directory() {
    cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
