"""Who draws: in this process (`local`), or elsewhere behind the same interface (`contract`)."""
