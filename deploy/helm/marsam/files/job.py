"""`helm test`: would the cluster take a run's Job? Asked for every profile on trial, by the trainer's own account."""

import sys
from pathlib import Path

from kubernetes import client

from marsam.core.errors import MarsamError
from marsam.launch.kubernetes.cluster import connect
from marsam.launch.kubernetes.manifest import job
from marsam.launch.kubernetes.profiles import read_cluster_file
from marsam.launch.launcher import Program

try:
    file = read_cluster_file(Path(sys.argv[1]))
    jobs = client.CustomObjectsApi(connect(file.namespace).api)
except MarsamError as error:
    sys.exit(f"{error.reason}: {error.message} ({error.remedy})")
failed = False
for name in file.profiles:
    program = Program(argv=("true",), log_path=Path("/tmp/trial.log"), profile=name)
    try:
        jobs.create_namespaced_custom_object(
            "batch", "v1", file.namespace, "jobs", job(file, program, key=f"trial.{name}"),
            dry_run="All", field_validation="Strict",
        )  # fmt: skip
        print(f"profile {name}: the cluster takes its Job")
    except client.ApiException as error:
        failed = True
        print(f"profile {name}: {error.status} {error.body}", file=sys.stderr)
sys.exit(failed)
