"""See that the programs the tests drive are here: installed by apt on Debian as root, else named and refused."""

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


def main() -> int:
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not packages:
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"The tests need these packages, which are not installed: {' '.join(packages)}", file=sys.stderr)
        return 1
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, env=environment
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
