"""The run program: `python -m marsam_trainer.run train | plan`. It knows torch and no gRPC; it speaks through the
object store."""
