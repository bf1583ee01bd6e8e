"""See that the programs the tests drive are here: installed by apt on Debian as root, else named and refused."""

import ctypes
import os
import shutil
import subprocess
import sys

#: program that a test runs -> Debian package that holds it
PROGRAMS = {
    "chromium": "chromium",
    "ip": "iproute2",
    "jq": "jq",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "promtool": "prometheus",
    "unshare": "util-linux",
}

#: the same for libraries: Triton's Python backend runs the interpreter of this environment's version as a library
LIBRARIES = {f"libpython3.{sys.version_info.minor}.so.1.0": f"libpython3.{sys.version_info.minor}"}

#: programs alone for `make images-check`, which is no part of the tests
IMAGE_PROGRAMS = {"buildah": "buildah", "crun": "crun", "debootstrap": "debootstrap"}


def loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> int:
    images = arguments == ["images"]
    programs = IMAGE_PROGRAMS if images else PROGRAMS
    missing = {package for program, package in programs.items() if shutil.which(program) is None}
    missing |= {package for library, package in ({} if images else LIBRARIES).items() if not loads(library)}
    packages = sorted(missing)
    if not packages:
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"These packages are needed and not installed: {' '.join(packages)}", file=sys.stderr)
        return 1
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, env=environment
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
