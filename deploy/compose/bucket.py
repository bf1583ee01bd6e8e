"""Makes the bucket `marsam` in the store of compose.yaml, if it is not there; fails until it can, to be tried again."""

import os

from minio import Minio

store = Minio("store:9000", os.environ["MARSAM_S3_ACCESS_KEY"], os.environ["MARSAM_S3_SECRET_KEY"], secure=False)
if not store.bucket_exists("marsam"):
    store.make_bucket("marsam")
