"""The store on S3, through the `minio` client; nothing outside this package knows of it."""
