"""The store of compose.yaml, by its own script with a real SeaweedFS, in a network of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "deploy/compose"
# The network namespace makes port 9000 ours and nobody else's; the mount namespace gives the name `store` an address.
ALONE = ["unshare", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-euc"]
STORY = """
ip link set lo up
mount --bind hosts /etc/hosts
sh "$1/s3.sh" > log 2>&1 &
for attempt in $(seq 60); do
  if "$0" "$1/bucket.py" 2> error; then break; fi
  sleep 0.5
done
"$0" "$1/bucket.py" && echo "made, and found again"
if MARSAM_S3_SECRET_KEY=another "$0" "$1/bucket.py" 2> refused; then echo "let a stranger in"; fi
tail -1 refused
"""


@pytest.mark.slow
def test_the_script_starts_a_store_that_knows_its_user_and_the_bucket_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "hosts").write_text("127.0.0.1 localhost store\n")
    keys = {"MARSAM_S3_ACCESS_KEY": "marsam", "MARSAM_S3_SECRET_KEY": "a-secret-key"}
    done = subprocess.run(
        [*ALONE, STORY, sys.executable, str(FOLDER)],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATA": str(tmp_path / "data"),
            "TMPDIR": str(tmp_path),
            "GOMEMLIMIT": "400MiB",
            "MINIO_ROOT_USER": keys["MARSAM_S3_ACCESS_KEY"],
            "MINIO_ROOT_PASSWORD": keys["MARSAM_S3_SECRET_KEY"],
            **keys,
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    found, refused = done.stdout.splitlines()
    assert found == "made, and found again"
    assert "SignatureDoesNotMatch" in refused
