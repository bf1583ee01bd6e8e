#!/bin/sh
# Starts whichever store the image holds, with one identity, S3 on port 9000.
set -eu
data=${DATA:-/data}
if command -v weed >/dev/null; then
  identities=${TMPDIR:-/tmp}/s3.json
  cat > "$identities" <<JSON
{"identities": [{"name": "marsam", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "$MINIO_ROOT_USER", "secretKey": "$MINIO_ROOT_PASSWORD"}]}]}
JSON
  exec weed server -dir="$data" -ip=127.0.0.1 -ip.bind=0.0.0.0 -filer -s3 -s3.port=9000 -s3.config="$identities" \
    -s3.port.iceberg=0 -s3.port.lance=0 -s3.autoCreateBucket=false -volume.max=0 -master.volumeSizeLimitMB=1024
fi
for program in silo minio; do
  if command -v "$program" >/dev/null; then exec "$program" server "$data" --address :9000; fi
done
echo "this image holds neither SeaweedFS nor silo: set MARSAM_STORE_IMAGE" >&2
exit 1
